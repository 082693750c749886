"""Keypoints: coding, targets, loss, metric."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from shards.crop import BrokenImage, Encoded
from shards.labelled import LabelledSample
from tests.training.tasks.samples import LETTERS, jpeg, sample, smooth
from training.labels.sets import KeypointSet
from training.tasks import pose
from training.tasks.heatmaps import encode, peaks, sigma
from training.tasks.view import View, fit, look, read_image, warp_points

SIZE = (256, 192)
LAST = np.array([SIZE[1] - 1, SIZE[0] - 1])


def person(seed: int = 0, height: int = 240, width: int = 200) -> np.ndarray:
    rng = np.random.default_rng(seed)
    count = len(LETTERS.names)
    return np.column_stack([rng.uniform(5, width - 5, count), rng.uniform(5, height - 5, count), np.full(count, 2)])


def pose_sample(keypoints: np.ndarray, height: int = 240, width: int = 200, **row: float) -> LabelledSample:
    box = (*keypoints[:, :2].min(0), *keypoints[:, :2].max(0))
    return sample(jpeg(smooth(height, width)), box=box, keypoints=keypoints.ravel().tolist(), **row)


# -- heatmaps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heatmap", "view_size"), [((64, 48), (256, 192)), ((256, 192), (1024, 768))])
def test_points_come_back_within_a_tenth_of_a_pixel(heatmap: tuple[int, int], view_size: tuple[int, int]) -> None:
    """Pixels of the view, everywhere up to its very edge."""
    rng = np.random.default_rng(0)
    last = np.array([view_size[1] - 1, view_size[0] - 1])
    shares = np.concatenate([rng.random((300, 2)), [[0, 0], [1, 1], [0, 1], [0.5, 1], [0.001, 0.998]]])
    heatmaps, weights = encode(torch.tensor(shares)[None], torch.ones(1, len(shares)), heatmap)
    found = peaks(heatmaps[0].numpy())
    assert (weights == 1).all()
    assert np.abs((found - shares) * last).max() < 0.1


def test_decoding_a_view_gives_pixels_of_the_photo() -> None:
    keypoints = person()
    for view in (fit((0, 0, 199, 239), SIZE), look((90, 120), 260, SIZE, 40, flipped=True)):
        shares, visible = pose.to_view(keypoints, view, LETTERS)
        heatmaps, _ = encode(torch.tensor(shares)[None], torch.tensor(visible)[None].float(), (64, 48))
        expected = keypoints[list(LETTERS.flip_order)] if view.flipped else keypoints
        inside = ((shares > 0) & (shares < 1)).all(1)
        found = pose.decode(heatmaps[0].numpy(), view)
        assert np.abs(found - expected)[inside, :2].max() * view.scale < 0.1
        assert found[inside, 2].min() > 0.8


def test_noise_moves_points_little() -> None:
    rng = np.random.default_rng(1)
    shares = rng.uniform(0.05, 0.95, (200, 2))
    heatmaps, _ = encode(torch.tensor(shares)[None], torch.ones(1, 200), (256, 192))
    noisy = heatmaps[0].numpy() + rng.normal(0, 0.02, (200, 256, 192)).astype(np.float32)
    assert np.abs((peaks(noisy) - shares) * [191, 255]).mean() < 0.5


def test_refinement_is_that_of_dark_udp() -> None:
    """Away from the edges: whole heatmaps blurred by OpenCV, then the published derivatives, one keypoint at a time."""
    rng = np.random.default_rng(4)
    shares = rng.uniform(0.25, 0.75, (40, 2))
    clean, _ = encode(torch.tensor(shares)[None], torch.ones(1, 40), (96, 72))
    heatmaps = clean[0].numpy() + rng.uniform(0, 0.05, (40, 96, 72)).astype(np.float32)
    for heatmap, found in zip(heatmaps, peaks(heatmaps) * [71, 95], strict=True):
        y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
        f = np.log(np.clip(cv2.GaussianBlur(heatmap, (11, 11), 0), 1e-3, 50)).astype(np.float64)
        gradient = np.array([f[y, x + 1] - f[y, x - 1], f[y + 1, x] - f[y - 1, x]]) / 2
        dxx, dyy = f[y, x + 1] - 2 * f[y, x] + f[y, x - 1], f[y + 1, x] - 2 * f[y, x] + f[y - 1, x]
        dxy = 0.5 * (
            f[y + 1, x + 1] - f[y, x + 1] - f[y + 1, x] + 2 * f[y, x] - f[y, x - 1] - f[y - 1, x] + f[y - 1, x - 1]
        )
        expected = np.array([x, y]) - np.linalg.inv([[dxx, dxy], [dxy, dyy]]) @ gradient
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_flat_heatmaps_give_a_point_and_no_warning(value: float) -> None:
    with np.errstate(all="raise"):
        found = pose.decode(np.full((3, 64, 48), value, np.float32), fit((0, 0, 50, 50), SIZE))
    assert np.isfinite(found).all()
    assert (found[:, 2] == value).all()


def test_a_heatmap_is_the_published_gaussian() -> None:
    """By the definition, a pixel at a time: peak 1, cut to 3 deviations around the nearest pixel."""
    rows, columns = 64, 48
    share = np.array([0.31, 0.07])
    x, y = share * (columns - 1, rows - 1)
    spread, expected = 2.0, np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            if abs(row - int(y + 0.5)) <= 6 and abs(column - int(x + 0.5)) <= 6:
                expected[row, column] = np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * spread**2))
    heatmaps, _ = encode(torch.tensor(share)[None, None], torch.ones(1, 1), (rows, columns))
    np.testing.assert_allclose(heatmaps[0, 0].numpy(), expected, atol=1e-6)


def test_deviations_are_those_published() -> None:
    assert sigma(256) == 6
    assert sigma(64) == 2


def test_points_far_outside_and_unlabelled_ones_weigh_nothing() -> None:
    shares = torch.tensor([[[0.5, 0.5], [-0.02, 0.5], [-0.5, 0.5], [1.5, 0.5], [0.5, 0.5]]])
    visible = torch.tensor([[1.0, 1, 1, 1, 0]])
    heatmaps, weights = encode(shares, visible, (64, 48))
    assert weights.tolist() == [[1, 1, 0, 0, 0]]
    assert heatmaps[0, 1].max() > 0
    assert heatmaps[0, 2:].abs().max() == 0


# -- learning ----------------------------------------------------------------------------------------------------------


def targets(batch: int = 2, count: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    visible = (torch.rand(batch, count, generator=generator) > 0.3).float()
    return {"points": torch.rand(batch, count, 2, generator=generator), "visible": visible}


def test_the_loss_is_the_published_mean() -> None:
    given = targets()
    output = torch.rand(2, 12, 64, 48, generator=torch.Generator().manual_seed(1))
    heatmaps, weights = encode(given["points"], given["visible"], (64, 48))
    each = ((output - heatmaps) ** 2).double().numpy() * weights.numpy()[..., None, None]
    assert pose.loss(output, given, LETTERS).item() == pytest.approx(each.mean(), rel=1e-5)
    per_keypoint = each.mean(axis=(2, 3))
    hardest = np.sort(per_keypoint, axis=1)[:, -5:].mean()
    assert pose.loss(output, given, LETTERS, hardest=5).item() == pytest.approx(hardest, rel=1e-5)


def test_the_loss_of_nothing_labelled_is_zero() -> None:
    output = torch.rand(1, 12, 64, 48, requires_grad=True)
    given = {"points": torch.zeros(1, 12, 2), "visible": torch.zeros(1, 12)}
    loss = pose.loss(output, given, LETTERS)
    loss.backward()
    assert loss.item() == 0
    assert output.grad is not None
    assert output.grad.abs().max() == 0


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_mirrored_view_has_the_labels_of_the_mirrored_photo() -> None:
    keypoints = person()
    mirrored = keypoints[list(LETTERS.flip_order)]
    mirrored[:, 0] = 199 - mirrored[:, 0]
    view, plain = look((80, 110), 150, SIZE, 0, flipped=True), look((199 - 80, 110), 150, SIZE)
    for a, b in zip(pose.to_view(keypoints, view, LETTERS), pose.to_view(mirrored, plain, LETTERS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_a_turned_view_has_the_labels_of_the_turned_photo() -> None:
    keypoints = person(height=200)
    turned = np.column_stack([keypoints[:, 1], 199 - keypoints[:, 0], keypoints[:, 2]])  # as np.rot90 moves pixels
    view, plain = look((80, 110), 150, SIZE, 90), look((110, 199 - 80), 150, SIZE)
    for a, b in zip(pose.to_view(keypoints, view, LETTERS), pose.to_view(turned, plain, LETTERS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_augmented_points_lie_on_what_they_lay_on() -> None:
    """Every keypoint sits on a blot of its own brightness; in every drawn view it still does."""
    count = len(LETTERS.names)
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid([60, 150, 240], [50, 130, 210, 290]), axis=-1).reshape(-1, 2) + rng.uniform(
        -9, 9, (12, 2)
    )
    keypoints = np.column_stack([grid, np.full(count, 2)])
    levels = 40 + 17 * np.arange(count)
    y, x = np.indices((340, 300))
    photo = np.zeros((340, 300, 3), np.uint8)
    for (px, py), level in zip(grid, levels, strict=True):
        photo[(x - px) ** 2 + (y - py) ** 2 < 20**2] = level
    given = sample(jpeg(photo), box=(40, 30, 260, 310), keypoints=keypoints.ravel().tolist())
    draw, mirrored, turned = pose.Draw(SIZE, LETTERS, True), 0, 0
    for key in range(40):
        view = draw.view(given, key)
        image = np.asarray(_plain(given, view)).astype(int)
        points = draw(given, key)[1]["points"] * LAST
        names = np.argsort(LETTERS.flip_order) if view.flipped else np.arange(count)
        mirrored, turned = mirrored + view.flipped, turned + (view.angle != 0)
        for number, (px, py) in enumerate(points):
            if 2 < px < SIZE[1] - 3 and 2 < py < SIZE[0] - 3:
                assert abs(image[round(py), round(px), 0] - levels[names[number]]) <= 8
    assert 10 < mirrored < 30
    assert 10 < turned < 38


def _plain(given: LabelledSample, view: View) -> np.ndarray:
    return read_image(Encoded(given.image), view)


def test_a_draw_is_a_function_of_its_key() -> None:
    given, draw = pose_sample(person()), pose.Draw(SIZE, LETTERS, True)
    first, again, other = draw(given, 7), draw(given, 7), draw(given, 8)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1]["points"], again[1]["points"])
    assert (first[0] != other[0]).any()
    assert first[0].shape == (*SIZE, 3)


def test_without_augmentation_the_box_is_seen_upright() -> None:
    keypoints = person()
    given = pose_sample(keypoints)
    image, target = pose.Draw(SIZE, LETTERS, False)(given)
    view = fit(given.box, SIZE)
    np.testing.assert_array_equal(image, _plain(given, view))
    np.testing.assert_allclose(target["points"] * LAST, warp_points(keypoints[:, :2], view), atol=1e-3)


def test_half_bodies_are_drawn() -> None:
    keypoints = person()
    keypoints[:, 0] *= 0.3
    keypoints[:6, 1], keypoints[6:, 1] = keypoints[:6, 1] / 4, 180 + keypoints[6:, 1] / 4
    given, draw = pose_sample(keypoints), pose.Draw(SIZE, LETTERS, True)
    whole = fit(given.box, SIZE).scale
    close = sum(draw.view(given, key).scale > 2.2 * whole for key in range(300))  # plain scaling gives at most 2
    assert 15 < close < 90


@pytest.mark.parametrize("numbers", [[], [1.0, 2.0], [0.0] * 51])
def test_another_number_of_keypoints_is_refused(numbers: list[float]) -> None:
    given = sample(jpeg(smooth(50, 40)), box=(0, 0, 40, 50), keypoints=numbers)
    with pytest.raises(BrokenImage, match="3 x 12"):
        pose.Draw(SIZE, LETTERS, True)(given)


def test_points_that_are_nowhere_are_not_labelled() -> None:
    keypoints = person()
    keypoints[3, 0] = np.nan
    _, target = pose.Draw(SIZE, LETTERS, True)(
        sample(jpeg(smooth(240, 200)), box=(0, 0, 199, 239), keypoints=keypoints.ravel().tolist()), 3
    )
    assert np.isfinite(target["points"]).all()
    assert target["visible"].sum() == 11


def test_a_broken_photo_is_refused() -> None:
    with pytest.raises(BrokenImage):
        pose.Draw(SIZE, LETTERS, True)(
            sample(b"\xff\xd8\xff nothing", box=(0, 0, 9, 9), keypoints=person().ravel().tolist())
        )


# -- measuring ---------------------------------------------------------------------------------------------------------


def crowd(people: int, labels: KeypointSet, seed: int = 0) -> tuple[list, pose.Metric]:  # type: ignore[type-arg]
    """Random people, a third of their keypoints unlabelled, found with all grades of error."""
    rng = np.random.default_rng(seed)
    count, entries, metric = len(labels.names), [], pose.Metric(labels)
    for number in range(people):
        labelled = np.column_stack([rng.uniform(0, 300, (count, 2)), (rng.random(count) > 0.3) * 2.0])
        area = float(rng.uniform(20**2, 150**2))
        error = rng.normal(0, 1, (count, 2)) * np.sqrt(area) * rng.choice([0.02, 0.08, 0.3])
        found = np.column_stack([labelled[:, :2] + error, rng.uniform(0, 1, count)])
        labelled[labelled[:, 2] == 0] = 0
        given = sample(b"%d" % (number // 3), box=(0, 0, 300, 310), area=area, image_id=number // 3 + 10)
        metric.add_keypoints(found, labelled, given)
        entries.append((labelled, found, given))
    return entries, metric


def test_ap_is_that_of_pycocotools_on_files(tmp_path: Path) -> None:
    """The same people as a COCO annotation file and a results file, through pycocotools as its users run it."""
    coco17 = KeypointSet.load("coco17")
    entries, metric = crowd(40, coco17)
    annotations, results = [], []
    for number, (labelled, found, given) in enumerate(entries):
        shared = {"image_id": given.row["image_id"], "category_id": 1}
        certain = found[:, 2][found[:, 2] > 0.2]
        annotations.append(
            shared
            | {"id": number + 1, "keypoints": labelled.ravel().tolist(), "area": given.row["area"], "iscrowd": 0}
            | {"num_keypoints": int((labelled[:, 2] > 0).sum()), "bbox": [0, 0, 300, 310]}
        )
        results.append(shared | {"keypoints": found.ravel().tolist(), "score": float(certain.mean())})
    images = [{"id": i} for i in {a["image_id"] for a in annotations}]
    (tmp_path / "truth.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]})
    )
    (tmp_path / "found.json").write_text(json.dumps(results))
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    result = metric.result()
    assert 0.1 < evaluation.stats[0] < 0.9
    assert [result[name] for name in ("AP", "AP50", "AP75", "APm", "APl", "AR")] == pytest.approx(
        list(evaluation.stats[:6])
    )


def test_one_person_an_image_is_recalled_by_their_oks() -> None:
    """With one person an image every OKS stands alone: AR at a threshold is the share of people above it."""
    entries, _ = crowd(30, LETTERS, seed=2)
    metric, values = pose.Metric(LETTERS), []
    for number, (labelled, found, given) in enumerate(entries):
        metric.add_keypoints(found, labelled, sample(b"%d" % number, box=given.box, area=given.row["area"], image_id=1))
        seen = labelled[:, 2] > 0
        squared = ((found - labelled)[seen, :2] ** 2).sum(1)
        k = 2 * np.array(LETTERS.sigmas)[seen]
        values.append(np.exp(-squared / (2 * given.row["area"] * k**2)).mean())
    result = metric.result()
    oks = np.array(values)
    expected = np.mean([(oks >= t).mean() for t in np.arange(0.5, 0.96, 0.05)])
    assert result["AR"] == pytest.approx(expected, abs=1e-9)
    assert result["AR50"] == pytest.approx((oks >= 0.5).mean())


def test_groups_are_measured_alone() -> None:
    """A model that knows heads but no feet."""
    rng = np.random.default_rng(0)
    metric = pose.Metric(LETTERS)
    for number in range(10):
        labelled = person(number)
        found = np.column_stack([labelled[:, :2], np.ones(12)])
        found[9:, :2] += rng.uniform(500, 600, (3, 2))
        metric.add_keypoints(found, labelled, sample(b"%d" % number, box=(0, 0, 200, 240), area=40000.0, image_id=1))
    result = metric.result()
    assert result["head/AP"] == pytest.approx(1)
    assert result["feet/AP"] == 0
    assert result["PCK@0.05"] == pytest.approx(9 / 12)


def test_parts_of_a_measurement_add_up() -> None:
    entries, whole = crowd(20, LETTERS)
    halves = [pose.Metric(LETTERS), pose.Metric(LETTERS), pose.Metric(LETTERS)]
    for number, (labelled, found, given) in enumerate(entries):
        halves[number % 2].add_keypoints(found, labelled, given)
    merged = pose.Metric.from_states([half.state() for half in halves], LETTERS)
    assert merged.n == 20
    assert merged.result() == pytest.approx(whole.result(), nan_ok=False)


@pytest.mark.parametrize("area", [float("nan"), None, 0.0])
def test_without_areas_there_is_pck_and_no_ap(area: float | None) -> None:
    metric = pose.Metric(LETTERS)
    labelled = person()
    found = np.column_stack([labelled[:, :2] + [15, 0], np.ones(12)])
    metric.add_keypoints(found, labelled, sample(b"", box=(0, 0, 100, 200), area=area))
    result = metric.result()
    assert result["AP"] is None
    assert (result["PCK@0.05"], result["PCK@0.1"]) == (0, 1)


def test_nothing_measured_is_not_a_number_made_up() -> None:
    assert set(pose.Metric(LETTERS).result().values()) == {None}


def test_perfect_heatmaps_have_ap_1() -> None:
    metric = pose.Metric(LETTERS)
    for number in range(5):
        given = pose_sample(person(number), area=30000.0)
        draw = pose.Draw(SIZE, LETTERS, False)
        target = {name: torch.from_numpy(value)[None] for name, value in draw(given)[1].items()}
        heatmaps, _ = encode(target["points"], target["visible"], (64, 48))
        metric.add(heatmaps[0].numpy(), draw.view(given), given)
    result = metric.result()
    assert result["AP"] == pytest.approx(1)
    assert result["PCK@0.05"] == 1


def test_the_mirrored_views_heatmaps_say_the_same() -> None:
    keypoints = person()
    plain, mirrored = look((100, 120), 250, SIZE), look((100, 120), 250, SIZE, 0, flipped=True)
    maps = []
    for view in (plain, mirrored):
        points, visible = pose.to_view(keypoints, view, LETTERS)
        maps.append(encode(torch.tensor(points)[None], torch.tensor(visible)[None].float(), (64, 48))[0][0].numpy())
    np.testing.assert_allclose(pose.unmirror(maps[1], LETTERS), maps[0], atol=0.02)
