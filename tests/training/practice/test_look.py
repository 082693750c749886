"""Light, shadows and the lens do what they do in photos."""

from dataclasses import dataclass

import numpy as np
import pytest

from training.practice.crowd import Ground
from training.practice.geometry import Camera
from training.practice.look import BACKDROP, shade, shadows, through_lens

LEVEL = Ground(np.eye(3), 1.5)


@dataclass(frozen=True)
class Feet:
    """A person of whom only the ankles matter."""

    z: float

    def points(self) -> np.ndarray:
        return np.array([[-0.1, -1.42, -self.z], [0.1, -1.42, -self.z]])


def test_a_shadow_lies_under_the_feet_and_none_above_the_horizon() -> None:
    camera = Camera(120, 90, 100.0)
    lit = np.ones((120, 90, 3), np.float32)
    shadows(lit, camera, LEVEL, [Feet(4.0)])  # type: ignore[list-item]
    column, row = camera.project(np.array([0.1, -1.5, -4.0])).round().astype(int)
    assert lit[row, column, 0] < 0.8
    assert lit[:58].min() == 1
    assert lit[row, 2, 0] > 0.95
    assert (lit[..., 0] == lit[..., 2]).all()


def flashes(draw: int) -> np.ndarray:
    """Brightness of two equal surfaces that face the camera, 2 and 4 m away, and of the backdrop."""
    towards = np.tile([0.0, 0.0, 1.0], (2, 1))
    behind = np.ones((1, 1, 3), np.float32)
    rng = np.random.default_rng(draw)
    shaded = shade(rng, np.full((2, 3), 0.5), np.zeros(2), towards, np.array([2.0, 4.0]), behind)
    return np.array([shaded[0, 0], shaded[1, 0], behind[0, 0, 0]])


def test_a_flash_fades_with_distance_and_lamps_do_not() -> None:
    near, far, behind = np.array([flashes(draw) for draw in range(200)]).T
    flash = behind < 1
    assert 0.15 < flash.mean() < 0.35
    assert (near[~flash] == far[~flash]).all()
    assert (far[flash] < 0.7 * near[flash]).all()
    assert (behind[flash] < 0.6).all()


def sharpness(picture: np.ndarray, rows: slice) -> float:
    return float(np.abs(np.diff(picture[rows, :, 0], axis=1)).max())


@pytest.mark.parametrize("near", [0, 1])
def test_the_nearest_person_is_sharp_and_what_is_farther_is_less_so(near: int) -> None:
    layer = np.full((120, 60), BACKDROP)
    layer[10:50, 20:40], layer[70:110, 20:40] = near, 1 - near
    depth = np.select([layer == near, layer == 1 - near], [3.0, 6.0], np.inf)
    shaded = np.where(layer >= 0, 1.0, 0.0)[..., None].repeat(3, 2).astype(np.float32)
    behind = np.zeros_like(shaded)
    ratios = []
    for draw in range(12):
        picture = through_lens(np.random.default_rng(draw), shaded, behind, layer, depth)
        assert picture.min() > -1e-6
        assert picture.max() < 1 + 1e-6
        ratios.append(sharpness(picture, slice(80, 100)) / sharpness(picture, slice(20, 40)))
    assert max(ratios) == pytest.approx(1, abs=1e-5)  # every third picture is sharp all over
    assert min(ratios) < 0.8
    assert all(ratio < 1 + 1e-5 for ratio in ratios)


def test_things_before_people_do_not_take_the_focus() -> None:
    layer = np.full((120, 60), BACKDROP)
    layer[10:50, 20:40], layer[70:110, 20:40] = -2, 0
    depth = np.select([layer == -2, layer == 0], [1.0, 3.0], np.inf)
    shaded = np.where(layer != BACKDROP, 1.0, 0.0)[..., None].repeat(3, 2).astype(np.float32)
    for draw in range(6):
        picture = through_lens(np.random.default_rng(draw), shaded, np.zeros_like(shaded), layer, depth)
        assert sharpness(picture, slice(80, 100)) >= sharpness(picture, slice(20, 40)) - 1e-5


def test_a_picture_without_anybody_is_its_backdrop() -> None:
    behind = np.full((20, 20, 3), 0.4, np.float32)
    nobody = np.full((20, 20), BACKDROP)
    picture = through_lens(np.random.default_rng(0), np.zeros_like(behind), behind, nobody, np.full((20, 20), np.inf))
    assert np.allclose(picture, 0.4)
