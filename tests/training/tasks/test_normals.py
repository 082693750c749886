"""Normals: targets, loss, metric, the way back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from shards.crop import BrokenImage
from shards.labelled import LabelledSample
from tests.training.tasks.samples import jpeg, sample, smooth, sphere
from training.labels.decode import normals_to_png
from training.tasks import dense, normals
from training.tasks.view import fit, look, warp_points

SIZE = (256, 192)


def sphere_sample() -> LabelledSample:
    return sample(jpeg(smooth(220, 180)), normals_to_png(sphere(220, 180, (85, 115), 60)), (25, 55, 146, 176))


def random_units(shape: tuple[int, ...], seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(*shape, 3))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_sphere_stays_a_sphere() -> None:
    """However a sphere is turned, zoomed and mirrored, its normals are a sphere's: vectors turn with the picture."""
    given, draw = sphere_sample(), dense.Draw(replace(normals.DENSE, rotation=180), SIZE, None, True)
    turned = mirrored = 0
    for key in range(30):
        view = draw.view(given, key)
        target = draw(given, key)[1]["normals"]
        expected = sphere(*SIZE, tuple(warp_points(np.array([85, 115]), view)), 60 * view.scale)
        sure = np.isfinite(expected[..., 0]) & (np.nan_to_num(expected[..., 2]) > 0.4) & target.any(axis=2)
        assert sure.mean() > 0.05
        off = normals.angles_between(target[sure], expected[sure])
        assert off.max() < 3.5  # half a pixel of a sphere 120 pixels wide
        turned, mirrored = turned + (view.angle != 0), mirrored + view.flipped
    assert 8 < turned < 25
    assert 8 < mirrored < 25


def test_sapiens_does_not_turn_normals() -> None:
    draw = normals.Draw(SIZE, None, True)
    assert {draw.view(sphere_sample(), key).angle for key in range(30)} == {0.0}


def test_a_mirrored_view_has_the_labels_of_the_mirrored_photo() -> None:
    given = random_units((7, 5), 0).repeat(30, axis=0).repeat(30, axis=1).astype(np.float32)
    mirrored = given[:, ::-1] * np.array([-1, 1, 1], np.float32)
    view, plain = look((70, 110), 170, SIZE, 0, flipped=True), look((149 - 70, 110), 170, SIZE)
    a, b = normals.to_view(given, view), normals.to_view(mirrored, plain)
    assert (np.abs(a - b).max(axis=2) > 1e-5).mean() < 0.01


def test_a_turned_view_has_the_labels_of_the_turned_photo() -> None:
    given = random_units((5, 5), 0).repeat(31, axis=0).repeat(31, axis=1).astype(np.float32)
    x, y, z = np.moveaxis(np.rot90(given), -1, 0)
    turned = np.stack([-y, x, z], axis=-1)  # a quarter turn anticlockwise takes right to up
    view, plain = look((70, 90), 170, SIZE, 90), look((90, 154 - 70), 170, SIZE)
    a, b = normals.to_view(given, view), normals.to_view(turned, plain)
    assert (np.abs(a - b).max(axis=2) > 1e-5).mean() < 0.01


def test_targets_are_unit_vectors_or_nothing() -> None:
    target = normals.Draw(SIZE, None, True)(sphere_sample(), 2)[1]["normals"]
    lengths = np.linalg.norm(target, axis=2)
    labelled = lengths > 0
    assert target.dtype == np.float32
    assert 0.05 < labelled.mean() < 0.95
    np.testing.assert_allclose(lengths[labelled], 1, atol=1e-5)


def test_vectors_of_any_length_become_unit_and_broken_ones_nothing() -> None:
    given = np.array([[3.0, 0, 4], [0, 0, 0], [np.nan, 1, 0], [np.inf, 0, 0]])
    with np.errstate(all="raise"):
        np.testing.assert_allclose(normals.unit(given), [[0.6, 0, 0.8], [0, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_a_label_of_another_size_is_refused() -> None:
    given = sphere_sample()
    with pytest.raises(BrokenImage, match="180 x 220 pixels where the photo has 90 x 80"):
        normals.Draw(SIZE, None, True)(sample(jpeg(smooth(80, 90)), given.label, given.box))


# -- learning ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_published_sum() -> None:
    rng = np.random.default_rng(0)
    output = rng.normal(size=(2, 3, 9, 7))
    target = random_units((2, 9, 7), 1)
    target[0, :4] = 0
    cosines, apart = [], []
    for image in range(2):
        for row in range(9):
            for column in range(7):
                n, o = target[image, row, column], output[image, :, row, column]
                if n.any():
                    cosines.append(1 - n @ o / np.linalg.norm(o))
                    apart.append(np.abs(o - n).sum())
    found = normals.loss(torch.tensor(output), {"normals": torch.tensor(target, dtype=torch.float32)})
    assert found.item() == pytest.approx(np.mean(cosines) + np.mean(apart), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_the_loss_and_its_gradient_are_finite_without_labels_and_at_zero(value: float) -> None:
    for target in (torch.zeros(1, 8, 6, 3), torch.tensor([0.0, 0, 1]).expand(1, 8, 6, 3)):
        output = torch.full((1, 3, 4, 3), value, requires_grad=True)
        loss = normals.loss(output, {"normals": target})
        loss.backward()
        assert torch.isfinite(loss)
        assert output.grad is not None
        assert torch.isfinite(output.grad).all()
        assert (loss.item() == 0) == (not target.any())


# -- using -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("angle", "flipped"), [(0, False), (50, False), (-20, True)])
def test_the_view_of_a_label_decodes_to_the_label(angle: float, flipped: bool) -> None:
    given = sphere(220, 180, (85, 115), 60)
    view = look((85, 115), 130, (512, 384), angle, flipped)
    seen = normals.to_view(given, view)
    half = seen[::2, ::2] / 2 + seen[1::2, 1::2] / 2
    region = (50, 80, 120, 150)
    found = normals.decode(half.transpose(2, 0, 1), view, region)
    labelled = given[80:150, 50:120]
    assert normals.angles_between(found.reshape(-1, 3), labelled.reshape(-1, 3)).max() < 3


def test_beyond_the_view_there_are_no_normals() -> None:
    view = look((50, 50), 30, SIZE, 45)
    found = normals.decode(np.ones((3, 64, 48), np.float32), view, (0, 0, 100, 100))
    np.testing.assert_array_equal(np.isfinite(found).all(axis=2), view.shows((0, 0, 100, 100)))


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_their_formulas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    metric, angles = normals.Metric(), []
    for photo in range(3):
        labelled = random_units((40, 30), seed * 10 + photo)
        found = (labelled + rng.normal(0, 0.3, labelled.shape)) * rng.uniform(0.5, 2, (40, 30, 1))
        labelled[rng.random((40, 30)) < 0.3] = np.nan
        metric.add_normals(found, labelled)
        for a, b in zip(found.reshape(-1, 3), labelled.reshape(-1, 3), strict=True):
            if np.isfinite(b).all():
                crossed = np.linalg.norm(np.cross(a, b))
                angles.append(math.degrees(math.atan2(crossed, a @ b)))
    result, exact = metric.result(), np.array(angles)
    assert result["mean"] == pytest.approx(exact.mean(), abs=1e-6)
    assert result["median"] == pytest.approx(np.median(exact), abs=0.02)
    for limit in (11.25, 22.5, 30):
        assert result[f"within_{limit:g}"] == pytest.approx((exact < limit).mean(), abs=1e-12)


def test_pixels_are_pooled_not_photos() -> None:
    """A small photo weighs less than a large one."""
    metric = normals.Metric()
    up, right = np.array([0.0, 1, 0]), np.array([1.0, 0, 0])
    metric.add_normals(np.tile(up, (3, 1)), np.tile(up, (3, 1)))
    metric.add_normals(np.tile(up, (1, 1)), np.tile(right, (1, 1)))
    assert metric.result()["mean"] == pytest.approx(90 / 4)
    assert metric.result()["within_30"] == pytest.approx(3 / 4)


def test_extremes_fit_the_histogram() -> None:
    metric = normals.Metric()
    metric.add_normals(np.array([[0.0, 0, -1], [0, 0, 0]]), np.array([[0.0, 0, 1], [0, 0, 1]]))
    assert metric.result()["mean"] == pytest.approx((180 + 90) / 2)


def test_a_photo_is_measured_through_its_view() -> None:
    given = sphere_sample()
    view = fit(given.box, (512, 384))
    metric = normals.Metric()
    metric.add(normals.to_view(sphere(220, 180, (85, 115), 60), view).transpose(2, 0, 1), view, given)
    mean = metric.result()["mean"]
    assert mean is not None
    assert mean < 1.5


def test_parts_of_a_measurement_add_up() -> None:
    whole, halves = normals.Metric(), [normals.Metric(), normals.Metric()]
    for number in range(5):
        found, labelled = random_units((50,), number), random_units((50,), number + 100)
        for metric in (whole, halves[number % 2]):
            metric.add_normals(found, labelled)
    merged = normals.Metric.from_states([half.state() for half in halves])
    assert merged.n == 5
    assert merged.result() == pytest.approx(whole.result())


def test_nothing_measured_is_not_a_number_made_up() -> None:
    metric = normals.Metric()
    metric.add_normals(np.ones((2, 2, 3)), np.full((2, 2, 3), np.nan))
    assert metric.n == 0
    assert set(metric.result().values()) == {None}
