"""Who is where: people on one floor before a camera, and what stands in front of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, atan2, cos, degrees, radians

import numpy as np

from training.practice.body import Band, Frames, Material, Person, Piece, pick, pose
from training.practice.geometry import Camera, solid, turn

_SOLE = 0.03
"""Metres from the lowest joint to the floor."""


@dataclass(frozen=True)
class Ground:
    """A level floor. turned: (3, 3), what turns directions of a level camera (y up) into the tilted camera's frame.
    below: metres from the camera down to the floor.
    """

    turned: np.ndarray
    below: float

    @property
    def up(self) -> np.ndarray:
        return np.asarray(self.turned[:, 1])

    def above(self, points: np.ndarray) -> np.ndarray:
        """Metres that points (…, 3), camera frame, are above the floor."""
        return np.asarray(points @ self.up + self.below)


def crowd(rng: np.random.Generator, camera: Camera) -> tuple[Ground, list[Person]]:
    """One to three people, the later ones farther away, so that where somebody's feet are tells how far, as in photos.
    The camera is at a hip's to a raised arm's height and points so that the first person is in the picture.
    """
    share = rng.uniform(0.6, 1.15)
    eye, height = rng.uniform(0.7, 2.0), rng.uniform(1.5, 1.95)
    tilt = _tilt(rng)
    ground = Ground(_aim(rng, camera, share, height, tilt, eye), eye)
    people: list[Person] = []
    columns: list[float] = []
    for _ in range(pick(rng, [1, 2, 3], [0.5, 0.3, 0.2])):
        person, column = _stand(rng, camera, ground, share, height, tilt, columns)
        people.append(person)
        columns.append(column)
        share *= rng.uniform(0.55, 0.85)
        height, tilt = rng.uniform(1.5, 1.95), _tilt(rng)
    return ground, people


def obstacles(rng: np.random.Generator, people: Sequence[Person]) -> list[Piece]:
    """Now and then a beam or a ball in front of somebody."""
    if rng.random() > 0.25:
        return []
    person = people[int(rng.integers(len(people)))]
    target = person.points()[rng.integers(len(person.joints))] * rng.uniform(0.6, 0.85)
    along = turn(z=rng.uniform(0, 180)) @ np.array([1.0, 0, 0]) * rng.choice([0.0, rng.uniform(0.2, 2.0)])
    radius = float(rng.uniform(0.03, 0.12))
    colour = rng.random(3)
    pattern = str(rng.choice(["plain", "rings", "checks"]))
    band = Band(-9, "Background", Material(colour, rng.random(3), pattern, shine=0.2))
    return [Piece(solid(target - along, target + along, radius, radius * float(rng.uniform(0.6, 1))), (band,))]


def _tilt(rng: np.random.Generator) -> float:
    """Degrees to the side: mostly upright, one in ten anything up to lying."""
    return float(rng.uniform(-90, 90) if rng.random() < 0.1 else rng.normal(0, 7))


def _aim(rng: np.random.Generator, camera: Camera, share: float, height: float, tilt: float, eye: float) -> np.ndarray:
    """The camera's turn up or down that brings the first person's middle to a random row; now and then so that the
    picture's edge cuts it.
    """
    distance = camera.focal * height / (share * camera.height)
    middle = height * (0.12 + 0.38 * cos(radians(tilt))) - eye
    room = max(camera.height / camera.focal / 2 - (middle + eye) / distance, 0.15 * camera.height / camera.focal / 2)
    row = rng.uniform(-1, 1) * room * (1.5 if rng.random() < 0.25 else 1.0)
    return turn(x=-degrees(atan2(middle, distance) - atan(row)))


def _stand(
    rng: np.random.Generator,
    camera: Camera,
    ground: Ground,
    share: float,
    height: float,
    tilt: float,
    others: Sequence[float],
) -> tuple[Person, float]:
    """A person whose body fills this share of the picture's height when upright, and its column, the picture's sides
    being -1 and 1: of three random ones that which is farthest from the others'. Some jump, or stand on something.
    """
    girth = rng.uniform(0.85, 1.3)
    around = rng.normal(0, 40) if rng.random() < 0.75 else rng.uniform(90, 270)
    frame = ground.turned @ turn(x=rng.normal(0, 10), z=tilt) @ turn(y=around)
    distance = camera.focal * height / (share * camera.height)
    own = np.random.default_rng(int(rng.integers(2**62)))
    person = pose(own, Frames(np.array([0.0, 0.0, -distance]), frame, height, girth))
    points = person.points()
    low, high = points.min(axis=0), points.max(axis=0)
    reach = distance / camera.focal * camera.width / 2
    room = max(reach - (high[0] - low[0]) / 2, 0.15 * reach)
    drafts = rng.uniform(-1, 1, 3) * room * (1.5 if rng.random() < 0.25 else 1.0)
    target = max(drafts, key=lambda draft: min((abs(draft / reach - other) for other in others), default=0.0))
    step = rng.uniform(0, 0.6) if rng.random() < 0.2 else 0.0
    lift = ground.up * (step + _SOLE - ground.above(points).min())
    forward = ground.turned @ np.array([0.0, 0.0, -1.0])
    middle = (low + high) / 2 + lift
    onward = forward * (distance + middle[2]) / -forward[2]
    return person.moved(lift + onward + np.array([target - middle[0], 0, 0])), float(target / reach)
