"""One name for flag, YAML key and field; every mistake is one sentence that says what is allowed."""

import pytest
import yaml

from training.config import FinetuneConfig, PretrainConfig, UsageError, config_from, load_config, save_config


def made(**values) -> PretrainConfig:
    return config_from(PretrainConfig, {"data": ["x"], **values})


def test_defaults_are_the_published_recipe():
    config = made()
    assert (config.model, config.total_batch, config.image_size) == ("0.3b", 4096, (1024, 1024))
    assert config.peak_lr == pytest.approx(1.5e-4 * 4096 / 256)
    assert (config.mask_ratio, config.beta1, config.beta2, config.weight_decay, config.clip) == (
        0.75,
        0.9,
        0.95,
        0.05,
        1.0,
    )
    assert (config.warmup, config.min_crop) == (40 / 1600, 0.2)


def test_yaml_there_and_back(tmp_path):
    config = made(model="tiny", images="64e3", size="256x192", compile="off")
    save_config(config, tmp_path / "c.yaml")
    assert load_config(PretrainConfig, str(tmp_path / "c.yaml"), {}) == config
    assert load_config(PretrainConfig, str(tmp_path / "c.yaml"), {"seed": "7"}).seed == 7


def test_a_file_that_is_no_yaml_is_told_in_one_line(tmp_path):
    (tmp_path / "c.yaml").write_text("model: [tiny\n")
    with pytest.raises(UsageError, match="cannot be read") as told:
        load_config(PretrainConfig, str(tmp_path / "c.yaml"), {})
    assert "\n" not in str(told.value)


def test_numbers_may_be_written_as_people_do():
    config = made(images="300e6", batch=4096.0, base_lr="1e-3", norm_pix="false")
    assert (config.images, config.batch, config.base_lr, config.norm_pix) == (300_000_000, 4096, 1e-3, False)


def test_a_large_seed_is_the_same_as_a_flag_and_in_a_file():
    assert made(seed="9007199254740993").seed == made(seed=9007199254740993).seed == 9007199254740993


@pytest.mark.parametrize("text", ["data: caf\xe9", "run: 2024-02-30", "data: 2024-13-45", "seed: !!bool foo"])
def test_what_yaml_chokes_on_is_told(tmp_path, text):
    (tmp_path / "c.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(PretrainConfig, str(tmp_path / "c.yaml"), {})


def test_a_name_that_is_no_text_is_told():
    with pytest.raises(UsageError, match="there is no setting '1'"):
        config_from(PretrainConfig, {"data": "x", 1: 2})


def test_a_batch_of_none_is_no_default_of_a_task():
    with pytest.raises(UsageError, match="batch is 0"):
        config_from(FinetuneConfig, {"task": "pose", "data": "x", "out": "y", "batch": "0"})


def test_bare_on_and_off_in_yaml_are_understood(tmp_path):
    (tmp_path / "c.yaml").write_text("data: [x]\ncompile: off\n")
    assert yaml.safe_load("off") is False
    assert load_config(PretrainConfig, str(tmp_path / "c.yaml"), {}).compile == "off"


def test_a_blank_key_is_not_given(tmp_path):
    (tmp_path / "c.yaml").write_text("data: [x]\nrun:\nsize:\nimages:\n")
    config = load_config(PretrainConfig, str(tmp_path / "c.yaml"), {})
    assert (config.run, config.size, config.images) == ("", "", 300_000_000)
    (tmp_path / "c.yaml").write_text("data:\n")
    with pytest.raises(UsageError, match="data must be given"):
        load_config(PretrainConfig, str(tmp_path / "c.yaml"), {})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model": "3b"}, r"model is '3b'; allowed are tiny, 0\.3b"),
        ({"modle": "1b"}, "did you mean 'model'"),
        ({"xyzzy": 1}, "allowed are model, size"),
        ({"decoder": "deep"}, "allowed are self, cross"),
        ({"size": "1000"}, "multiples of 16"),
        ({"size": "big"}, "rows x columns"),
        ({"size": "1024²"}, "rows x columns"),
        ({"data": 5}, "a name or a list of names"),
        ({"data": {"a": "b"}}, "a name or a list of names"),
        ({"run": False}, "run is False; it must be text"),
        ({"resume": False}, "resume is False; it must be text"),
        ({"mask_ratio": 1.5}, r"allowed is 0\.05 to 0\.99"),
        ({"images": "many"}, "must be a whole number"),
        ({"images": 1.5}, "must be a whole number"),
        ({"images": 100}, "less than one batch"),
        ({"norm_pix": "perhaps"}, "must be true or false"),
        ({"clip": "tight"}, "must be a number"),
        ({"keep": 1}, "keep is 1"),
        ({"data": []}, "data is empty"),
        ({"decoder": "cross", "predict_ratio": 0.9}, "cannot exceed mask_ratio"),
    ],
)
def test_mistakes_are_told(values, says):
    with pytest.raises(UsageError, match=says):
        made(**values)


def test_missing_data_and_files_are_told(tmp_path):
    with pytest.raises(UsageError, match="data must be given"):
        config_from(PretrainConfig, {})
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(PretrainConfig, str(tmp_path / "none.yaml"), {})
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UsageError, match="must be a mapping"):
        load_config(PretrainConfig, str(tmp_path / "list.yaml"), {})


def test_accumulation_is_what_is_left_of_the_batch():
    assert made(batch=4096, micro_batch=64).accumulation(8) == 8
    with pytest.raises(UsageError, match="cannot be split over 3 processes x 64 images"):
        made(batch=4096, micro_batch=64).accumulation(3)
