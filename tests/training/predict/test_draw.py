"""Pictures: what is near is bright, left is left, and nobody is grey."""

from dataclasses import replace

import numpy as np
import pytest

from tests.training.predict.oracle import COCO, SAPIENS, compose, scene
from training.labels.sets import KeypointSet
from training.predict.compose import Composer, Person
from training.predict.draw import (
    LEFT,
    MIDDLE,
    NOBODY,
    RIGHT,
    Style,
    draw_depth,
    draw_normals,
    draw_parts,
    draw_pose,
    overlay,
    panel,
    scales,
    side_colours,
)

STYLE = Style(COCO, SAPIENS, side=200)


@pytest.fixture(scope="module")
def found():
    return compose(scene(3, 1))


def test_near_is_brighter_than_far_for_each_person_alone():
    depth = np.array([[0.1, 0.9, np.nan], [5.0, 9.0, np.nan]], np.float32)
    owner = np.array([[1, 1, 0], [2, 2, 0]], np.uint16)
    drawn = draw_depth(depth, owner, [(0.1, 0.9), (5.0, 9.0)]).astype(int).sum(2)
    assert (drawn[:, 0] > drawn[:, 1] + 300).all()
    np.testing.assert_array_equal(drawn[0, :2], drawn[1, :2])
    assert (drawn[:, 2] == 3 * NOBODY).all()


def test_flat_or_absent_depth_is_drawn_too():
    assert draw_depth(np.ones((2, 2), np.float32), np.ones((2, 2), np.uint16), [(1.0, 1.0)]).shape == (2, 2, 3)
    nothing = draw_depth(np.full((2, 2), np.nan, np.float32), np.zeros((2, 2), np.uint16), [])
    assert (nothing == NOBODY).all()


def test_normals_have_their_familiar_colours():
    normals = np.array([[[0, 0, 1], [1, 0, 0], [0, 1, 0], [np.nan] * 3]], np.float32)
    np.testing.assert_array_equal(
        draw_normals(normals)[0], [[128, 128, 255], [255, 128, 128], [128, 255, 128], [NOBODY] * 3]
    )


def test_parts_have_the_colours_of_their_list_and_nobody_has_none():
    picture = np.full((4, 4, 3), 128, np.uint8)
    parts = np.zeros((4, 4), np.uint8)
    parts[:2] = 1  # Apparel, 255 218 0
    drawn = draw_parts(picture, parts, SAPIENS)
    np.testing.assert_allclose(drawn[0, 0], 0.3 * 128 + 0.7 * np.array([255, 218, 0]), atol=1)
    assert np.ptp(drawn[3, 3].astype(int)) == 0


def test_left_limbs_are_drawn_in_their_colour():
    points = np.zeros((17, 3))
    points[COCO.names.index("left_elbow")] = 80, 80, 0.9
    points[COCO.names.index("left_wrist")] = 80, 240, 0.9
    points[COCO.names.index("right_wrist")] = 280, 240, 0.1
    composer = Composer(np.full((400, 400, 3), 255, np.uint8), np.array([[0, 0, 400, 400, 1]], np.float32), ["pose"])
    found = replace(composer.done(), people=(Person((0, 0, 400, 400), 1.0, points),))
    drawn = draw_pose(found.image, found, STYLE)
    assert tuple(drawn[160, 80]) == LEFT
    assert (drawn[:, 240:] == 255).all(), "a keypoint below the least score is not drawn"
    assert side_colours(COCO)[COCO.names.index("right_knee")] == RIGHT
    published = KeypointSet.load("goliath308")
    colours = dict(zip(published.names, side_colours(published), strict=True))
    assert (colours["r_center_of_iris"], colours["end_of_l_eyebrow"], colours["nose"]) == (RIGHT, LEFT, MIDDLE)


def test_a_panel_has_a_column_per_task_and_even_sides(found):
    height, width, _ = panel(found, STYLE).shape
    assert height % 2 == width % 2 == 0
    assert width == 5 * 200 + 4 * 4
    fewer = panel(replace(found, depth=None, normals=None, parts=None), Style(COCO, None, side=200))
    assert fewer.shape[1] == 2 * 200 + 4


def test_the_panel_shows_nobody_as_grey(found):
    empty = Composer(found.image, np.empty((0, 5), np.float32), ["pose", "parts", "depth", "normals"]).done()
    drawn = panel(empty, STYLE)
    assert (drawn[100, -100] == NOBODY).all()
    assert scales(empty) == []


def test_the_overlay_has_the_photo_s_size_and_leaves_the_background(found):
    drawn = overlay(found, STYLE)
    assert drawn.shape == found.image.shape
    away = np.ones(found.owner.shape, bool)
    for person in found.people:
        x0, y0, x1, y1 = (int(v) for v in person.box)
        away[max(0, y0 - 15) : y1 + 15, max(0, x0 - 15) : x1 + 15] = False
    np.testing.assert_array_equal(drawn[away & (found.parts == 0)], found.image[away & (found.parts == 0)])


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (2, 2)])
def test_pictures_of_odd_shapes_are_drawn(shape):
    box = np.array([[0, 0, shape[1], shape[0], 1]], np.float32)
    found = Composer(np.zeros((*shape, 3), np.uint8), box, ["parts", "depth"]).done()
    assert all(side % 2 == 0 for side in panel(found, Style(None, SAPIENS, side=64)).shape[:2])
    assert overlay(found, Style(None, SAPIENS)).shape == (*shape, 3)
