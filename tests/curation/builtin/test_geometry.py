"""Letterboxes, suppression, text regions and pooled features."""

import cv2
import numpy as np
import pytest

from curation.builtin.boxes import input_shape, keep_best, letterbox
from curation.builtin.heads import pooled, related
from curation.builtin.networks import inside
from curation.builtin.text import text_boxes


@pytest.mark.parametrize("shape", [(100, 300), (300, 100), (7, 1000), (64, 64), (1, 1), (48, 64), (90, 100)])
def test_letterbox_keeps_the_shape_and_fills_the_rest(shape: tuple[int, int]) -> None:
    canvas, scale = letterbox(np.full((*shape, 3), 9, np.uint8), 128)
    rows, columns = inside(*shape, 128, 1)
    assert canvas.shape == (*input_shape(*shape, 128), 3)
    assert scale == 128 / max(shape)
    assert (canvas[:rows, :columns] == 9).all()
    assert (canvas[rows:] == 114).all()
    assert (canvas[:, columns:] == 114).all()


@pytest.mark.parametrize(
    ("picture", "size", "expected"),
    [
        ((480, 640), 448, (352, 448)),
        ((640, 480), 448, (448, 352)),
        ((427, 640), 448, (320, 448)),
        ((720, 1280), 448, (256, 448)),
        ((500, 640), 448, (352, 448)),
        ((520, 640), 448, (448, 448)),
        ((1000, 100), 320, (320, 192)),
        ((5, 5), 320, (320, 320)),
    ],
)
def test_a_picture_gets_the_smallest_of_four_shapes_that_holds_it(
    picture: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    assert input_shape(*picture, size) == expected


def test_a_margin_is_kept_beside_the_picture_unless_it_is_square() -> None:
    for height in range(1, 641, 13):
        rows, _ = inside(height, 640, 448, 1)
        shape, _ = input_shape(height, 640, 448, margin=16)
        assert shape == 448 or rows + 16 <= shape
    assert input_shape(720, 1280, 448, margin=16) == (288, 448)
    assert letterbox(np.zeros((720, 1280, 3), np.uint8), 448, margin=16)[0].shape == (288, 448, 3)


def test_keep_best_drops_the_weaker_of_two_alike_and_what_scores_too_low() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [50, 50, 60, 70], [80, 80, 90, 90]], np.float32)
    kept = keep_best(boxes, np.array([0.6, 0.9, 0.5, 0.01], np.float32), 0.05, 0.6)
    np.testing.assert_allclose(kept, [[1, 0, 10, 10, 0.9], [50, 50, 60, 70, 0.5]], rtol=1e-6)


def test_keep_best_of_nothing_is_an_empty_table() -> None:
    assert keep_best(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.05, 0.6).shape == (0, 5)


def test_a_line_of_text_becomes_one_grown_box() -> None:
    chance = np.zeros((200, 300), np.float32)
    chance[50:60, 40:200] = 0.95
    (row,) = text_boxes(chance)
    corners, score = row[:8].reshape(4, 2), row[8]
    assert corners.min(0) == pytest.approx([40 - 7.5, 50 - 7.5], abs=2)
    assert corners.max(0) == pytest.approx([200 + 7.5, 60 + 7.5], abs=2)
    assert score > 0.9


def test_slanted_text_keeps_its_angle() -> None:
    chance = np.zeros((200, 200), np.float32)
    cv2.fillPoly(chance, [np.int32(cv2.boxPoints(((100, 100), (120, 14), 30)))], 0.9)
    (row,) = text_boxes(chance)
    assert cv2.contourArea(row[:8].reshape(4, 2)) < 0.45 * np.prod(np.ptp(row[:8].reshape(4, 2), 0))


def test_a_ragged_blob_and_a_faint_line_are_no_text() -> None:
    rng = np.random.default_rng(0)
    chance = np.zeros((200, 200), np.float32)
    chance[20:120, 20:120] = rng.uniform(0, 1, (100, 100))
    chance[150:160, 20:180] = 0.5
    assert len(text_boxes(chance)) == 0


def test_pooled_features_ignore_the_padding() -> None:
    feature_map = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32)
    before = pooled(feature_map, 4, 6)
    feature_map[:, 4:] = 99
    feature_map[:, :, 6:] = -99
    np.testing.assert_array_equal(pooled(feature_map, 4, 6), before)
    np.testing.assert_allclose(before[:5], feature_map[:, :4, :6].mean((1, 2)), rtol=1e-5)


def test_channels_that_go_together_are_told_without_scale_and_padding() -> None:
    feature_map = np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32)
    feature_map[3] = 5 - 0.1 * feature_map[0]
    feature_map[:, 4:], feature_map[:, :, 6:] = 99, -99
    found = related(feature_map, 4, 6)
    wanted = np.corrcoef(feature_map[:, :4, :6].reshape(4, -1))[np.triu_indices(4, 1)]
    np.testing.assert_allclose(found, wanted, atol=5e-3)
    assert found[2] < -0.99  # of the first and the last
    assert np.isfinite(related(np.zeros((4, 8, 8), np.float32), 4, 6)).all()
