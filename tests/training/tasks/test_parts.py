"""Body parts: targets, loss, metric, the way back."""

import cv2
import numpy as np
import pytest
import torch

from shards.crop import BrokenImage
from tests.training.tasks.samples import COLOURS, jpeg, patches, png, sample, smooth
from training.labels.decode import parts_to_png
from training.labels.sets import IGNORE, ClassList
from training.tasks import dense, parts
from training.tasks.view import fit, look

SIZE = (256, 192)


def parts_sample(classes: np.ndarray, photo: np.ndarray | None = None):
    photo = smooth(*classes.shape) if photo is None else photo
    rows, columns = np.flatnonzero(classes.any(1)), np.flatnonzero(classes.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, *classes.shape[::-1])
    return sample(png(photo), parts_to_png(classes), box)


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_mirrored_view_has_the_labels_of_the_mirrored_photo() -> None:
    classes = patches(301, 201, 4)
    classes[40:60] = IGNORE
    mirrored = classes[:, ::-1].copy()
    mirrored[classes[:, ::-1] == 1], mirrored[classes[:, ::-1] == 2] = 2, 1
    view, plain = look((80, 110), 230, SIZE, 0, flipped=True), look((200 - 80, 110), 230, SIZE)
    a, b = parts.to_view(classes, view, COLOURS), parts.to_view(mirrored, plain, COLOURS)
    assert set(np.unique(a)) == {0, 1, 2, 3, IGNORE}
    assert (a != b).mean() < 0.005  # ties between two nearest pixels


def test_a_turned_view_has_the_labels_of_the_turned_photo() -> None:
    classes = patches(201, 201, 4)
    view, plain = look((80, 110), 230, SIZE, 90), look((110, 200 - 80), 230, SIZE)
    a, b = parts.to_view(classes, view, COLOURS), parts.to_view(np.rot90(classes).copy(), plain, COLOURS)
    assert (a != b).mean() < 0.005


def test_augmented_classes_lie_on_what_they_lay_on() -> None:
    """Every class is a colour in the photo. Left and right, swapped in a mirror, are found as the other's colour."""
    classes = patches(301, 241, 4, seed=2)
    photo = np.array(COLOURS.colours, np.uint8)[classes]
    given, draw = parts_sample(classes, photo), parts.Draw(SIZE, COLOURS, True)
    mirrored = 0
    for key in range(30):
        view = draw.view(given, key)
        target = draw(given, key)[1]["classes"]
        image = dense.read_labelled(given, view, classes.shape)
        known = target != IGNORE
        np.testing.assert_array_equal(known, view.holds(301, 241))
        swapped = np.where(np.isin(target, (1, 2)), 3 - target, target) if view.flipped else target
        shown = np.array(COLOURS.colours)[np.where(known, swapped, 0)]
        inside = cv2.erode(known.astype(np.uint8), np.ones((5, 5))) > 0
        for number in range(4):  # away from seams
            inside &= cv2.morphologyEx((swapped == number).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) == 0
        assert inside.mean() > 0.1
        assert np.abs(image.astype(int) - shown)[inside].max() <= 3
        mirrored += view.flipped
    assert 5 < mirrored < 25


def test_a_draw_is_a_function_of_its_key() -> None:
    given, draw = parts_sample(patches(100, 80, 4)), parts.Draw(SIZE, COLOURS, True)
    for a, b in zip(draw(given, 5), draw(given, 5), strict=True):
        if isinstance(a, dict):
            a, b = a["classes"], b["classes"]
        np.testing.assert_array_equal(a, b)
    assert (draw(given, 5)[0] != draw(given, 6)[0]).any()


def test_a_label_of_another_size_is_refused() -> None:
    given = sample(jpeg(smooth(50, 40)), parts_to_png(patches(40, 50, 4)), (0, 0, 40, 50))
    with pytest.raises(BrokenImage, match="50 x 40 pixels where the photo has 40 x 50"):
        parts.Draw(SIZE, COLOURS, True)(given)


def test_unknown_classes_are_refused() -> None:
    given = sample(jpeg(smooth(50, 40)), parts_to_png(patches(50, 40, 9)), (0, 0, 40, 50))
    with pytest.raises(BrokenImage, match=r"classes \[4, 5, 6, 7, 8\] where colours has 0 … 3"):
        parts.Draw(SIZE, COLOURS, True)(given)


def test_a_broken_label_is_refused() -> None:
    for label in (b"", b"not a png", png(smooth(50, 40))):
        with pytest.raises(BrokenImage):
            parts.Draw(SIZE, COLOURS, True)(sample(jpeg(smooth(50, 40)), label, (0, 0, 40, 50)))


def test_a_photo_without_people_is_background() -> None:
    given = parts_sample(np.zeros((100, 80), np.uint8))
    assert set(np.unique(parts.Draw(SIZE, COLOURS, False)(given)[1]["classes"])) == {0, IGNORE}


# -- learning ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_published_mean() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 4, 6, 5))
    classes = generator.integers(0, 4, (2, 6, 5))
    classes[0, :3] = IGNORE
    total = 0.0
    for image in range(2):
        for row in range(6):
            for column in range(5):
                y = classes[image, row, column]
                if y != IGNORE:
                    z = logits[image, :, row, column]
                    total += COLOURS.weights[y] * (np.log(np.exp(z).sum()) - z[y])
    given = {"classes": torch.tensor(classes.astype(np.uint8))}
    assert parts.loss(torch.tensor(logits), given, COLOURS).item() == pytest.approx(total / 60, rel=1e-5)


def test_the_loss_of_nothing_labelled_is_zero() -> None:
    logits = torch.rand(1, 4, 8, 6, requires_grad=True)
    loss = parts.loss(logits, {"classes": torch.full((1, 16, 12), IGNORE, dtype=torch.uint8)}, COLOURS)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


# -- using -------------------------------------------------------------------------------------------------------------


def logits_of(classes: np.ndarray, count: int) -> np.ndarray:
    return (np.arange(count)[:, None, None] == classes).astype(np.float32) * 5


def test_decoding_gives_the_largest_resampled_logit() -> None:
    rng = np.random.default_rng(0)
    output = rng.normal(size=(4, 128, 96)).astype(np.float32)
    view = fit((20, 30, 60, 90), SIZE)
    region = (16, 25, 64, 95)
    stack = np.stack([parts.map_to_image(logit, view, region) for logit in output])
    np.testing.assert_array_equal(parts.decode(output, view, region), stack.argmax(0))


@pytest.mark.parametrize(("angle", "flipped"), [(0, False), (30, False), (0, True)])
def test_the_view_of_a_label_decodes_to_the_label(angle: float, flipped: bool) -> None:
    classes = patches(300, 240, 4)
    view = look((120, 150), 300, (1024, 768), angle, flipped)
    seen = parts.to_view(classes, view, COLOURS)
    small = cv2.resize(np.where(seen == IGNORE, 0, seen), (384, 512), interpolation=cv2.INTER_NEAREST)
    found = parts.decode(logits_of(small, 4), view, (0, 0, 240, 300))
    if flipped:
        found = np.where(np.isin(found, (1, 2)), 3 - found, found)
    assert (found == classes)[view.shows((0, 0, 240, 300))].mean() > 0.97


def test_beyond_the_view_is_background() -> None:
    view = look((50, 50), 30, SIZE, 45)
    found = parts.decode(logits_of(np.full((64, 48), 3), 4), view, (0, 0, 100, 100))
    np.testing.assert_array_equal(found, np.where(view.shows((0, 0, 100, 100)), 3, 0))


def brute_force(found: np.ndarray, labelled: np.ndarray, count: int) -> tuple[list[float], list[float], float]:
    iou, accuracy = [], []
    for c in range(count):
        both = sum(1 for f, t in zip(found, labelled, strict=True) if f == c and t == c)
        either = sum(1 for f, t in zip(found, labelled, strict=True) if c in (f, t))
        truly = sum(1 for t in labelled if t == c)
        iou += [both / either] if either else []
        accuracy += [both / truly] if truly else []
    return iou, accuracy, sum(f == t for f, t in zip(found, labelled, strict=True)) / len(found)


@pytest.mark.parametrize("seed", range(5))
def test_iou_agrees_with_counting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ClassList("seven", tuple("abcdefg"), ((0, 0, 0),) * 7, (1.0,) * 7)
    metric, all_found, all_labelled = parts.Metric(names), [], []
    for _ in range(3):
        labelled = rng.choice([0, 1, 2, 3, 5], 200).astype(np.uint8)  # e (4) and g (6) are never labelled
        found = np.where(rng.random(200) < 0.5, labelled, rng.integers(0, 6, 200)).astype(np.uint8)
        metric.add_classes(found, labelled)
        all_found += found.tolist()
        all_labelled += labelled.tolist()
    iou, accuracy, whole = brute_force(np.array(all_found), np.array(all_labelled), 7)
    result = metric.result()
    assert result["mIoU"] == pytest.approx(np.mean(iou), abs=1e-12)
    assert result["mAcc"] == pytest.approx(np.mean(accuracy), abs=1e-12)
    assert result["aAcc"] == pytest.approx(whole, abs=1e-12)
    assert result["IoU/a"] == pytest.approx(iou[0], abs=1e-12)
    assert result["IoU/g"] is None
    assert result["IoU/e"] == 0


def test_a_photo_is_measured_at_its_own_pixels() -> None:
    """All of what the view shows counts, IGNORE does not."""
    classes = patches(200, 160, 4)
    classes[:50, :80] = IGNORE
    given = parts_sample(classes)
    view = parts.Draw(SIZE, COLOURS, False).view(given)
    metric = parts.Metric(COLOURS)
    metric.add(logits_of(np.full((128, 96), 2), 4), view, given)
    known = classes[view.shows((0, 0, 160, 200))]
    known = known[known != IGNORE]
    assert metric.confusion.sum() == len(known)
    assert metric.result()["aAcc"] == pytest.approx((known == 2).mean())


def test_a_perfect_answer_has_iou_1() -> None:
    classes = patches(128, 96, 4)
    given = parts_sample(classes)
    view = parts.Draw((512, 384), COLOURS, False).view(given)
    seen = parts.to_view(classes, view, COLOURS)
    metric = parts.Metric(COLOURS)
    metric.add(logits_of(seen, 4), view, given)
    miou = metric.result()["mIoU"]
    assert miou is not None
    assert miou > 0.99


def test_parts_of_a_measurement_add_up() -> None:
    rng = np.random.default_rng(0)
    whole, halves = parts.Metric(COLOURS), [parts.Metric(COLOURS), parts.Metric(COLOURS)]
    for number in range(5):
        found, labelled = rng.integers(0, 4, (2, 50))
        for metric in (whole, halves[number % 2]):
            metric.add_classes(found, labelled)
    merged = parts.Metric.from_states([half.state() for half in halves], COLOURS)
    assert merged.n == 5
    assert merged.result() == whole.result()


def test_nothing_measured_is_not_a_number_made_up() -> None:
    assert set(parts.Metric(COLOURS).result().values()) == {None}
