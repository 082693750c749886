"""Pictures into network inputs, and boxes back out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.resize import resized

GREY = 114
STEP = 32  # the coarsest stride of our networks
NARROW = (9 / 16, 2 / 3, 3 / 4)  # short side over long: video, most cameras, most phones; others get more padding


def input_shape(
    height: int, width: int, size: int, margin: int = 0, narrow: Sequence[float] = NARROW
) -> tuple[int, int]:
    """(height, width) of the input for a picture whose long side becomes `size`: the smallest of a few shapes, given by
    short side over long, that leaves `margin` pixels of padding beside the picture, or the square."""
    short = round(min(height, width) * size / max(height, width))
    shapes = (math.ceil((size * share + margin) / STEP) * STEP for share in narrow)
    fitting = next((shape for shape in shapes if short + margin <= shape < size), size)
    return (fitting, size) if width >= height else (size, fitting)


def shown_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) in pixels of a picture whose long side became `size`."""
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def letterbox(
    image: NDArray[np.uint8], size: int, fill: int = GREY, margin: int = 0, narrow: Sequence[float] = NARROW
) -> tuple[NDArray[np.uint8], float]:
    """Scale uint8 [H,W,3] so that its long side is `size`, at the top left of a canvas filled with `fill`.

    Returns the canvas, of the picture's `input_shape`, and the scale (canvas pixels per picture pixel).
    """
    height, width = image.shape[:2]
    h, w = shown_size(height, width, size)
    scale = size / max(height, width)
    canvas = np.full((*input_shape(height, width, size, margin, narrow), 3), fill, np.uint8)
    canvas[:h, :w] = resized(image, w, h)
    return canvas, scale


def keep_best(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    least_score: float,
    most_overlap: float,
    limit: int = 300,
) -> NDArray[np.float32]:
    """Non-maximum suppression of [N,4] boxes with [N] scores → [n,5] float32, best first, at most `limit`."""
    fit = scores >= least_score
    boxes, scores = boxes[fit], scores[fit]
    order = np.argsort(-scores, kind="stable")[: limit * 10]
    boxes, scores = boxes[order], scores[order]
    corner = np.ascontiguousarray(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1), np.float64)
    kept = cv2.dnn.NMSBoxes(corner.tolist(), scores.tolist(), least_score, most_overlap) if len(boxes) else []
    chosen = np.asarray(kept, np.int64).reshape(-1)[:limit]
    return np.concatenate([boxes[chosen], scores[chosen, None]], 1).astype(np.float32)
