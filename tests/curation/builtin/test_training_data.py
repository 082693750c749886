"""Labels, scenes, marks, layouts and figures that the trainings rest on."""

import cv2
import numpy as np
import pytest

from curation.builtin.training.collection import Picture
from curation.builtin.training.layouts import KINDS, composed
from curation.builtin.training.marks import _KINDS as MARKS
from curation.builtin.training.marks import watermarked
from curation.builtin.training.metrics import auc, auc_interval, average_precision, recall_at_precision, share_interval
from curation.builtin.training.people_labels import people_in
from curation.builtin.training.people_scenes import Scenes
from curation.builtin.training.train_watermark import NOT_ON_PICTURE, where_marked
from curation.builtin.training.variants import Variants


def picture(label: dict, teacher: list[list[float]], source: str = "plain", mask: np.ndarray | None = None) -> Picture:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    png = None if mask is None else cv2.imencode(".png", mask)[1].tobytes()
    return Picture("train", source, "0", jpeg, label, png, np.array(teacher, np.float32).reshape(-1, 5))


def box(x0: float, y0: float, x1: float, y1: float, by: str = "human") -> dict:
    return {"x0": x0, "y0": y0, "x1": x1, "y1": y1, "labelled_by": by}


def test_complete_labels_overrule_the_teacher() -> None:
    label = {"persons": [], "persons_complete": True, "width": 160, "height": 120}
    people = people_in(picture(label, [[0, 0, 50, 90, 0.9]]))
    assert len(people.boxes) == len(people.unsure) == 0


def test_the_teacher_adds_who_is_missing_and_its_guesses_stay_unsure() -> None:
    label = {"persons": [box(10, 10, 50, 100)], "persons_complete": False}
    teacher = [[11, 10, 50, 99, 0.8], [80, 10, 120, 100, 0.7], [130, 10, 150, 60, 0.2]]
    people = people_in(picture(label, teacher))
    np.testing.assert_array_equal(people.boxes, np.float32([[10, 10, 50, 100], [80, 10, 120, 100]]))
    np.testing.assert_allclose(people.trust, [1, 0.85])
    np.testing.assert_array_equal(people.unsure, np.float32([[130, 10, 150, 60]]))


def test_joints_give_way_to_the_teachers_box() -> None:
    label = {"persons": [box(12, 20, 48, 90, "joints")], "persons_complete": False}
    people = people_in(picture(label, [[10, 10, 50, 100, 0.9]]))
    np.testing.assert_array_equal(people.boxes, np.float32([[10, 10, 50, 100]]))


def scenes() -> Scenes:
    mask = np.zeros((120, 160), np.uint8)
    mask[20:110, 50:90] = 255
    size = {"width": 160, "height": 120}
    labelled = picture({"persons": [box(20, 10, 80, 110)], "persons_complete": True, **size}, [])
    cut_out = picture({"persons_complete": False}, [], "parts-fashion", mask)
    return Scenes([labelled, cut_out, picture({"person_free": True, **size}, [])], 128, 5, 0, 10)


def test_a_scene_depends_on_its_number_alone() -> None:
    a, b = scenes()[7], scenes()[7]
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.people.boxes, b.people.boxes)
    assert not np.array_equal(a.image, scenes()[8].image)


def test_people_of_a_scene_lie_within_it() -> None:
    made = scenes()
    for i in range(60):
        scene = made.scene(np.random.default_rng(i))
        assert scene.image.shape == (128, 128, 3)
        assert scene.image.dtype == np.uint8
        for boxes in (scene.people.boxes, scene.people.unsure, scene.people.settled):
            assert (boxes >= 0).all()
            assert (boxes <= 128).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert len(scene.people.trust) == len(scene.people.boxes)


@pytest.mark.parametrize("kind", sorted(MARKS))
def test_every_mark_shows_and_leaves_most_of_the_picture(kind: str) -> None:
    clean = np.full((240, 320, 3), 120, np.uint8)
    shares = []
    for seed in range(10):
        marked = MARKS[kind](clean, np.random.default_rng(seed))
        assert marked.dtype == np.uint8
        assert marked.shape[1:] == (320, 3)
        shares.append((np.abs(marked[:240].astype(int) - clean).max(-1) > 4).mean())
    assert min(shares) >= 0
    assert 0.001 < np.mean(shares) < 0.6


def test_where_marked_covers_the_mark_and_only_the_picture() -> None:
    clean = np.full((100, 200, 3), 50, np.uint8)
    marked = clean.copy()
    marked[40:60, 100:150] = 255
    grid = where_marked(clean, marked)
    assert (grid[16:] == NOT_ON_PICTURE).all()
    assert (grid[7:9, 17:23] == 1).all()
    assert (grid[:5] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_are_pictures_and_repeat(kind: str) -> None:
    images = [np.full((90 + 10 * i, 120, 3), 25 * i, np.uint8) for i in range(9)]
    for seed in range(8):
        first = composed(kind, images, np.random.default_rng(seed))
        assert first.dtype == np.uint8
        assert first.ndim == 3
        assert min(first.shape[:2]) > 60
        np.testing.assert_array_equal(first, composed(kind, images, np.random.default_rng(seed)))


def test_watermarks_repeat_with_their_seed() -> None:
    clean = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    a, b = (watermarked(clean, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_a_variant_says_what_was_done_to_it() -> None:
    kinds = {"art": "art", "generated": "generated", "meme-template": "meme-template"}
    names = (
        "art generated plain people-boxes pose-sport parts-fashion mask-people meme-template watermark-houses".split()
    )
    variants = Variants([picture({"kind": kinds.get(n, "photo"), "watermarked": "0"}, [], n) for n in names], 3)
    made = [variants[i] for i in range(60)]
    assert {v.truth[0] for v in made} >= {0, 1}
    assert all((v.marked is not None) == (v.clean is not None) for v in made)
    assert all(v.truth[0] == 1 for v in made if v.marked is not None)


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    s, y = rng.integers(0, 5, 60), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in s[y] for b in s[~y]]
    assert auc(s, y) == pytest.approx(np.mean(pairs))


def test_average_precision_of_known_cases() -> None:
    truth = [np.float32([[0, 0, 10, 10]]), np.float32([[0, 0, 10, 10]])]
    right = np.float32([[0, 0, 10, 10, 0.9]])
    wrong = np.float32([[50, 50, 60, 60, 0.95]])
    none = np.zeros((0, 5), np.float32)
    assert average_precision([right, right], truth) == 1
    assert average_precision([right, none], truth) == 0.5
    assert average_precision([np.concatenate([wrong, right]), right], truth) == pytest.approx(2 / 3)
    assert average_precision([np.concatenate([right, right]), none], truth) == 0.5  # the second is a double


def test_recall_at_precision_does_not_split_ties() -> None:
    assert recall_at_precision([3, 2, 2, 1], [True, True, False, True]) == pytest.approx(1 / 3)
    assert recall_at_precision([1, 2], [True, False]) == 0


def test_intervals_hold_their_value() -> None:
    low, high = share_interval(8, 10)
    assert low < 0.8 < high
    assert (round(low, 2), round(high, 2)) == (0.49, 0.94)
    low, high = auc_interval(0.9, 50, 50)
    assert 0.8 < low < 0.9 < high < 1
