"""Pixels brought quickly to the size of a network's input."""

import cv2
import numpy as np
from numpy.typing import NDArray


def resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """uint8 (h, w) or (h, w, 3) at `width` x `height` pixels: halved while at least twice as large, then bilinear.

    Each halving is the mean of four pixels, so nothing aliases where both sides shrink alike; OpenCV's INTER_AREA takes
    about three times as long.
    """
    while min(image.shape[0] / height, image.shape[1] / width) >= 2:
        image = _linear(image, (image.shape[1] + 1) // 2, (image.shape[0] + 1) // 2)
    return _linear(image, width, height)


def _linear(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
