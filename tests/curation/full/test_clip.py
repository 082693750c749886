"""CLIP's embeddings and the questions asked of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from curation.errors import UsageError
from curation.full.clip import Clip, Question, find_clip, fit, load_clip
from curation.full.concepts import Concept

Photos = list[NDArray[np.uint8]]
CONCEPT = Concept(yes=("a painting", "a cartoon"), no=("a photo",), templates=("{}", "an image of {}"))


def test_embeddings_are_those_of_open_clip(clip_folder: Path, photos: Photos) -> None:
    import open_clip

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    with torch.no_grad():
        wanted = model.encode_image(
            torch.stack([preprocess(Image.fromarray(p)) for p in photos]), normalize=True
        ).numpy()
    exact = Clip(find_clip(str(clip_folder)), precision="fp32").embed(photos)
    quick = Clip(find_clip(str(clip_folder))).embed(photos)
    assert np.abs(exact - wanted).max() < 1e-4
    assert (quick * wanted).sum(1).min() > 0.999
    assert np.allclose(np.linalg.norm(quick, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_pictures_are_cut_as_open_clip_cuts_them(mode: str, photos: Photos) -> None:
    from open_clip.transform import image_transform

    transform = image_transform(224, is_train=False, resize_mode=mode)
    geometry = [step for step in transform.transforms if type(step).__name__ in {"Resize", "CenterCrop"}]
    for photo in photos:
        wanted = Image.fromarray(photo)
        for step in geometry:
            wanted = step(wanted)
        assert np.array_equal(fit(photo, 224, mode, "bicubic"), np.asarray(wanted))


def test_of_a_strip_only_the_middle_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 x 2,047 pixels would become 224 x 458,528."""
    strip = np.zeros((2047, 2, 3), np.uint8)
    strip[1020:1028] = 255
    sizes, real = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *a: sizes.append(size) or real(self, size, *a))
    for picture in (strip, strip.transpose(1, 0, 2)):
        cut = fit(picture, 224, "shortest", "bicubic")
        assert cut.shape == (224, 224, 3)
        assert cut.min() > 250
    assert max(map(max, sizes)) == 16 * 224


def test_pictures_that_are_not_square_are_refused(clip_folder: Path, tmp_path: Path, photos: Photos) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "oblong")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = [64, 32]
    config.get("preprocess_cfg", {})["size"] = [64, 32]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"weights\.clip"):
        Clip(find_clip(str(folder))).embed(photos[:1])


def test_words_are_understood_by_a_process_that_loads_no_pictures(clip_folder: Path, session_cache: Path) -> None:
    """The image tower comes from the cache; open_clip is then imported for the words alone."""
    code = (
        "import sys; from curation.full.clip import Clip, find_clip; from curation.full.concepts import Concept; "
        "Clip(find_clip(sys.argv[1])).asked(Concept(yes=['a red hat'], no=['nothing']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(clip_folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_alone_is_asked_for_its_model(clip_folder: Path) -> None:
    file = clip_folder / "open_clip_model.safetensors"
    with pytest.raises(UsageError, match=f"{file} is a file; write open_clip's name of its model before it: ViT-B-32/"):
        find_clip(str(file))


def test_no_model_is_called_random_whose_weights_are_loaded(
    clip_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_clip(find_clip(str(clip_folder)))
    assert "randomly" not in caplog.text


def test_a_tokenizer_that_is_not_here_is_one_sentence(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def absent(name: str) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(open_clip, "get_tokenizer", absent)
    with pytest.raises(UsageError, match=r"the tokenizer of local-dir:.* cannot be loaded: no network at all"):
        Clip(find_clip(str(clip_folder))).asked(CONCEPT.model_copy(update={"yes": ("nobody asked this",)}))


def test_an_ensemble_is_normalised_twice(clip_folder: Path, session_cache: Path) -> None:
    import open_clip

    question = Clip(find_clip(str(clip_folder))).asked(CONCEPT)
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{clip_folder}")(["a cartoon", "an image of a cartoon"])
    with torch.no_grad():
        mean = model.encode_text(tokens, normalize=True).mean(0)
    assert np.allclose(question.classes[1], (mean / mean.norm()).numpy(), atol=1e-5)
    assert question.yes == 2
    assert question.scale == pytest.approx(100, rel=1e-4)
    assert list((session_cache / "prompts").glob("*.npz")), "the answer is kept for the next start"


def test_chances_of_yes_add_up_the_yes_classes() -> None:
    classes = np.eye(3, dtype=np.float32)
    answer = Question(classes, scale=2.0, yes=2).answer(np.array([[1, 0, 0], [0, 0, 1]], np.float32))
    e = np.exp(2.0)
    assert answer == pytest.approx([(e + 1) / (e + 2), 2 / (e + 2)])


def test_weights_that_do_not_fit_are_refused(clip_folder: Path, tmp_path: Path, photos: Photos) -> None:
    from safetensors.torch import save_file

    state = load_file(clip_folder / "open_clip_model.safetensors")
    save_file({name: value for name, value in state.items() if name != "visual.proj"}, tmp_path / "half.safetensors")
    with pytest.raises(UsageError, match="does not fit open_clip's ViT-B-32"):
        Clip(find_clip(f"ViT-B-32/{tmp_path / 'half.safetensors'}")).embed(photos[:1])


@pytest.mark.parametrize(
    ("spec", "said"),
    [("ViT-B-32/nonsense", "no weights ViT-B-32/nonsense; ViT-B-32 has openai"), ("What/ever", "models are")],
)
def test_unknown_names_are_explained(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_clip(spec)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must hold open_clip_config.json"):
        find_clip(str(tmp_path))
