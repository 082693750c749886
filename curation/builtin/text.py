"""From PP-OCR's map of "here is text" to quadrilaterals: Differentiable Binarization (Liao et al. 2020, sec. 3.4)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LEAST_CHANCE = 0.3  # a pixel is text
LEAST_MEAN = 0.7  # over a region's rectangle: text fills it, the blobs seen on food or fur do not
LARGEST_REGIONS = 400
THINNEST = 3.0  # map pixels
GROW = 1.6  # the network marks shrunk regions: area · GROW / perimeter brings the border back


def text_boxes(chance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Chance map float32 [H,W] in 0…1 → [n,9]: x,y of four corners clockwise in map pixels, then the mean chance inside
    the region before it is grown."""
    mask = (chance > LEAST_CHANCE).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if len(contours) > LARGEST_REGIONS:
        contours = sorted(contours, key=cv2.contourArea, reverse=True)[:LARGEST_REGIONS]
    rows = [row for row in (_box(chance, contour) for contour in contours) if row is not None]
    return np.array(rows, np.float32).reshape(-1, 9)


def _box(chance: NDArray[np.float32], contour: NDArray[Any]) -> NDArray[np.float32] | None:
    centre, (width, height), angle = cv2.minAreaRect(contour)
    if min(width, height) < THINNEST:
        return None
    mean = _mean_inside(chance, cv2.boxPoints((centre, (width, height), angle)))
    if mean < LEAST_MEAN:
        return None
    margin = width * height * GROW / (2 * (width + height))
    corners = cv2.boxPoints((centre, (width + 2 * margin, height + 2 * margin), angle))
    return np.append(corners.reshape(-1), mean).astype(np.float32)


def _mean_inside(chance: NDArray[np.float32], corners: NDArray[Any]) -> float:
    (x0, y0), (x1, y1) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    x0, y0 = max(x0, 0), max(y0, 0)
    part = chance[y0 : y1 + 1, x0 : x1 + 1]
    inside = np.zeros(part.shape, np.uint8)
    cv2.fillPoly(inside, [np.rint(corners - (x0, y0)).astype(np.int32)], 1)
    return float(cv2.mean(part, inside)[0])
