"""Pictures into square inputs, and boxes back out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

GREY = 114


def letterbox(image: NDArray[np.uint8], size: int, fill: int = GREY) -> tuple[NDArray[np.uint8], float]:
    """Scale uint8 [H,W,3] so that its long side is `size`, at the top left of a square filled with `fill`.

    Returns the square [size,size,3] and the scale (square pixels per picture pixel).
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    square = np.full((size, size, 3), fill, np.uint8)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square[:h, :w] = cv2.resize(image, (w, h), interpolation=interpolation)
    return square, scale


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
