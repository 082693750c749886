"""Random changes of a picture's colours and sharpness that leave its labels alone. Each is a pure function of a
key; numbers are Sapiens' (mmpose's PhotometricDistortion, Albumentations).
"""

import cv2
import numpy as np

from shards.draws import key_of, uniforms

BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18.0
BLUR_CHANCE = 0.1
HOLE = (0.2, 0.4)

_COLOUR, _BLUR, _MEDIAN, _HOLE = 11, 12, 13, 14  # what a key's draws are for


def distort_colours(image: np.ndarray, key: int) -> np.ndarray:
    """Brightness by ±32, contrast and saturation by 0.5 to 1.5, hue by ±36° (18 of OpenCV's 180 steps), each half
    the time; contrast before or after the others. image: (H, W, 3) uint8 RGB, as is the result.
    """
    u = uniforms(key_of(key, _COLOUR), 9)
    brighter = BRIGHTNESS * (2 * u[0] - 1) if u[1] < 0.5 else 0.0
    contrast = _between(CONTRAST, u[2]) if u[3] < 0.5 else 1.0
    saturation = _between(SATURATION, u[4]) if u[5] < 0.5 else 1.0
    hue = HUE * (2 * u[6] - 1) if u[7] < 0.5 else 0.0
    contrast_first = u[8] < 0.5
    levels = np.clip(np.arange(256) + brighter, 0, 255)
    if contrast_first:
        levels = levels * contrast
    image = _mapped(image, levels)
    if saturation != 1.0 or hue != 0.0:
        image = _shift_hsv(image, hue, saturation)
    if not contrast_first and contrast != 1.0:
        image = _mapped(image, np.arange(256) * contrast)
    return image


def blur(image: np.ndarray, key: int) -> np.ndarray:
    """One time in ten a box blur and one time in ten a median blur, each 3, 5 or 7 pixels wide."""
    u = uniforms(key_of(key, _BLUR), 2)
    if u[0] < BLUR_CHANCE:
        width = 3 + 2 * int(u[1] * 3)
        image = cv2.blur(image, (width, width))
    u = uniforms(key_of(key, _MEDIAN), 2)
    if u[0] < BLUR_CHANCE:
        image = cv2.medianBlur(image, 3 + 2 * int(u[1] * 3))
    return image


def drop_hole(image: np.ndarray, key: int) -> np.ndarray:
    """The picture with one black rectangle, each side 20 to 40 % of the picture's, anywhere inside it."""
    rows, columns = image.shape[:2]
    u = uniforms(key_of(key, _HOLE), 4)
    height, width = round(rows * _between(HOLE, u[0])), round(columns * _between(HOLE, u[1]))
    top, left = int(u[2] * (rows - height + 1)), int(u[3] * (columns - width + 1))
    image = image.copy()
    image[top : top + height, left : left + width] = 0
    return image


def lose_detail(image: np.ndarray, share: float) -> np.ndarray:
    """The picture shrunk to a share of its sides and enlarged again."""
    rows, columns = image.shape[:2]
    small = max(round(columns * share), 1), max(round(rows * share), 1)
    if small == (columns, rows):
        return image
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (columns, rows))


def _between(limits: tuple[float, float], u: float) -> float:
    return limits[0] + u * (limits[1] - limits[0])


def _mapped(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Every value replaced by its level."""
    return cv2.LUT(image, np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _shift_hsv(image: np.ndarray, hue: float, saturation: float) -> np.ndarray:
    steps = np.arange(256)
    table = np.stack(
        [
            np.rint(steps + hue) % 180,
            np.clip(np.rint(steps * saturation), 0, 255),
            steps,
        ],
        axis=-1,
    ).astype(np.uint8)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
