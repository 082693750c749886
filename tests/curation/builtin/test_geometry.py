"""Letterboxes, suppression, text regions and pooled features."""

import cv2
import numpy as np
import pytest

from curation.builtin.boxes import input_shape, keep_best, letterbox
from curation.builtin.heads import pooled
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
        ((480, 640), 512, (416, 512)),
        ((640, 480), 512, (512, 416)),
        ((427, 640), 480, (384, 480)),
        ((500, 640), 512, (416, 512)),
        ((520, 640), 512, (512, 512)),
        ((1000, 100), 320, (320, 256)),
        ((5, 5), 320, (320, 320)),
    ],
)
def test_a_picture_that_fits_gets_three_quarters_of_the_square(
    picture: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    assert input_shape(*picture, size) == expected


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
