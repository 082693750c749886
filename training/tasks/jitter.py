"""Random views of a person for training, each a pure function of a key. Numbers are Sapiens' (configs of
github.com/facebookresearch/sapiens), carried over from its chains of resizing, cropping and rotating.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from shards.draws import key_of, uniforms
from training.labels.sets import KeypointSet
from training.tasks.view import Box, View, frame, look

_HALF, _MOVE = 1, 2  # what a key's draws are for
_NORMAL = NormalDist()
_TAIL = _NORMAL.cdf(-1.0)

SHIFT, SHIFT_CHANCE = 0.16, 0.3
SCALE = (0.5, 1.5)
ROTATION, ROTATION_CHANCE = 80.0, 0.6
HALF_CHANCE, UPPER_CHANCE, HALF_PADDING = 0.3, 0.7, 1.5
LEAST_VISIBLE, LEAST_UPPER, LEAST_LOWER = 9, 2, 3

RESIZE = (0.2, 2.0)
WIDEST = 1.25  # of a dense view, in widths of the padded box


def pose_view(box: Box, keypoints: np.ndarray, labels: KeypointSet, size: tuple[int, int], key: int) -> View:
    """Sapiens' random view for pose: sometimes half of the body only, shifted by up to 16 % of the box, scaled by
    0.5 to 1.5, turned by up to 80° either way, mirrored half the time.

    keypoints: (K, 3) x, y, visible > 0, in pixels of the photo. The amounts are normal, cut at one deviation.
    """
    chance = uniforms(key_of(key, _MOVE), 3)
    amount = _cut_normals(key_of(key, _MOVE, 1), 4)
    (x, y), width = _half_body(keypoints, labels, size, key) or frame(box, size)
    if chance[0] < SHIFT_CHANCE:
        height = width * (size[0] - 1) / (size[1] - 1)
        x, y = x + SHIFT * amount[0] * width, y + SHIFT * amount[1] * height
    width *= (SCALE[0] + SCALE[1]) / 2 + amount[2] * (SCALE[1] - SCALE[0]) / 2
    angle = ROTATION * amount[3] if chance[1] < ROTATION_CHANCE else 0.0
    return look((x, y), width, size, angle, bool(chance[2] < 0.5))


def _half_body(
    keypoints: np.ndarray, labels: KeypointSet, size: tuple[int, int], key: int
) -> tuple[tuple[float, float], float] | None:
    """Centre and width of a view of the upper or lower half of a body; None where the draw or the labels say no."""
    chance, prefers_upper = uniforms(key_of(key, _HALF), 2)
    if not labels.upper_body or chance >= HALF_CHANCE or (keypoints[:, 2] > 0).sum() < LEAST_VISIBLE:
        return None
    halves = (keypoints[list(half)] for half in (labels.upper_body, labels.lower_body))
    upper, lower = (points[points[:, 2] > 0, :2] for points in halves)
    if len(upper) < LEAST_UPPER and len(lower) < LEAST_LOWER:
        return None
    takes_upper = len(lower) < LEAST_LOWER or (len(upper) >= LEAST_UPPER and prefers_upper < UPPER_CHANCE)
    points = upper if takes_upper else lower
    low, high = points.min(0), points.max(0)
    if not (high - low).any():
        return None
    _, width = frame((*low, *high), size, HALF_PADDING)
    x, y = points.mean(0)
    return (float(x), float(y)), width


@dataclass(frozen=True)
class Zoom:
    """A random view for dense labels, and how much detail it keeps (see `dense_view`)."""

    view: View
    detail: float


def dense_view(box: Box, size: tuple[int, int], key: int, rotation: float, rotation_chance: float) -> Zoom:
    """Sapiens' random view for dense labels: resized by r in 0.2 … 2, then cropped to the model's input.

    In a view: for r > 1 a part 1/r as wide, anywhere inside the padded box; for r < 1 the box and up to a quarter
    more around it, with only r of the detail. Then turned by up to `rotation` degrees with `rotation_chance`, and
    mirrored half the time. The stretching to the input's aspect and the limit on one class's share of a crop have
    no use here: views never stretch, and the labelled person is always in them.
    """
    ratio, across, down, turn, angle, flip = uniforms(key_of(key, _MOVE), 6)
    ratio = RESIZE[0] + ratio * (RESIZE[1] - RESIZE[0])
    extent = min(1 / ratio, WIDEST)
    (x, y), width = frame(box, size)
    height = width * (size[0] - 1) / (size[1] - 1)
    x += (across - 0.5) * abs(1 - extent) * width
    y += (down - 0.5) * abs(1 - extent) * height
    degrees = rotation * (2 * angle - 1) if turn < rotation_chance else 0.0
    return Zoom(look((x, y), width * extent, size, degrees, bool(flip < 0.5)), min(ratio, 1.0))


def _cut_normals(key: int, count: int) -> list[float]:
    """Draws from the normal distribution between -1 and 1."""
    inside = _TAIL + uniforms(key, count) * (1 - 2 * _TAIL)
    return [min(max(_NORMAL.inv_cdf(u), -1.0), 1.0) for u in inside]
