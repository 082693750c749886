"""People before other backgrounds."""

from pathlib import Path

import numpy as np
import pytest

from shards.crop import BrokenImage
from tests.training.tasks.samples import COLOURS, jpeg, png, sample
from training.config import UsageError
from training.labels.decode import depth_to_png, normals_to_png, parts_to_png
from training.labels.sets import IGNORE
from training.tasks import depth, normals, parts
from training.tasks.background import Backgrounds, paste

SIZE = (128, 96)
BLUE, ORANGE = (0, 0, 255), (255, 128, 0)


@pytest.fixture
def backgrounds(tmp_path: Path) -> Backgrounds:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "sky.JPG").write_bytes(jpeg(np.full((90, 120, 3), BLUE, np.uint8)))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "deeper" / "._sky.JPG").write_bytes(b"\0\5\x16\7")  # as macOS leaves it
    return Backgrounds.from_folder(tmp_path)


def disc() -> np.ndarray:
    y, x = np.indices((160, 120))
    return np.hypot(x - 60, y - 80) < 40


def photo() -> bytes:
    return png(np.where(disc()[..., None], ORANGE, (40, 40, 40)).astype(np.uint8))


BOX = (20, 40, 101, 121)


def test_a_seam_is_soft_and_the_rest_is_whole() -> None:
    person, behind = np.full((9, 9, 3), 200, np.uint8), np.zeros((9, 9, 3), np.uint8)
    mask = np.zeros((9, 9), bool)
    mask[:, :4] = True
    row = paste(person, mask, behind)[4, :, 0]
    np.testing.assert_array_equal(row, [200, 200, 200, 150, 50, 0, 0, 0, 0])


def test_people_keep_their_pixels_and_the_rest_is_replaced(backgrounds: Backgrounds) -> None:
    label, near, far = depth_to_png(np.where(disc(), np.indices((160, 120))[0] / 50 + 1, np.nan))
    vectors = np.where(disc()[..., None], [0.0, 0, 1], np.nan)
    cases = [
        (
            parts.Draw(SIZE, COLOURS, True, backgrounds),
            sample(photo(), parts_to_png(disc().astype(np.uint8) * 3), BOX),
            0.8,
        ),
        (depth.Draw(SIZE, None, True, backgrounds), sample(photo(), label, BOX, near=near, far=far), 0.5),
        (normals.Draw(SIZE, None, True, backgrounds), sample(photo(), normals_to_png(vectors), BOX), 0.5),
    ]
    for draw, given, chance in cases:
        replaced = 0
        for key in range(100):
            image, targets = draw(given, key)
            (target,) = targets.values()
            person = {"classes": target == 3, "depth": target >= 0, "normals": (target != 0).any(-1)}[
                next(iter(targets))
            ]
            view = draw.view(given, key)
            around = ~person & view.holds(160, 120)
            blue, red = image[around].mean(0)[2], image[person].mean(0)[0]
            is_new = blue > image[around].mean(0)[0] + 60  # whatever the colours' distortion did
            replaced += is_new
            assert red > image[person].mean(0)[2] + 30
            if is_new and "classes" in targets:
                assert IGNORE not in target  # what lay beyond the photo is now the new background
        assert abs(replaced - 100 * chance) < 15


def test_ignored_pixels_of_the_photo_stay(backgrounds: Backgrounds) -> None:
    classes = np.where(disc(), IGNORE, 0).astype(np.uint8)
    draw = parts.Draw(SIZE, COLOURS, True, backgrounds)
    given = sample(photo(), parts_to_png(classes), BOX)
    for key in range(20):
        image, targets = draw(given, key)
        inside = (targets["classes"] == IGNORE) & draw.view(given, key).holds(160, 120)
        assert image[inside].mean(0)[0] > image[inside].mean(0)[2] + 30


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no background pictures"):
        Backgrounds.from_folder(tmp_path)


def test_a_broken_background_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(BrokenImage, match=r"bad\.jpg cannot be read"):
        Backgrounds.from_folder(tmp_path).picture(SIZE, 1)
