"""Boxes from arrays to the manifest's structs, and areas that count overlaps once."""

from typing import Any

import cv2
import numpy as np

BOX_NAMES = ("x0", "y0", "x1", "y1", "score")


def to_structs(boxes: np.ndarray, scale: tuple[float, float], width: int, height: int) -> list[dict[str, Any]]:
    """float (n, 5) of x0 y0 x1 y1 score in working pixels → structs in full-size pixels, inside the image."""
    full = boxes.astype(np.float64)
    full[:, :4] *= (*scale, *scale)
    full[:, [0, 2]] = full[:, [0, 2]].clip(0, width)
    full[:, [1, 3]] = full[:, [1, 3]].clip(0, height)
    return [dict(zip(BOX_NAMES, map(float, box), strict=True)) for box in full]


def covered(quads: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """bool (h, w) mask of the union of polygons (n, 2) given in pixels of that grid."""
    mask = np.zeros((height, width), np.uint8)
    for quad in quads:
        corners = np.round(quad)
        corners -= corners > corners.mean(axis=0)  # OpenCV fills the far border too: x0 to x1 are x1 - x0 cells
        cv2.fillConvexPoly(mask, corners.astype(np.int32), 1)
    return mask.view(bool)
