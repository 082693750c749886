"""People of one picture stand on one floor that the camera looks at."""

import numpy as np

from training.practice.body import Person
from training.practice.crowd import Ground, crowd
from training.practice.geometry import Camera

CAMERA = Camera(192, 144, 250.0)


def crowds() -> list[tuple[Ground, list[Person]]]:
    return [crowd(np.random.default_rng([3, index]), CAMERA) for index in range(60)]


def test_feet_are_on_the_floor_or_somewhat_above_it() -> None:
    lowest = np.array([ground.above(one.points()).min() for ground, people in crowds() for one in people])
    assert (lowest > 0).all()
    assert (lowest < 0.65).all()
    assert 0.6 < (lowest < 0.04).mean() < 0.95


def test_where_the_feet_are_tells_how_far_somebody_stands() -> None:
    """On a floor d = below / (sin a) along the ray: the lowest joint's depth follows from its row and the camera."""
    checked = 0
    for ground, people in crowds():
        for person in people:
            lowest = person.points()[ground.above(person.points()).argmin()]
            if ground.above(lowest) < 0.04:
                ray = lowest / -lowest[2]
                assert np.isclose((ground.below - 0.03) / -(ray @ ground.up), -lowest[2])
                checked += 1
    assert checked > 50


def test_the_later_stand_farther_away_and_the_first_is_in_the_picture() -> None:
    shown = 0
    for _, people in crowds():
        depths = [-(one.points().min(axis=0) + one.points().max(axis=0))[2] / 2 for one in people]
        assert depths == sorted(depths)
        column, row = CAMERA.project(people[0].points()).T
        shown += ((column >= 0) & (column < CAMERA.width) & (row >= 0) & (row < CAMERA.height)).any()
    assert shown >= 58
    assert {len(people) for _, people in crowds()} == {1, 2, 3}


def test_up_stays_up_for_a_camera_that_looks_down() -> None:
    tilts = [np.degrees(np.arcsin(ground.up[2])) for ground, _ in crowds()]
    assert min(tilts) < -5  # looking up
    assert max(tilts) > 10  # looking down: what is up comes towards the camera
    assert all(ground.up[1] > 0.7 and abs(ground.up[0]) < 1e-9 for ground, _ in crowds())
