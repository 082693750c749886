"""Depth: targets, loss, metric, the way back."""

import numpy as np
import pytest
import torch

from shards.crop import BrokenImage
from shards.labelled import LabelledSample
from tests.training.tasks.samples import jpeg, sample, smooth
from training.labels.decode import depth_to_png
from training.tasks import depth
from training.tasks.view import fit, look

SIZE = (256, 192)


def hill(height: int = 201, width: int = 161) -> np.ndarray:
    """Metres; a disc is nearer in its middle, nothing beside it."""
    y, x = np.indices((height, width))
    radius = np.hypot(x - width // 2, y - height // 2) / (min(height, width) * 0.45)
    return np.where(radius < 1, 2 + 0.8 * radius + 0.002 * x, np.nan).astype(np.float32)


def depth_sample(metres: np.ndarray) -> LabelledSample:
    label, near, far = depth_to_png(metres)
    rows, columns = np.flatnonzero(np.isfinite(metres).any(1)), np.flatnonzero(np.isfinite(metres).any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return sample(jpeg(smooth(*metres.shape)), label, box, near=near, far=far)


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_depth_is_0_nearest_and_1_farthest_in_every_view() -> None:
    given, draw = depth_sample(hill()), depth.Draw(SIZE, None, True)
    for key in range(20):
        target = draw(given, key)[1]["depth"]
        valid = target != depth.NONE
        assert (target[valid].min(), target[valid].max()) == (0, 1)
        assert target.dtype == np.float32


def test_augmented_depth_is_that_of_the_same_places() -> None:
    """The hill's formula, asked at the places of the photo that the view's pixels came from."""
    given, draw = depth_sample(hill()), depth.Draw(SIZE, None, True)
    for key in range(20):
        view = draw.view(given, key)
        target = draw(given, key)[1]["depth"]
        back = np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), axis=-1) @ view.inverse[:, :2].T
        x, y = np.moveaxis(back + view.inverse[:, 2], -1, 0)
        radius = np.hypot(x - 80, y - 100) / (161 * 0.45)
        metres = 2 + 0.8 * radius + 0.002 * x
        valid = target != depth.NONE
        assert (valid[radius < 0.97] | ~view.holds(201, 161)[radius < 0.97]).all()
        assert not valid[radius > 1.03].any()
        a, b = np.polyfit(target[valid], metres[valid], 1)
        np.testing.assert_allclose(a * target[valid] + b, metres[valid], atol=0.02)


def test_a_mirrored_view_has_the_labels_of_the_mirrored_photo() -> None:
    metres = hill()
    view, plain = look((70, 110), 130, SIZE, 0, flipped=True), look((160 - 70, 110), 130, SIZE)
    a, b = depth.to_view(metres, view), depth.to_view(metres[:, ::-1].copy(), plain)
    assert ((a == depth.NONE) != (b == depth.NONE)).mean() < 0.005
    both = (a != depth.NONE) & (b != depth.NONE)
    np.testing.assert_allclose(a[both], b[both], atol=0.02)


def test_a_turned_view_has_the_labels_of_the_turned_photo() -> None:
    metres = hill(161, 161)
    view, plain = look((70, 90), 130, SIZE, 90), look((90, 160 - 70), 130, SIZE)
    a, b = depth.to_view(metres, view), depth.to_view(np.rot90(metres).copy(), plain)
    both = (a != depth.NONE) & (b != depth.NONE)
    assert both.mean() > 0.3
    np.testing.assert_allclose(a[both], b[both], atol=0.02)


@pytest.mark.parametrize("metres", [np.full((20, 20), np.nan), np.full((20, 20), np.inf)])
def test_a_view_without_depth_is_none(metres: np.ndarray) -> None:
    seen = depth.to_view(metres.astype(np.float32), look((10, 10), 15, SIZE))
    assert (seen == depth.NONE).all()


def test_flat_depth_stays_finite() -> None:
    seen = depth.to_view(np.full((20, 20), 3, np.float32), look((10, 10), 10, SIZE))
    assert (seen == 0).all()


def test_a_label_without_near_and_far_is_refused() -> None:
    given = depth_sample(hill())
    with pytest.raises(BrokenImage, match="near nan"):
        depth.Draw(SIZE, None, True)(sample(given.image, given.label, given.box))


# -- learning ----------------------------------------------------------------------------------------------------------


def silog(output: np.ndarray, target: np.ndarray) -> float:
    values = []
    for o, t in zip(output[:, 0].astype(np.float64), target.astype(np.float64), strict=True):
        valid = t > 1e-6
        d = np.log(t[valid]) - np.log(np.maximum(o[valid], 1e-6))
        values.append(np.sqrt(np.mean(d**2) - 0.5 * np.mean(d) ** 2))
    return float(np.mean(values))


def test_the_loss_is_the_published_formula() -> None:
    rng = np.random.default_rng(0)
    output = rng.normal(0.5, 0.4, (3, 1, 20, 16)).astype(np.float32)
    target = rng.random((3, 20, 16)).astype(np.float32)
    target[0, :10] = depth.NONE
    found = depth.loss(torch.tensor(output), {"depth": torch.tensor(target)})
    assert (output < 0).any()
    assert found.item() == pytest.approx(silog(output, target), rel=1e-5)


@pytest.mark.parametrize(
    "target", [torch.full((2, 8, 6), depth.NONE), torch.zeros(2, 8, 6), torch.full((2, 8, 6), 0.5)]
)
def test_the_loss_and_its_gradient_are_finite_where_it_is_zero(target: torch.Tensor) -> None:
    """Nothing labelled, everything nearest, and an answer without any error."""
    output = torch.full((2, 1, 8, 6), 0.5, requires_grad=True)
    loss = depth.loss(output, {"depth": target})
    loss.backward()
    assert loss.item() == 0
    assert output.grad is not None
    assert output.grad.abs().max() == 0


def test_with_a_floor_logarithms_are_bounded_and_no_output_is_dead() -> None:
    """The formula in float64; far from 0 it is the published one of depths moved by the floor."""
    rng = np.random.default_rng(1)
    output = rng.normal(0.3, 0.4, (2, 1, 20, 16)).astype(np.float32)
    target = rng.random((2, 20, 16)).astype(np.float32)
    target[0, :5], target[0, 5] = depth.NONE, 0.0
    given = torch.tensor(output, requires_grad=True)
    loss = depth.loss(given, {"depth": torch.tensor(target)}, floor=0.1)
    loss.backward()
    values = []
    for o, t in zip(output[:, 0].astype(np.float64), target.astype(np.float64), strict=True):
        d = np.log(t[t >= 0] + 0.1) - np.log(np.log1p(np.exp(20 * o[t >= 0])) / 20 + 0.1)
        values.append(np.sqrt(np.mean(d**2) - 0.5 * np.mean(d) ** 2))
    assert loss.item() == pytest.approx(np.mean(values), rel=1e-4)
    assert given.grad is not None
    assert (given.grad[:, 0][torch.tensor(target) >= 0] != 0).all()
    far = depth.loss(torch.full((1, 1, 4, 4), 0.9), {"depth": torch.full((1, 4, 4), 0.6)}, floor=0.1)
    assert far.item() == pytest.approx(np.sqrt(0.5) * abs(np.log(0.7 / 1.0)), rel=1e-4)


@pytest.mark.parametrize("floor", [0.01, 0.1, 1.0])
def test_what_a_floor_teaches_is_what_is_decoded(floor: float) -> None:
    """An output that equals its target costs next to nothing: it is the relative depth itself, at every floor."""
    target = torch.linspace(0.15, 1, 120).reshape(1, 12, 10)
    assert depth.loss(target[:, None], {"depth": target}, floor=floor).item() < 0.005
    assert depth.loss(target[:, None] + 0.1, {"depth": target}, floor=floor).item() > 0.03


@pytest.mark.parametrize("target", [torch.full((2, 8, 6), depth.NONE), torch.zeros(2, 8, 6)])
def test_with_a_floor_it_is_finite_where_nothing_is_labelled_or_all_is_nearest(target: torch.Tensor) -> None:
    output = torch.full((2, 1, 8, 6), -0.5, requires_grad=True)
    loss = depth.loss(output, {"depth": target}, floor=0.1)
    loss.backward()
    assert output.grad is not None
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(output.grad).all())


def test_an_unlabelled_image_does_not_disturb_its_neighbour() -> None:
    output = torch.rand(2, 1, 8, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    target = torch.rand(2, 8, 6, generator=torch.Generator().manual_seed(1))
    target[1] = depth.NONE
    alone = depth.loss(output[:1], {"depth": target[:1]})
    assert depth.loss(output, {"depth": target}).item() == pytest.approx(alone.item() / 2)


# -- using -------------------------------------------------------------------------------------------------------------


def test_the_view_of_a_label_decodes_to_the_label() -> None:
    metres = hill()
    view = look((80, 100), 250, (512, 384), 20, flipped=True)
    seen = depth.to_view(metres, view)
    found = depth.decode(seen[None], view, (40, 60, 120, 140))
    a, b = np.polyfit(found.ravel(), metres[60:140, 40:120].ravel(), 1)
    np.testing.assert_allclose(a * found + b, metres[60:140, 40:120], atol=0.02)


def test_outputs_below_0_are_all_the_nearest() -> None:
    """What the loss cannot tell apart is one answer, so that no alignment takes it for relief."""
    view = look((80, 100), 250, (512, 384), 0)
    output = np.linspace(-1, 1, 128 * 96, dtype=np.float32).reshape(1, 128, 96)
    region = (40, 60, 120, 140)
    found = depth.decode(output, view, region)
    assert found.min() == 0
    above = depth.decode(np.maximum(output, 0), view, region)
    np.testing.assert_array_equal(found, above)
    assert (depth.decode(-np.ones_like(output), view, region) == 0).all()


def test_beyond_the_view_there_is_no_depth() -> None:
    view = look((50, 50), 30, SIZE, 45)
    found = depth.decode(np.ones((1, 64, 48), np.float32), view, (0, 0, 100, 100))
    np.testing.assert_array_equal(np.isfinite(found), view.shows((0, 0, 100, 100)))


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_their_formulas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    metric, expected = depth.Metric(), []
    for _ in range(3):
        labelled = rng.uniform(1, 4, (30, 20)).astype(np.float32)
        labelled[rng.random((30, 20)) < 0.4] = np.nan
        found = (0.3 * labelled + 0.1 + rng.normal(0, 0.1, (30, 20))).astype(np.float32)
        found[np.isnan(found)] = rng.normal(size=np.isnan(found).sum())
        metric.add_depth(found, labelled)
        g = labelled[np.isfinite(labelled)].astype(np.float64)
        p = found[np.isfinite(labelled)].astype(np.float64)
        s, t = np.linalg.lstsq(np.column_stack([p, np.ones_like(p)]), g, rcond=None)[0]
        q = np.maximum(s * p + t, 1e-3 * np.median(g))
        unaligned = np.sqrt(np.mean((p - (g - g.min()) / (g.max() - g.min())) ** 2))
        ratio = np.maximum(q / g, g / q)
        expected.append([np.mean(abs(q - g) / g), np.sqrt(np.mean((q - g) ** 2)), np.mean(ratio < 1.25), unaligned])
    assert list(metric.result().values()) == pytest.approx(list(np.mean(expected, axis=0)), rel=1e-9)
    assert metric.n == 3


def test_a_constant_answer_is_the_mean() -> None:
    labelled = np.array([[1.0, 2.0, 3.0]])
    metric = depth.Metric()
    metric.add_depth(np.full((1, 3), 0.7), labelled)
    assert metric.result()["RMSE"] == pytest.approx(np.sqrt(2 / 3))


def test_a_photo_is_measured_through_its_view() -> None:
    given = depth_sample(hill())
    view = fit(given.box, (512, 384))
    metric = depth.Metric()
    metric.add(depth.to_view(hill(), view)[None], view, given)
    result = metric.result()
    assert result["delta1"] is not None
    assert result["delta1"] > 0.97  # the rim mixes with what has no depth


def test_photos_without_depth_count_nowhere() -> None:
    metric = depth.Metric()
    metric.add_depth(np.ones((4, 4)), np.full((4, 4), np.nan))
    assert metric.n == 0
    assert set(metric.result().values()) == {None}


def test_parts_of_a_measurement_add_up() -> None:
    rng = np.random.default_rng(0)
    whole, halves = depth.Metric(), [depth.Metric(), depth.Metric()]
    for number in range(5):
        found, labelled = rng.uniform(1, 2, (2, 9, 9))
        for metric in (whole, halves[number % 2]):
            metric.add_depth(found, labelled)
    merged = depth.Metric.from_states([half.state() for half in halves])
    assert merged.n == 5
    assert merged.result() == pytest.approx(whole.result())
