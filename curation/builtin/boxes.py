"""Pictures into network inputs, and boxes back out."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.resize import resized

GREY = 114
STEP = 32  # the coarsest stride of our networks
MARGIN = 16  # pixels


def input_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) of the input for a picture whose long side becomes `size`: a square, or about three quarters of
    one where the picture is 4:3 or longer. A strip of padding stays: without any, PP-OCR takes textures for text."""
    narrow = math.ceil((size * 3 / 4 + MARGIN) / STEP) * STEP
    short = round(min(height, width) * size / max(height, width))
    if short > narrow - MARGIN:
        return size, size
    return (narrow, size) if width >= height else (size, narrow)


def shown_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) in pixels of a picture whose long side became `size`."""
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def letterbox(image: NDArray[np.uint8], size: int, fill: int = GREY) -> tuple[NDArray[np.uint8], float]:
    """Scale uint8 [H,W,3] so that its long side is `size`, at the top left of a canvas filled with `fill`.

    Returns the canvas, of the picture's `input_shape`, and the scale (canvas pixels per picture pixel).
    """
    height, width = image.shape[:2]
    h, w = shown_size(height, width, size)
    scale = size / max(height, width)
    canvas = np.full((*input_shape(height, width, size), 3), fill, np.uint8)
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
