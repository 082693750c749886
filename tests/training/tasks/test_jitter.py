"""Random views: what they may and may not do."""

import numpy as np
import pytest

from tests.training.tasks.samples import LETTERS
from training.labels.sets import KeypointSet
from training.tasks.jitter import dense_view, pose_view
from training.tasks.view import Box, View, fit, points_to_image

SIZE = (256, 192)
BOX = (100.0, 50.0, 220.0, 400.0)
KEYS = range(400)


def centre(view: View) -> np.ndarray:
    return points_to_image(np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2]), view)


def test_pose_views_have_the_published_spread() -> None:
    unlabelled = np.zeros((12, 3))  # no half bodies
    views = [pose_view(BOX, unlabelled, LETTERS, SIZE, key) for key in KEYS]
    whole = fit(BOX, SIZE)
    extents = np.array([whole.scale / view.scale for view in views])
    angles = np.array([view.angle for view in views])
    shifts = np.array([centre(view) - centre(whole) for view in views]) * whole.scale / (SIZE[1] - 1, SIZE[0] - 1)
    assert 0.5 <= extents.min() < 0.6
    assert 1.4 < extents.max() <= 1.5
    assert extents.mean() == pytest.approx(1, abs=0.05)
    assert extents.std() == pytest.approx(0.27, abs=0.03)  # half of the cut normal's 0.54
    assert np.abs(angles).max() <= 80
    assert (angles != 0).mean() == pytest.approx(0.6, abs=0.08)
    assert np.abs(shifts).max() <= 0.16
    assert (np.abs(shifts).max(1) > 1e-9).mean() == pytest.approx(0.3, abs=0.08)
    assert np.mean([view.flipped for view in views]) == pytest.approx(0.5, abs=0.08)


def test_dense_views_stay_about_the_box() -> None:
    whole = fit(BOX, SIZE)
    close = 0
    for key in KEYS:
        zoom = dense_view(BOX, SIZE, key, 0, 0)
        extent = whole.scale / zoom.view.scale
        assert 0.5 - 1e-9 <= extent <= 1.25 + 1e-9
        assert 0.2 <= zoom.detail <= 1
        assert (zoom.detail < 1) == (extent > 1)
        far = np.abs(centre(zoom.view) - centre(whole)) * whole.scale / (SIZE[1] - 1, SIZE[0] - 1)
        assert (far <= abs(1 - extent) / 2 + 1e-9).all()
        close += extent < 1
    assert close / len(KEYS) == pytest.approx(1 / 1.8, abs=0.08)


def test_dense_views_turn_as_told() -> None:
    angles = np.array([dense_view(BOX, SIZE, key, 45, 0.5).view.angle for key in KEYS])
    assert 40 < np.abs(angles).max() <= 45
    assert (angles != 0).mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("box", [BOX, (0.0, 0.0, 1.0, 1.0), (-500.0, 3.0, -400.0, 9.0), (0.0, 0.0, 30000.0, 2.0)])
def test_any_box_has_views(box: Box) -> None:
    for key in range(20):
        assert np.isfinite(dense_view(box, SIZE, key, 60, 0.5).view.matrix).all()
        assert np.isfinite(pose_view(box, np.ones((12, 3)), LETTERS, SIZE, key).matrix).all()


def test_face_and_hands_move_no_half_body() -> None:
    """They are 110 of 133 keypoints and would draw every upper half to themselves."""
    whole = KeypointSet.load("wholebody133")
    body = np.zeros((133, 3))
    body[:23] = (*BOX[:2], 1) + np.random.default_rng(0).uniform(size=(23, 3)) * (120, 350, 0)
    full = body.copy()
    full[23:] = (160, 60, 1)

    def seen(keypoints: np.ndarray) -> np.ndarray:
        return np.array([pose_view(BOX, keypoints, whole, SIZE, key).matrix for key in KEYS])

    np.testing.assert_array_equal(seen(full), seen(body))
    assert (seen(body) != seen(np.zeros((133, 3)))).any()  # halves are among them
