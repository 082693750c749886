"""The shipped networks on photos that installed packages carry, and on the collection where it is there."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from curation.builtin import ANSWERS, Builtin
from curation.builtin.training.collection import read_collection
from curation.builtin.training.layouts import composed
from curation.builtin.training.lettering import lettered
from curation.builtin.training.metrics import auc, average_precision, top_scores


@pytest.fixture(scope="module")
def builtin() -> Builtin:
    return Builtin()


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    file = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return np.asarray(Image.open(file).convert("RGB"))


def written(text: str) -> np.ndarray:
    canvas = np.full((300, 400, 3), 230, np.uint8)
    mask = lettered(text, "DejaVuSans", 40)[:, :380]
    canvas[100 : 100 + len(mask), 10 : 10 + mask.shape[1]][mask > 0.5] = 0
    return canvas


def test_the_person_in_a_portrait_is_found_where_she_is(builtin: Builtin, portrait: np.ndarray) -> None:
    (found,) = builtin.people(builtin.features([portrait], {"people"}))
    height, width = portrait.shape[:2]
    x0, y0, x1, y1, score = found[0]
    assert score > 0.4
    assert 0 <= x0 < 0.3 * width
    assert 0.7 * width < x1 <= width
    assert 0 <= y0 < 0.3 * height
    assert 0.8 * height < y1 <= height
    assert (np.diff(found[:, 4]) <= 0).all()


def test_nobody_is_found_on_a_blank_picture(builtin: Builtin) -> None:
    f = builtin.features([np.full((200, 300, 3), 128, np.uint8)])
    assert not (builtin.people(f)[0][:, 4] > 0.4).any()
    assert len(builtin.text(f)[0]) == 0
    assert builtin.safety(f)[0] < 0.2


def test_a_line_of_writing_is_boxed_in_pixels_of_the_picture(builtin: Builtin) -> None:
    (quads,) = builtin.text(builtin.features([written("Hello text")], {"text"}))
    assert len(quads) >= 1
    corners = quads[:, :8].reshape(-1, 2)
    assert corners[:, 1].min() > 80
    assert corners[:, 1].max() < 165


def test_answers_are_the_same_alone_and_in_company(builtin: Builtin, portrait: np.ndarray) -> None:
    images = [portrait, written("other"), portrait[::2, ::2]]
    together = builtin.features(images)
    for i, image in enumerate(images):
        alone = builtin.features([image])
        np.testing.assert_array_equal(builtin.people(alone)[0], builtin.people(together)[i])
        np.testing.assert_array_equal(builtin.text(alone)[0], builtin.text(together)[i])
        assert builtin.watermark(alone)[0] == builtin.watermark(together)[i]
        for a, b in zip(builtin.style(alone), builtin.style(together), strict=True):
            assert a[0] == b[i]


def test_every_answer_is_a_chance(builtin: Builtin, portrait: np.ndarray) -> None:
    f = builtin.features([portrait, np.zeros((20, 500, 3), np.uint8)])
    for chances in (builtin.watermark(f), *builtin.style(f), builtin.safety(f)):
        assert chances.shape == (2,)
        assert ((chances >= 0) & (chances <= 1)).all()


def test_a_photo_is_no_art_and_a_screenshot_is_unnatural(builtin: Builtin, portrait: np.ndarray) -> None:
    shot = composed("screenshot", [portrait], np.random.default_rng(1))
    art, unnatural = builtin.style(builtin.features([portrait, shot]))
    assert art[0] < 0.5
    assert unnatural[1] > max(0.8, unnatural[0])


def test_what_was_not_asked_for_is_refused_by_name(builtin: Builtin, portrait: np.ndarray) -> None:
    f = builtin.features([portrait], {"safety"})
    with pytest.raises(ValueError, match="needs"):
        builtin.text(f)
    with pytest.raises(ValueError, match="colour"):
        builtin.features([portrait], {"colour"})


def test_identities_name_every_answer(builtin: Builtin) -> None:
    assert tuple(builtin.identities) == ANSWERS
    assert all(value.startswith(f"{name}@") for name, value in builtin.identities.items())


def test_the_weights_stay_small() -> None:
    from curation.builtin import networks

    assert sum(f.stat().st_size for f in networks.WEIGHTS.iterdir()) <= 8_000_000


@pytest.mark.slow
@pytest.mark.real_data
def test_people_on_held_out_photos(builtin: Builtin, shared_data: Path) -> None:
    pictures = read_collection(shared_data, "dev", {"people-voc"})
    found = [builtin.people(builtin.features([p.rgb()], {"people"}))[0] for p in pictures]
    truth = [p.persons for p in pictures]
    assert average_precision(found, truth) > 0.55
    assert auc(top_scores(found), [len(t) > 0 for t in truth]) > 0.93
