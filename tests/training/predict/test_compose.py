"""With a perfect model, what is put together is what was rendered."""

import numpy as np
import pytest

from tests.training.predict.oracle import SIZE, compose, scene, true_outputs
from training.predict.compose import Composer
from training.tasks.view import fit


@pytest.fixture(scope="module")
def crowd():
    """A scene of two people or more."""
    return next(s for s in (scene(3, index) for index in range(30)) if len(s.boxes) > 1)


def test_maps_come_back_to_their_pixels(crowd):
    found, made = compose(crowd), crowd.rendered
    assert (found.parts == made.parts).mean() > 0.99
    both = (found.parts > 0) & (made.parts > 0)
    assert both.sum() > 0.95 * (made.parts > 0).sum()
    error = np.abs(found.depth - made.depth)[both]
    assert np.nanmedian(error) < 0.01  # metres
    cosine = (found.normals * made.normals).sum(2)[both]
    assert np.nanmedian(np.degrees(np.arccos(cosine.clip(-1, 1)))) < 3
    np.testing.assert_allclose(np.linalg.norm(found.normals[both], axis=1), 1, atol=1e-4)


def test_nothing_is_said_where_nobody_is(crowd):
    found = compose(crowd)
    nobody = found.owner == 0
    assert (found.parts[nobody] == 0).all()
    assert (found.parts[~nobody] > 0).all()
    assert np.isnan(found.depth[nobody]).all()
    assert np.isfinite(found.depth[~nobody]).all()
    assert np.isnan(found.normals[nobody]).all()


def test_views_of_other_sizes_own_only_what_all_of_them_show():
    """A coarse view reaches half of its own pixel beyond the frame, where a finer one says nothing."""
    image, rng = np.zeros((500, 400, 3), np.uint8), np.random.default_rng(0)
    for _ in range(12):
        x, y, width, height = rng.uniform((100, 100, 40, 60), (200, 200, 150, 250))
        composer = Composer(image, np.array([[x, y, x + width, y + height, 0.9]], np.float32), ["parts", "depth"])
        box = tuple(float(v) for v in composer.boxes[0][:4])
        views = {"parts": fit(box, (128, 96)), "depth": fit(box, (1024, 768))}
        body = np.zeros((28, 32, 24), np.float32)
        body[21] = 1
        outputs = {"parts": body, "depth": np.full((1, 256, 192), 0.5, np.float32)}
        composer.put(0, composer.decode(0, outputs, views))
        found = composer.done()
        assert (found.owner == 1).any()
        assert np.isfinite(found.depth[found.owner == 1]).all()


def test_people_side_by_side_keep_their_pixels():
    pairs = (s for s in (scene(5, index) for index in range(60)) if len(s.boxes) == 2 and 0 < _overlap(s.boxes) < 0.2)
    made = next(pairs)
    found = compose(made)
    masks = [person.mask for person in made.rendered.people if person.mask.sum() > 400]
    for number, mask in enumerate(masks, start=1):
        assert (found.owner[mask] == number).mean() > 0.85  # an arm may reach into the other's box


def _overlap(boxes: np.ndarray) -> float:
    """Intersection over union of the first two boxes."""
    (x0, y0), (x1, y1) = boxes[:2, :2].max(0), boxes[:2, 2:4].min(0)
    both = max(0, x1 - x0) * max(0, y1 - y0)
    return float(both / (((boxes[:2, 2] - boxes[:2, 0]) * (boxes[:2, 3] - boxes[:2, 1])).sum() - both))


def test_keypoints_come_back_to_the_image(crowd):
    found = compose(crowd)
    people = [p for p in crowd.rendered.people if p.mask.sum() > 400]
    for person, truth in zip(found.people, people, strict=True):
        visible = truth.keypoints[:, 2] == 2
        off = np.linalg.norm(person.keypoints[:, :2] - truth.keypoints[:, :2], axis=1)[visible]
        assert np.median(off) < 1.0  # pixels


def test_the_order_of_people_does_not_matter(crowd):
    first = Composer(crowd.rendered.image, crowd.boxes, ["parts", "depth"])
    second = Composer(crowd.rendered.image, crowd.boxes, ["parts", "depth"])
    shown = [n for n, p in enumerate(crowd.rendered.people) if p.mask.sum() > 400]
    views = [fit(tuple(map(float, box[:4])), SIZE) for box in crowd.boxes]
    said = [true_outputs(crowd.rendered, n, view) for n, view in zip(shown, views, strict=True)]
    decoded = [first.decode(n, said[n], dict.fromkeys(said[n], views[n])) for n in range(len(shown))]
    for place in range(len(shown)):
        first.put(place, decoded[place])
    for place in reversed(range(len(shown))):
        second.put(place, decoded[place])
    np.testing.assert_array_equal(first.done().owner, second.done().owner)
    np.testing.assert_array_equal(first.done().depth, second.done().depth)


def test_without_parts_the_box_is_all_that_is_known(crowd):
    found = compose(crowd, ["depth"])
    inside = np.zeros(found.depth.shape, bool)
    for x0, y0, x1, y1, _ in crowd.boxes.astype(int):
        inside[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(found.owner > 0, inside)
    assert found.parts is None


def test_a_person_cut_by_the_edge_and_a_box_beyond_it():
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[-30, -10, 12, 90, 1], [100, 100, 120, 120, 1]], np.float32)
    composer = Composer(image, boxes, ["parts", "depth"])
    assert len(composer.boxes) == composer.dropped == 1
    logits = np.zeros((28, 8, 6), np.float32)
    logits[5] = 1
    view = fit(tuple(map(float, composer.boxes[0][:4])), SIZE)
    outputs = {"parts": logits, "depth": np.ones((1, 64, 48), np.float32)}
    composer.put(0, composer.decode(0, outputs, {"parts": view, "depth": view}))
    found = composer.done()
    assert (found.parts[:, :12] == 5).all()
    assert (found.parts[:, 14:] == 0).all()


def test_an_image_without_people_is_empty():
    found = Composer(np.zeros((5, 7, 3), np.uint8), np.empty((0, 5), np.float32), ["pose", "parts", "depth"]).done()
    assert found.people == ()
    assert not found.owner.any()
    assert np.isnan(found.depth).all()
