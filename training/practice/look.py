"""How a picture looks: light, shadows on the floor, the lens, exposure and noise."""

from collections.abc import Sequence

import cv2
import numpy as np

from training.practice.body import Person
from training.practice.crowd import Ground
from training.practice.geometry import Camera, turn

BACKDROP = -1
"""The number of pixels where nothing stands before the backdrop."""

_BODY = 0.1
"""Metres: the radius of the balls about a person's joints that keep light from the floor."""

_COARSE = 4
"""Pixels between those at which a shadow is computed; it is soft."""


def shade(
    rng: np.random.Generator,
    albedo: np.ndarray,
    shine: np.ndarray,
    normals: np.ndarray,
    depth: np.ndarray,
    behind: np.ndarray,
) -> np.ndarray:
    """One lamp from above, a sky and a gloss; in every fourth picture a flash at the camera instead, most of it. n
    surface points → (n, 3) linear. A flash fades with the square of the distance (depth, (n,)), and darkens the
    backdrop `behind` in place.
    """
    lamp = turn(x=rng.uniform(-75, 15), y=rng.uniform(-80, 80)) @ np.array([0, 0, 1.0])
    sky = rng.uniform(0.25, 0.6)
    lit = np.maximum(normals @ lamp, 0)
    glint = np.maximum(2 * lit * normals[:, 2] - lamp[2], 0) ** 20
    light = sky * (0.75 + 0.25 * normals[:, 1]) + (1.1 - sky) * lit
    tint = 1 + rng.normal(0, 0.06, 3)
    flash = rng.random() < 0.25
    left = rng.uniform(0.1, 0.4)
    if flash and len(depth):
        light = left * light + (1.1 - left) * np.maximum(normals[:, 2], 0.1) * (depth.min() / depth) ** 2
        behind *= np.float32(left + 0.15)
    return np.asarray(albedo * light[:, None] * tint + (shine * glint)[:, None])


def shadows(behind: np.ndarray, camera: Camera, ground: Ground, people: Sequence[Person]) -> None:
    """Darken the backdrop in place where people keep the sky's light from the floor.

    A ball of radius r at height h, D away, hides the share r²·h / D³ of an even sky from a level floor.
    """
    x, y = camera.slopes()
    rays = np.empty((-(-camera.height // _COARSE), -(-camera.width // _COARSE), 3))
    rays[..., 0], rays[..., 1], rays[..., 2] = x[::_COARSE], y[::_COARSE, None], -1
    sinks = -(rays @ ground.up)
    reached = sinks > 0.02  # and less than 100 m away
    floor = rays[reached] * (ground.below / sinks[reached])[:, None]
    hidden = np.zeros(reached.shape, np.float32)
    for person in people:
        joints = person.points()
        height = np.maximum(ground.above(joints), _BODY)
        away = ((floor[:, None] - joints) ** 2).sum(axis=2)
        hidden[reached] += (_BODY**2 * height / np.maximum(away, _BODY**2) ** 1.5).sum(axis=1)
    light = 1 - 0.8 * np.minimum(hidden, 1)
    behind *= np.asarray(cv2.resize(light, (camera.width, camera.height)))[..., None]


def through_lens(
    rng: np.random.Generator, shaded: np.ndarray, behind: np.ndarray, layer: np.ndarray, depth: np.ndarray
) -> np.ndarray:
    """What is seen before the backdrop, each as sharp as a thin lens shows it that is focused on the nearest person;
    every third picture is sharp all over. (H, W, 3) float32.

    A point at z is a spot of c·|z - f| / z when the lens is focused at f and c is the spot of what is far away: up to
    5 % of the picture's height, as at 85 mm and f/1.8 from 2.3 m. shaded: (H, W, 3). layer: (H, W), the number of the
    person that is seen, BACKDROP, or another number below 0 for other things. depth: (H, W) metres.
    """
    far = rng.uniform(0.003, 0.05) * len(layer) if rng.random() < 2 / 3 else 0.0
    seen = [int(number) for number in np.unique(layer) if number != BACKDROP]
    distances = {number: float(np.median(depth[layer == number])) for number in seen}
    people = [distance for number, distance in distances.items() if number >= 0]
    focus = min(people or distances.values(), default=1.0)
    picture = _spread(behind, far)
    for number in sorted(distances, key=lambda number: -distances[number]):
        spot = far * abs(distances[number] - focus) / distances[number]
        cover = (layer == number)[..., None].astype(np.float32)
        here, cover = _spread(shaded * cover, spot), _spread(cover, spot)
        picture = picture * (1 - cover) + here
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.45, 0.9)))


def expose(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Contrast, brightness and noise: (H, W, 3) float32 → uint8."""
    picture -= 0.5
    picture *= rng.uniform(0.8, 1.15)
    picture += 0.5
    picture += rng.uniform(-0.08, 0.08)
    picture += rng.normal(0, rng.uniform(0.003, 0.03), picture.shape)
    picture *= 255
    return np.asarray(np.clip(np.rint(picture, out=picture), 0, 255, out=picture).astype(np.uint8))


def _spread(picture: np.ndarray, spot: float) -> np.ndarray:
    """Blurred as by a spot of this diameter in pixels: a Gaussian of the same variance. (H, W, C)."""
    if spot < 0.5:
        return picture
    blurred = cv2.GaussianBlur(picture, (0, 0), spot / 4)
    return np.asarray(blurred.reshape(picture.shape))  # OpenCV drops a single channel's axis
