"""Small labelled samples with answers that can be worked out by hand."""

from typing import Any

import cv2
import numpy as np

from shards.labelled import LabelledSample
from training.labels.sets import ClassList, KeypointSet

LETTERS = KeypointSet(
    "letters",
    tuple("abcdefghijkl"),
    (0.05,) * 12,
    flip_pairs=((1, 2), (3, 4)),
    upper_body=(0, 1, 2, 3, 4, 5),
    lower_body=(6, 7, 8, 9, 10, 11),
    groups={"head": (0, 1, 2), "feet": (9, 10, 11)},
)
COLOURS = ClassList(
    "colours",
    ("nothing", "left", "right", "middle"),
    ((0, 0, 0), (255, 0, 0), (0, 0, 255), (0, 255, 0)),
    (0.1, 2.0, 3.0, 1.0),
    flip_pairs=((1, 2),),
)


def sample(image: bytes, label: bytes = b"", box: tuple[float, ...] = (0, 0, 1, 1), **row: Any) -> LabelledSample:
    blank = {"keypoints": [], "area": 1000.0, "near": float("nan"), "far": float("nan"), "image_id": 1}
    x0, y0, x1, y1 = map(float, box)
    return LabelledSample("000000000", "0" * 32, image, label, (x0, y0, x1, y1), blank | row)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photo without sharp edges: (height, width, 3) uint8."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def patches(height: int, width: int, count: int, seed: int = 0) -> np.ndarray:
    """A map of patches with values below `count`: (height, width) uint8."""
    rough = np.random.default_rng(seed).integers(0, count, (7, 5), dtype=np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_NEAREST)


def sphere(height: int, width: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Normals of a sphere before nothing: (height, width, 3) float32, NaN beside it."""
    x, y = (np.arange(width)[None] - centre[0]) / radius, (np.arange(height)[:, None] - centre[1]) / radius
    x, y = np.broadcast_arrays(x, -y)
    z2 = 1 - x**2 - y**2
    normals = np.stack([x, y, np.sqrt(np.maximum(z2, 0))], axis=2)
    return np.where(z2[..., None] > 0, normals, np.nan).astype(np.float32)
