"""Views: the map, the way back, sampling."""

import cv2
import numpy as np
import pytest

from shards.crop import BrokenImage, Encoded
from tests.training.tasks.samples import jpeg, smooth
from training.tasks.view import (
    fit,
    look,
    map_to_image,
    points_to_image,
    read_image,
    turn_vectors,
    vectors_to_image,
    warp_image,
    warp_labels,
    warp_points,
)

SIZE = (256, 192)


def test_a_fitted_view_holds_the_padded_box_from_centre_to_centre() -> None:
    view = fit((100, 50, 200, 450), SIZE)
    height = 400 * 1.25
    width = height * 191 / 255
    corners = np.array([[150 - width / 2, 250 - height / 2], [150 + width / 2, 250 + height / 2]])
    np.testing.assert_allclose(warp_points(corners, view), [[0, 0], [191, 255]], atol=1e-9)


def test_a_wide_box_is_widened_downwards() -> None:
    view = fit((0, 0, 400, 10), SIZE, padding=1.0)
    np.testing.assert_allclose(warp_points(np.array([[0, 5], [400, 5]]), view), [[0, 127.5], [191, 127.5]], atol=1e-9)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("angle", [0.0, 37.0, -80.0, 180.0])
def test_points_and_vectors_come_back(angle: float, flipped: bool) -> None:
    view = look((70, 90), 120, SIZE, angle, flipped)
    points = np.random.default_rng(0).uniform(0, 200, (50, 2))
    np.testing.assert_allclose(points_to_image(warp_points(points, view), view), points, atol=1e-9)
    vectors = np.random.default_rng(1).normal(size=(50, 3))
    np.testing.assert_allclose(vectors_to_image(turn_vectors(vectors, view), view), vectors, atol=1e-12)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("angle", [0.0, 37.0, -80.0])
def test_vectors_turn_as_points_do(angle: float, flipped: bool) -> None:
    """An arrow between two points of the photo points, in the view, from the one's image to the other's."""
    view = look((70, 90), 120, SIZE, angle, flipped)
    start, end = np.array([60.0, 80.0]), np.array([75.0, 72.0])
    arrow = np.array([end[0] - start[0], -(end[1] - start[1]), 5.0])  # y up
    a, b = warp_points(np.stack([start, end]), view)
    expected = [(b[0] - a[0]) / view.scale, -(b[1] - a[1]) / view.scale, 5.0]
    np.testing.assert_allclose(turn_vectors(arrow, view), expected, atol=1e-9)


def test_a_positive_angle_turns_anticlockwise() -> None:
    view = look((50, 50), 100, (101, 101), angle=90)
    np.testing.assert_allclose(warp_points(np.array([[100.0, 50.0]]), view), [[50, 0]], atol=1e-9)  # right goes up


@pytest.mark.parametrize(("angle", "turned"), [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_quarter_turns_are_exact(angle: int, turned: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (65, 65, 3), dtype=np.uint8)
    view = look((32, 32), 64, (65, 65), angle)
    np.testing.assert_array_equal(warp_image(photo, view), np.rot90(photo, turned))
    np.testing.assert_array_equal(warp_labels(photo, view, 0), np.rot90(photo, turned))


def test_a_mirrored_view_is_the_view_mirrored() -> None:
    photo = smooth(300, 200)
    plain, mirrored = look((90, 140), 120, SIZE, 25), look((90, 140), 120, SIZE, 25, flipped=True)
    difference = warp_image(photo, plain)[:, ::-1].astype(int) - warp_image(photo, mirrored)
    assert np.abs(difference).max() <= 2


def test_a_photo_is_seen_alike_at_every_decoding() -> None:
    photo = smooth(1600, 1200)
    data = Encoded(jpeg(photo))
    for width in (150, 500, 1100, 3000):
        view = look((600, 700), width, SIZE, 20)
        assert np.abs(read_image(data, view).astype(int) - warp_image(photo, view)).mean() < 2


@pytest.mark.parametrize(
    ("width", "height", "size"), [(1601, 1201, (150, 200)), (500, 375, (256, 192)), (2401, 3201, (1024, 768))]
)
def test_a_smaller_decoding_moves_nothing(width: int, height: int, size: tuple[int, int]) -> None:
    """At 1, 4 and 3 eighths, of sides that these do not divide: a soft spot stays where its centre maps to."""
    view = fit((0, 0, width - 1, height - 1), size, padding=1.0)
    centre = np.array([width - 1 - width / 12, height - 1 - height / 12])
    x, y = (
        np.exp(-(((np.arange(n) - c) * view.scale / 3) ** 2) / 2) for n, c in zip((width, height), centre, strict=True)
    )
    encoded = Encoded(jpeg((250 * y[:, None] * x).round().astype(np.uint8)[..., None].repeat(3, 2)))
    assert encoded.decode(view.scale, view.scale).shape[0] < height
    at = warp_points(centre, view)
    rows, columns = np.indices(size)
    near = (abs(columns - at[0]) < 15) & (abs(rows - at[1]) < 15)
    seen = read_image(encoded, view)[..., 0] * near.astype(float)
    found = [(seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum()]
    np.testing.assert_allclose(found, at, atol=0.1)


def test_shrinking_does_not_alias() -> None:
    """A fine chequerboard becomes grey, where bilinear sampling alone would give patterns of black and white."""
    board = np.indices((1024, 1024)).sum(0) % 2 * 255
    photo = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    seen = warp_image(photo, look((511.5, 511.5), 900, (64, 64), 13))
    assert np.abs(seen[4:-4, 4:-4].astype(int) - 127).max() <= 8


def test_shrinking_moves_nothing() -> None:
    """A soft spot stays where its centre maps to, from every scale."""
    y, x = np.indices((900, 900))
    spot = 255 * np.exp(-((x - 411.3) ** 2 + (y - 502.8) ** 2) / (2 * 60**2))
    photo = np.repeat(spot[..., None], 3, axis=2).round().astype(np.uint8)
    for width in (300, 500, 880):
        view = look((430, 480), width, (97, 97), 11)
        seen = warp_image(photo, view)[..., 0].astype(float) ** 4
        rows, columns = np.indices(seen.shape)
        found = [(columns * seen).sum() / seen.sum(), (rows * seen).sum() / seen.sum()]
        np.testing.assert_allclose(found, warp_points(np.array([411.3, 502.8]), view), atol=0.1)


@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_maps_come_back_to_where_they_were(angle: float) -> None:
    """A ramp over the photo, drawn in a view at half its resolution, is the same ramp again."""
    view = look((210, 160), 300, SIZE, angle)
    rows, columns = 128, 96
    at = np.stack(np.meshgrid(np.arange(columns) * 2 + 0.5, np.arange(rows) * 2 + 0.5), axis=-1)
    ramp = (points_to_image(at, view) @ [0.5, 0.25]).astype(np.float32)
    region = (150, 100, 260, 230)
    back = map_to_image(ramp, view, region)
    y, x = np.mgrid[100:230, 150:260]
    np.testing.assert_allclose(back, 0.5 * x + 0.25 * y, atol=0.1)
    assert view.shows(region).all()


def test_a_region_is_what_the_view_shows() -> None:
    for view in (fit((30, 20, 120, 200), SIZE), look((100, 90), 90, SIZE, 33, True)):
        x0, y0, x1, y1 = view.region(240, 160)
        shown = view.shows((0, 0, 160, 240))
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        assert x0 <= columns[0] <= columns[-1] < x1
        assert y0 <= rows[0] <= rows[-1] < y1
        if view.angle == 0:
            assert shown[y0:y1, x0:x1].all()


def test_what_a_view_holds_of_a_photo() -> None:
    view = look((0, 0), 40, SIZE, 45)
    expected = warp_labels(np.ones((60, 50), np.uint8), view, 0) > 0
    assert (view.holds(60, 50) != expected).mean() < 0.005


def test_a_view_past_the_photo_is_black_and_has_no_region() -> None:
    view = fit((5000, 5000, 5100, 5200), SIZE)
    photo = smooth(100, 80)
    assert not warp_image(photo, view).any()
    assert (warp_labels(photo[..., 0], view, 255) == 255).all()
    x0, y0, x1, y1 = view.region(100, 80)
    assert (x1 - x0) * (y1 - y0) == 0
    assert map_to_image(np.zeros((64, 48), np.float32), view, (x0, y0, x1, y1)).size == 0


def test_a_person_cut_by_the_edge_is_seen_beside_black() -> None:
    photo = np.full((100, 80, 3), 200, np.uint8)
    seen = warp_image(photo, fit((-40, 0, 40, 100), SIZE, padding=1.0))
    assert (seen[128, :90] == 0).all()
    assert (seen[128, 100:] == 200).all()


@pytest.mark.parametrize("box", [(5, 5, 5, 5), (9, 0, 3, 10), (0, 0, float("nan"), 4), (0, 0, float("inf"), 4)])
def test_a_box_without_extent_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(BrokenImage, match="no extent"):
        fit(box, SIZE)


def test_a_strided_photo_is_fine() -> None:
    photo = smooth(120, 90)
    view = look((45, 60), 60, SIZE)
    wide = cv2.copyMakeBorder(photo, 0, 0, 0, 40, cv2.BORDER_CONSTANT)[:, :90]
    np.testing.assert_array_equal(warp_image(wide, view), warp_image(photo, view))
