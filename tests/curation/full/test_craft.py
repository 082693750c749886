"""The text detector gives what EasyOCR's `Reader.detect` gives."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from curation.errors import UsageError
from curation.full.craft import (
    LINK_THRESHOLD,
    LOW_TEXT,
    SIDE,
    TEXT_THRESHOLD,
    TextDetector,
    canvas,
    find_words,
    load_craft,
)
from curation.full.torchvision_ops import make_importable

Photos = list[NDArray[np.uint8]]


@pytest.mark.usefixtures("library")
def test_lines_are_those_of_the_reader(craft_pth: Path, photos: Photos) -> None:
    small = [photos[2], photos[3]]
    for found, photo in zip(TextDetector(craft_pth, precision="fp32").text(small), small, strict=True):
        wanted = detected(craft_pth, photo)
        assert len(found) == len(wanted) > 0
        assert np.abs(found[:, :8] - wanted).max() <= 1
        assert (found[:, 8] > 0.7).all()


@pytest.mark.parametrize("smooth", [1.5, 2, 4])
def test_words_are_those_of_easyocr(smooth: float) -> None:
    """Also at the edges, where words touch, and where a word is nearly square."""
    make_importable()
    from easyocr.craft_utils import getDetBoxes

    noise = np.random.default_rng(0).random((2, 200, 150)).astype(np.float32)
    blurred = [cv2.GaussianBlur(plane, (0, 0), smooth) for plane in noise]
    chance, link = (((plane - plane.min()) / np.ptp(plane)).astype(np.float32) for plane in blurred)
    wanted, _, _ = getDetBoxes(chance, link, TEXT_THRESHOLD, LINK_THRESHOLD, LOW_TEXT)
    found = find_words(chance, link)
    assert len(found) == len(wanted) > 0
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.usefixtures("library")
def test_bf16_maps_stay_near(craft_pth: Path, photos: Photos) -> None:
    pictures = [canvas(photos[3])[0]]
    exact = TextDetector(craft_pth, precision="fp32")._runner(pictures)[0][0]
    quick = TextDetector(craft_pth)._runner(pictures)[0][0]
    assert np.abs(exact - quick).mean() < 0.02
    assert np.abs(exact - quick).max() < 0.15


def test_the_canvas_is_easyocrs() -> None:
    make_importable()
    from easyocr.imgproc import resize_aspect_ratio

    image = np.random.default_rng(0).integers(0, 256, (1001, 777, 3), np.uint8)
    wanted, wanted_ratio, _ = resize_aspect_ratio(image, SIDE, cv2.INTER_LINEAR)
    found, ratio = canvas(image)
    assert np.array_equal(found, wanted)
    assert ratio == wanted_ratio


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "craft_mlt_25k.pth")
    with pytest.raises(UsageError, match="is not a state dict of EasyOCR's CRAFT"):
        load_craft(tmp_path / "craft_mlt_25k.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*craft_mlt_25k.pth; give EasyOCR's"):
        TextDetector(tmp_path)


def detected(folder: Path, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [n,8]: the corners that EasyOCR's own functions find, lines first, then tilted boxes."""
    make_importable()
    from easyocr.detection import get_detector, get_textbox
    from easyocr.easyocr import Reader

    class DetectorOnly(Reader):
        def __init__(self) -> None:
            self.detector = get_detector(str(folder / "craft_mlt_25k.pth"), quantize=False)
            self.get_textbox, self.device = get_textbox, "cpu"

    ((level,), (tilted,)) = DetectorOnly().detect(photo, canvas_size=SIDE)
    boxes = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, x1, y0, y1 in level]
    return np.array(boxes + [np.ravel(quad) for quad in tilted], np.float32).reshape(-1, 8)
