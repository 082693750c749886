"""Text boxes from EasyOCR's detector, CRAFT (arXiv 1904.01941), as its `Reader.detect` gives them, on batches of
images.

EasyOCR loads its weights with the unrestricted unpickler; here they are loaded as plain tensors. Preparing the picture
and finding words in the maps are ours, because EasyOCR's own goes through float32 and, for every word, through the
whole map; joining words to lines is EasyOCR's.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from curation.engines import Pixels, Precision, weights_identity
from curation.errors import UsageError, reason_of
from curation.full.craft_folded import Folded
from curation.full.network import Built, Network, Runner, spread
from curation.full.torchvision_ops import make_importable

FILE = "craft_mlt_25k.pth"
SIDE = 768  # pixels of the longer side; EasyOCR reads at up to 2560, more than finding text takes
STRIDE = 32
EXAMPLE_SIZE = 32, 64  # small: the converter for ncnn runs the network on it, slowly
TEXT_THRESHOLD, LINK_THRESHOLD, LOW_TEXT, SHORTEST = 0.7, 0.4, 0.4, 20  # Reader.detect's defaults
LEAST_CELLS = 10  # of a word, in its map
SLOPE, CENTRE, HEIGHT, WIDTH, MARGIN = 0.1, 0.5, 0.5, 0.5, 0.1  # the same, for joining words to lines
PIXELS = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
VERSION = 2  # of what happens around the network


class TextDetector:
    """`weights`: EasyOCR's `craft_mlt_25k.pth`, or the folder that holds it."""

    def __init__(self, weights: Path, threads: int = 1, precision: Precision = "auto") -> None:
        file = weights / FILE if weights.is_dir() else weights
        if not file.is_file():
            raise UsageError(f"weights.text: no file {file}; give EasyOCR's {FILE} or the folder it lies in")
        self.identity = weights_identity(file.stem, file, version=VERSION)
        network = Network(
            f"{self.identity}-folded",
            lambda: Built(Folded(load_craft(file)).eval(), EXAMPLE_SIZE, {}),
            lambda facts: PIXELS,
            any_size=True,
            of_convolutions=True,
        )
        self._runner = Runner(network, threads, precision)

    def text(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Per uint8 RGB [H,W,3] image: float32 [n,9], x y of a line's four corners, clockwise, in its pixels, and a
        score."""
        make_importable()
        canvases = spread(canvas, images, self._runner.threads)
        outputs = self._runner([square for square, _ in canvases])
        found = [(maps, ratio) for (maps,), (_, ratio) in zip(outputs, canvases, strict=True)]
        return spread(lambda one: _lines(*one), found, self._runner.threads)


def canvas(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """The picture, its longer side at most 768, on black of sides that are multiples of 32; and the scale it was
    given."""
    height, width = image.shape[:2]
    ratio = min(SIDE, max(height, width)) / max(height, width)
    h, w = max(1, int(height * ratio)), max(1, int(width * ratio))
    whole = np.zeros((-(-h // STRIDE) * STRIDE, -(-w // STRIDE) * STRIDE, 3), np.uint8)
    whole[:h, :w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    return whole, ratio


def load_craft(file: Path) -> nn.Module:
    """EasyOCR's network with the weights in `file`. Raises UsageError where they do not fit."""
    make_importable()
    from easyocr.craft import CRAFT

    craft = CRAFT()
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        craft.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    except Exception as error:
        reason = reason_of(error)
        raise UsageError(f"weights.text: {file} is not a state dict of EasyOCR's CRAFT: {reason}") from None
    return craft.eval()


def _lines(maps: NDArray[Any], ratio: float) -> NDArray[np.float32]:
    make_importable()
    from easyocr.craft_utils import adjustResultCoordinates
    from easyocr.utils import group_text_box

    chance = np.ascontiguousarray(maps[..., 0])
    words = find_words(chance, np.ascontiguousarray(maps[..., 1]))
    if not words:
        return np.zeros((0, 9), np.float32)
    corners = adjustResultCoordinates(words, 1 / ratio, 1 / ratio)
    polygons = [np.asarray(word).astype(np.int32).reshape(-1) for word in corners]
    level, tilted = group_text_box(polygons, SLOPE, CENTRE, HEIGHT, WIDTH, MARGIN, True)
    quads = [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, x1, y0, y1 in level] + list(tilted)
    lines = np.array(quads, np.float32).reshape(-1, 4, 2)
    lines = lines[np.ptp(lines, axis=1).max(1) > SHORTEST]
    scores = [_score(chance, quad * ratio / 2) for quad in lines]
    return np.concatenate([lines.reshape(-1, 8), np.array(scores, np.float32)[:, None]], 1)


def find_words(chance: NDArray[np.float32], link: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """[H,W] maps → a quadrilateral [4,2] round every word, as EasyOCR's `getDetBoxes` finds them.

    That goes over the whole map five times for every word; here each is looked at in its own rectangle.
    """
    letters, links = chance > LOW_TEXT, link > LINK_THRESHOLD
    _, labels, stats, _ = cv2.connectedComponentsWithStats((letters | links).view(np.uint8), connectivity=4)
    words = []
    for number in (1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= LEAST_CELLS)).tolist():
        x, y, w, h, area = stats[number].tolist()
        grown = int(math.sqrt(area * min(w, h) / (w * h)) * 2)
        left, top = max(0, x - grown), max(0, y - grown)
        around = np.s_[top : y + h + grown + 1, left : x + w + grown + 1]
        own = labels[around] == number
        if chance[around][own].max() < TEXT_THRESHOLD:
            continue
        mask = (own & (letters[around] | ~links[around])).view(np.uint8)
        kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (1 + grown, 1 + grown))
        rows, columns = np.nonzero(cv2.dilate(mask, kernel))
        words.append(_rectangle(np.stack([columns + left, rows + top], 1)))
    return words


def _rectangle(cells: NDArray[np.int64]) -> NDArray[np.float32]:
    """The smallest rectangle [4,2] round cells [n,2], upright where nearly square; clockwise from the top left."""
    box = cv2.boxPoints(cv2.minAreaRect(cells))
    w, h = np.linalg.norm(box[0] - box[1]), np.linalg.norm(box[1] - box[2])
    if abs(1 - max(w, h) / (min(w, h) + 1e-5)) <= 0.1:
        (left, top), (right, bottom) = cells.min(0), cells.max(0)
        box = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)
    return np.roll(box, 4 - box.sum(1).argmin(), 0)


def _score(chance: NDArray[np.float32], quad: NDArray[np.float32]) -> float:
    """The highest chance of a character in the box around a quadrilateral, both in cells of the map."""
    (x0, y0), (x1, y1) = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    inside = chance[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1]
    return min(1.0, float(inside.max())) if inside.size else 0.0
