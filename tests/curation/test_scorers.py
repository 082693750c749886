"""What the scorers make of pixels, and that one image's exception stays that image's."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from curation import score
from curation.batch import Batch
from curation.decode import decode
from curation.errors import Stopped
from curation.recipe import Recipe, load_recipe
from curation.record import load_record
from curation.run import Workplace, curate
from curation.scorers.boxes import to_structs
from curation.scorers.concepts import Concepts
from curation.scorers.fingerprint import Fingerprint
from curation.scorers.quality import Quality
from curation.scorers.text import text_columns
from curation.verify import verify
from manifests.store import Store
from tests.curation.photos import encode, jpeg, scene, write


def batch_of(*images: Image.Image) -> Batch:
    data = [encode(image, "PNG") for image in images]
    return Batch(data, [decode(d) for d in data])


def distance(one: Image.Image, other: Image.Image) -> int:
    a, b = Fingerprint().score(batch_of(one, other))["phash"]
    assert a is not None
    assert b is not None
    return (a ^ b).bit_count()


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_keeps_its_fingerprint_and_another_photo_has_its_own(seed: int) -> None:
    photo = scene(seed, 640, 480)
    smaller = photo.resize((400, 300), Image.Resampling.LANCZOS)
    assert distance(photo, smaller) <= 4
    assert distance(photo, Image.fromarray(decode(encode(photo, quality=50)).rgb)) <= 4
    assert distance(photo, scene(seed + 100, 640, 480)) > 12


def test_flat_pictures_have_no_fingerprint_and_so_are_no_copies_of_each_other() -> None:
    assert Fingerprint().score(batch_of(Image.new("RGB", (99, 99), "grey")))["phash"] == [None]


def test_blur_and_exposure_order_pictures_as_an_eye_would() -> None:
    photo = scene(1, 640, 480)
    dark = photo.point(lambda v: v // 8)
    columns = Quality().score(
        batch_of(photo, photo.filter(ImageFilter.GaussianBlur(6)), dark, Image.new("RGB", (64, 64), "white"))
    )
    assert columns["blur"][0] > 5 * columns["blur"][1]
    assert columns["exposure"][2] < 0.1 < columns["exposure"][0] < columns["exposure"][3] == 1


def quad(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1, 0.9]


def test_text_area_counts_overlaps_once_and_leaves_out_text_on_people() -> None:
    batch = batch_of(Image.new("RGB", (400, 200)))
    batch.scored["person_boxes"] = [[{"x0": 0.0, "y0": 0.0, "x1": 100.0, "y1": 200.0, "score": 0.8}]]
    quads = np.array([quad(0, 0, 200, 100), quad(100, 0, 200, 100), quad(50, 0, 200, 100)], np.float32)
    columns = text_columns(batch, [quads])
    assert columns["text_area"][0] == pytest.approx(0.25, abs=0.01)
    assert columns["text_area_outside"][0] == pytest.approx(0.125, abs=0.01)
    assert columns["text_boxes"][0][0] == pytest.approx({"x0": 0, "y0": 0, "x1": 200, "y1": 100, "score": 0.9})
    batch.scored["person_boxes"][0][0]["score"] = 0.2  # too unsure to excuse the text
    assert text_columns(batch, [quads])["text_area_outside"][0] == pytest.approx(0.25, abs=0.01)
    assert text_columns(batch, [np.empty((0, 9), np.float32)])["text_area"] == [0.0]


@pytest.mark.parametrize("size", [(1024, 768), (640, 480), (100, 300)])
def test_areas_of_thin_lines_are_not_counted_too_large(size: tuple[int, int]) -> None:
    """A line of text is a dozen cells thick: a cell too many would be a tenth."""
    width, height = size
    line = max(size) * 10 / 512  # ten cells
    quads = [quad(0.1 * width, line * (1 + 2 * n), 0.9 * width, line * (2 + 2 * n)) for n in range(4)]
    columns = text_columns(batch_of(Image.new("RGB", size)), [np.array(quads, np.float32)])
    assert columns["text_area"][0] == pytest.approx(4 * line * 0.8 * width / (width * height), rel=0.02)


def test_text_is_measured_where_nobody_looks_for_people(tmp_path: Path) -> None:
    photos = write(tmp_path / "photos", {"a.jpg": jpeg(1)})
    without = [f"rules.{name}=off" for name in ("watermark", "art", "unnatural", "person")]
    recipe = load_recipe("humans300m", ["scorers=[text]", *without])
    counts = curate(str(photos), str(tmp_path / "out"), recipe, place=Workplace(0))
    assert counts.failed == 0
    assert pd.read_parquet(tmp_path / "out" / "manifest").text_area.notna().all()


def test_boxes_are_given_in_pixels_of_the_full_image_and_stay_inside() -> None:
    boxes = to_structs(np.array([[-5, 10, 300, 90, 0.5]], np.float32), (2.0, 3.0), 500, 400)
    assert boxes == [{"x0": 0.0, "y0": 30.0, "x1": 500.0, "y1": 270.0, "score": 0.5}]


def test_what_stops_a_run_is_no_images_fault(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> dict[str, Any]:
        raise Stopped("the GPU is full")

    monkeypatch.setattr(Quality, "score", full)
    score._scorers.cache_clear()
    source = write(tmp_path / "photos", {"0.jpg": jpeg(0)})
    with pytest.raises(Stopped, match="the GPU is full"):
        curate(str(source), str(tmp_path / "out"), plain_recipe, place=Workplace(0))
    score._scorers.cache_clear()


def test_a_scorer_that_fails_on_one_image_fails_that_image(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Quality.score

    def picky(self: Quality, batch: Batch) -> dict[str, Any]:
        if any(picture.width == 161 for picture in batch.pictures):
            raise ArithmeticError("161 is not my number")
        return real(self, batch)

    monkeypatch.setattr(Quality, "score", picky)
    score._scorers.cache_clear()
    photos = {f"{i:02d}.jpg": jpeg(i) for i in range(20)} | {"07.jpg": encode(scene(7, 161, 120))}
    counts = curate(str(write(tmp_path / "photos", photos)), str(tmp_path / "out"), plain_recipe, place=Workplace(0))
    score._scorers.cache_clear()
    manifest = pd.read_parquet(tmp_path / "out" / "manifest")
    assert counts.failed == 1
    assert manifest[manifest.verdict == "failed"].error_message.tolist() == ["ArithmeticError: 161 is not my number"]
    assert manifest[manifest.verdict == "failed"].status.tolist() == ["failed_to_score"]
    assert manifest.blur.notna().sum() == 19


def test_without_networks_and_figures_nothing_is_imported_for_them(plain_recipe: Recipe) -> None:
    """It would take longer than most commands."""
    script = (
        "import sys; import curation.run, curation.careful; from curation.recipe import Recipe; "
        "from curation.scorers import make_scorers; make_scorers(Recipe.model_validate_json(sys.argv[1]), 1); "
        "sys.exit(', '.join({'torch', 'openvino', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", script, plain_recipe.model_dump_json()], check=True)


def test_the_demo_photos_with_the_built_in_networks(demo_photos: Path, demo_run: Path) -> None:
    """Every file is accounted for, what was made bad is not kept, and a photo of a person is."""
    counts = load_record(Store(demo_run)).counts
    manifest = pd.read_parquet(demo_run / "manifest")
    name = manifest.uri.str.rsplit("/", n=1).str[-1]
    assert counts.inputs == len(list(demo_photos.rglob("*.*")))
    assert counts.failed == 3
    assert verify(str(demo_run)) == (counts, [])
    kept = set(name[manifest.verdict == "kept"])
    bad = ("watermark-", "poster", "cartoon", "sketch", "collage", "truncated", "empty", "not-an", "tiny", "screenshot")
    assert not {n for n in kept if n.startswith(bad)}
    assert not kept & {"zidane-copy.jpg", "zidane-smaller.jpg", "coins.png", "page.png", "chelsea.png", "coffee.png"}
    best = manifest.person_boxes.map(
        lambda boxes: max((b["score"] for b in boxes), default=0) if boxes is not None else 0
    )
    assert kept & set(name[best > 0.5]) & {"astronaut.png", "zidane.jpg", "bus.jpg", "grace_hopper.jpg"}


def test_a_concept_of_another_name_is_another_question() -> None:
    """Its column is another, even where the same classifier answers."""
    classifier = SimpleNamespace(identity="net@1")
    assert Concepts({"tattoo": classifier}).identity != Concepts({"ink": classifier}).identity  # type: ignore[dict-item]
