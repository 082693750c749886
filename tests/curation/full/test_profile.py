"""The profile `full` end to end, with weights made here."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from curation import winograd
from curation.errors import UsageError
from curation.full.clip import Clip, find_clip
from curation.recipe import Recipe, from_dict
from curation.run import Workplace, curate, redecide, stages
from curation.verify import verify
from manifests.store import Store


@pytest.fixture
def recipe(yolo_pt: Path, craft_pth: Path, clip_folder: Path) -> Recipe:
    return from_dict(
        {
            "name": "made",
            "profile": "full",
            "scorers": ["people", "text", "watermark", "style", "concepts", "quality"],
            "weights": {"people": str(yolo_pt), "text": str(craft_pth), "clip": str(clip_folder)},
            "concepts": {"dog": {"yes": ["a photo of a dog"], "no": ["a photo of a cat", "a photo of a bus"]}},
            "rules": {"size": "min(width, height) >= 100", "dog": "pdog >= 0"},
        },
        "made",
    )


@pytest.mark.parametrize(
    ("cores", "gib", "ncnn", "workers", "threads"),
    [  # a machine sold with 4 GiB a core has a little less
        (2, 24, True, 2, 1),
        (8, 30.9, True, 8, 1),
        (8, 26, True, 4, 2),
        (8, 15.4, True, 4, 2),
        (8, 15.4, False, 4, 2),
        (8, 16.5, False, 8, 1),
        (7, 16, True, 3, 2),
        (4, 2, True, 1, 4),
    ],
)
def test_workers_are_as_many_as_the_memory_holds(
    cores: int, gib: float, ncnn: bool, workers: int, threads: int, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(winograd, "is_quicker_here", lambda: ncnn)
    monkeypatch.setattr("curation.run.cores", lambda: cores)
    monkeypatch.setattr("curation.run.memory", lambda: int(gib * 2**30))
    place = Workplace().suited_to(recipe)
    assert (place.processes, place.threads) == (workers, threads)
    assert Workplace(5).suited_to(recipe).processes == 5
    assert Workplace().suited_to(recipe.model_copy(update={"profile": "builtin"})).processes == cores


def test_a_run_fills_every_column(recipe: Recipe, photos: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(folder / f"{number}.jpg", quality=95)
    counts = curate(str(folder), str(tmp_path / "out"), recipe, place=Workplace(0))
    assert counts.kept == len(photos)
    table = pd.read_parquet(tmp_path / "out" / "manifest")
    assert (table["person_boxes"].map(len) > 0).all()
    for column in ("text_area", "pwatermark", "partistic", "punnatural", "pdog"):
        assert table[column].between(0, 1).all(), column
    models = dict(table["models"][0])
    assert models["people"].startswith("yolo11n-made@")
    assert models["text"].startswith("craft_mlt_25k@")
    assert "+watermark:" in models["watermark"]

    asked_otherwise = from_dict(
        {**recipe.model_dump(), "concepts": {"dog": {"yes": ["a drawing of a dog"], "no": ["a photo of a cat"]}}},
        "made",
    )
    with pytest.raises(UsageError, match=r"^concepts not scored in this run by the recipe's networks; run"):
        redecide(str(tmp_path / "out"), asked_otherwise)
    redecide(str(tmp_path / "out"), recipe.model_copy(update={"rules": {"dog": "pdog >= 0.5"}}))


def test_embeddings_are_kept_in_clip_retrievals_layout(
    clip_folder: Path, photos: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    recipe = from_dict(
        {
            "name": "kept",
            "profile": "full",
            "scorers": ["quality", "embedding"],
            "weights": {"clip": str(clip_folder)},
            "rules": {"exposure": "exposure > 0"},
        },
        "kept",
    )
    source, out = tmp_path / "photos", tmp_path / "out"
    source.mkdir()
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(source / f"{number}.png")
    (source / "1x.png").write_bytes(b"no picture")
    curate(str(source), str(out), recipe, place=Workplace(0))
    vectors = np.load(out / "embeddings" / "img_emb" / "img_emb_00000.npy")
    metadata = pd.read_parquet(out / "embeddings" / "metadata" / "metadata_00000.parquet")
    assert vectors.dtype == np.float16
    assert np.abs(vectors.astype(np.float32) - Clip(find_clip(str(clip_folder))).embed(photos)).max() < 1e-3
    manifest = pd.read_parquet(out / "manifest")
    assert metadata.row.tolist() == [0, 1, 3, 4]
    assert metadata.uid.tolist() == manifest.uid[metadata.row].tolist()
    assert metadata.image_path.tolist() == manifest.uri[metadata.row].tolist()
    assert verify(str(out))[1] == []

    (source / "1x.png").write_bytes((source / "1.png").read_bytes())
    with stages(Store(out), Console(quiet=True), Workplace(0)) as stage:
        record = stage.plan(str(source), recipe)
        stage.score(record, retry=True)
        stage.decide(record)
        stage.pack(record)
    assert len(np.load(out / "embeddings" / "img_emb" / "img_emb_00000.npy")) == 5
    assert verify(str(out))[1] == []
    np.save(out / "embeddings" / "img_emb" / "img_emb_00000.npy", np.roll(vectors, 1, 0))
    assert any("img_emb_00000.npy" in fault or "embeddings" in fault for fault in verify(str(out))[1])


def test_embeddings_are_for_the_profile_full() -> None:
    with pytest.raises(UsageError, match="the scorer 'embedding' is for `profile: full`"):
        from_dict({"name": "r", "scorers": ["embedding"], "rules": {}}, "r")


def test_a_classifier_answers_instead_of_words(recipe: Recipe, tmp_path: Path, photos: list[NDArray[np.uint8]]) -> None:
    from curation.full.torchvision_ops import make_importable

    make_importable()
    import timm
    from safetensors.torch import save_file

    from curation.full.classifier import TrainedAnswer
    from curation.full.concepts import Classifier

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=2).eval()
    save_file(net.state_dict(), tmp_path / "marks.safetensors")
    no, yes = (
        Classifier(model="resnet10t", weights=str(tmp_path / "marks.safetensors"), yes=index, size=64)
        for index in (0, 1)
    )
    answers = [TrainedAnswer(one, precision="fp32").answer(photos) for one in (no, yes)]
    assert np.allclose(answers[0] + answers[1], 1, atol=1e-4)
    cropped = yes.model_copy(update={"resize": "shortest"})
    assert len({TrainedAnswer(one).identity for one in (no, yes, cropped)}) == 3


def test_a_classifier_sees_the_colours_that_its_model_was_trained_on(tmp_path: Path) -> None:
    """timm's ViTs take -1…1, most others ImageNet's mean and deviation; the reference is timm's own transform."""
    from curation.full.torchvision_ops import make_importable

    make_importable()
    import timm
    from safetensors.torch import save_file

    from curation.full.classifier import TrainedAnswer
    from curation.full.concepts import Classifier

    picture = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    for model in ("test_vit", "resnet10t"):
        torch.manual_seed(0)
        net = timm.create_model(model, num_classes=2).eval()
        save_file(net.state_dict(), tmp_path / "marks.safetensors")
        settings = timm.data.resolve_model_data_config(net)
        mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))
        with torch.no_grad():
            expected = net((torch.from_numpy(picture).permute(2, 0, 1) / 255 - mean)[None] / std).softmax(1)[0, 1]
        given = Classifier(model=model, weights=str(tmp_path / "marks.safetensors"), yes=1, size=160)
        assert TrainedAnswer(given, precision="fp32").answer([picture])[0] == pytest.approx(float(expected), abs=1e-4)


def test_weights_that_cannot_be_used_end_the_run(
    yolo_pt: Path, photos: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    """Every image failed, each for the same reason, and the run ended well."""
    folder, half = tmp_path / "photos", tmp_path / "half.pt"
    folder.mkdir()
    Image.fromarray(photos[3]).save(folder / "0.jpg")
    half.write_bytes(yolo_pt.read_bytes()[:100_000])
    wanted = {"name": "half", "profile": "full", "scorers": ["people"], "weights": {"people": str(half)}, "rules": {}}
    with pytest.raises(UsageError, match=r"^weights.people: .*half.pt is no ultralytics model"):
        curate(str(folder), str(tmp_path / "out"), from_dict(wanted, "half"), place=Workplace(0))
    assert not list((tmp_path / "out" / "scores").glob("*"))


def test_another_configuration_of_a_folder_is_another_model(clip_folder: Path, tmp_path: Path) -> None:
    folder = Path(copytree(clip_folder, tmp_path / "clip"))
    before = Clip(find_clip(str(folder))).identity
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace('"preprocess_cfg": {', '"preprocess_cfg": {"resize_mode": "squash", '))
    assert Clip(find_clip(str(folder))).identity != before


def test_without_weights_and_network_the_run_says_so(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curation.scorers import make_scorers

    monkeypatch.setenv("SAPIENS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    bare = from_dict({**recipe.model_dump(), "weights": {}}, "bare")
    with pytest.raises(UsageError, match=r"yolo11n.pt is not on this machine and cannot be downloaded"):
        make_scorers(bare, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"profile": "builtin"}, "`weights` is for `profile: full`"),
        ({"weights": {"face": "x"}}, "'face' is no network; there are people, text, clip"),
        ({"classifiers": {"cat": {"model": "m", "weights": "w", "yes": 0}}}, "'cat' is no concept"),
        ({"concepts": {"text": {"yes": ["a"], "no": ["b"]}}}, "'text' cannot be the name"),
        ({"concepts": {"hash": {"yes": ["a"], "no": ["b"]}}}, "'hash' cannot be the name"),
        ({"concepts": {}}, "have both or neither"),
        ({"concepts": {"dog": {"yes": ["dog"], "no": ["cat"], "templates": ["a {c}"]}}}, "'a {c}' has no {} for"),
        ({"concepts": {"dog": {"yes": ["dog", " "], "no": ["cat"]}}}, "concepts.dog.yes: a phrase is empty"),
    ],
)
def test_settings_that_do_not_fit_are_named(recipe: Recipe, change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        from_dict({**recipe.model_dump(), **change}, "made")
