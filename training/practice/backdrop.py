"""What is behind the people: a photo, or a made-up scene of gradients, shapes and texture."""

import cv2
import numpy as np

from shards.crop import BrokenImage
from training.config import UsageError
from training.practice.body import SKINS
from training.tasks.background import Backgrounds


def backdrop(rng: np.random.Generator, height: int, width: int, photos: Backgrounds | None) -> np.ndarray:
    """(height, width, 3) float32 RGB, 0..1. Raises UsageError where a photo cannot be read."""
    if photos is None:
        return imagined(rng, height, width)
    try:
        return photos.picture((height, width), int(rng.integers(2**62))).astype(np.float32) / 255
    except BrokenImage as error:
        raise UsageError(str(error)) from error


def imagined(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two blended colour fields, a floor, and shapes; some have the colours of skin and the shape of limbs, so that
    neither tells a person.
    """
    picture = _field(rng, height, width, int(rng.integers(2, 5)))
    if rng.random() < 0.6:
        horizon = int(height * rng.uniform(0.4, 0.85))
        picture[horizon:] = _field(rng, height, width, 3)[horizon:] * np.float32(rng.uniform(0.5, 1))
    drawn, softened = np.empty_like(picture), np.empty_like(picture)  # fresh memory would cost more than the drawing
    for _ in range(rng.integers(3, 16)):
        np.copyto(drawn, picture)
        _shape(rng, drawn)
        strength = np.float32(rng.uniform(0.5, 1))
        cv2.GaussianBlur(drawn, (0, 0), rng.uniform(0.3, 2.5), dst=softened)
        softened -= picture
        softened *= strength
        picture += softened
    noise = rng.normal(0, 1, (height // 2 + 1, width // 2 + 1)).astype(np.float32)
    grain = np.asarray(cv2.resize(cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 2)), (width, height)))
    picture += np.float32(rng.uniform(0, 0.12)) * grain[..., None]
    return np.asarray(np.clip(picture, 0, 1, out=picture))


def _field(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    corners = rng.random((cells, cells, 3), dtype=np.float32) * 0.6 + rng.random(3, dtype=np.float32) * 0.4
    return np.asarray(cv2.resize(corners, (width, height), interpolation=cv2.INTER_CUBIC))


def _shape(rng: np.random.Generator, drawn: np.ndarray) -> None:
    height, width = drawn.shape[:2]
    colour = rng.random(3)
    if rng.random() < 0.35:
        colour = np.array(SKINS[rng.integers(len(SKINS))]) / 255
    rgb = tuple(float(c) for c in colour)
    a, b = ((int(rng.integers(-20, width + 20)), int(rng.integers(-20, height + 20))) for _ in range(2))
    match rng.integers(4):
        case 0:
            cv2.rectangle(drawn, a, b, rgb, -1 if rng.random() < 0.7 else int(rng.integers(2, 8)))
        case 1:
            axes = (int(rng.integers(4, max(width // 4, 5))), int(rng.integers(4, max(height // 4, 5))))
            cv2.ellipse(drawn, a, axes, float(rng.uniform(0, 180)), 0, 360, rgb, -1, cv2.LINE_AA)
        case 2:
            cv2.line(drawn, a, b, rgb, int(rng.integers(3, max(width // 8, 4))), cv2.LINE_AA)
        case _:
            corners = np.array([a, b, (int(rng.integers(0, width)), int(rng.integers(0, height)))])
            cv2.fillPoly(drawn, [corners], rgb, cv2.LINE_AA)
