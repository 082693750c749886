"""Files hold what was found, in the stated convention."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.training.predict.conftest import files_of_at_most
from tests.training.predict.oracle import COCO, SAPIENS, compose, scene
from training.labels.decode import depth_from_png, normals_from_png
from training.predict.compose import Composer
from training.predict.draw import Style
from training.predict.files import people_png, write_photo
from training.predict.results import write_files

STYLE = Style(COCO, SAPIENS)


@pytest.fixture(scope="module")
def found():
    return compose(scene(3, 1))


def test_every_map_reads_back(found, tmp_path):
    written = write_photo(tmp_path, "in/a", "photos/a.jpg", found, STYLE, pictures=True, data=True)
    assert all((tmp_path / name).is_file() for name in written.files)
    assert len(written.files) == 9

    def path(suffix: str):
        return tmp_path / "in" / f"a.{suffix}"

    with Image.open(path("parts.png")) as image:
        np.testing.assert_array_equal(np.asarray(image), found.parts)
        assert json.loads(image.text["Classes"]) == list(SAPIENS.names)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0, 0], SAPIENS.colours[found.parts[0, 0]])
    np.testing.assert_array_equal(np.asarray(Image.open(path("people.png"))), found.owner)

    np.testing.assert_array_equal(np.load(path("depth.npy")), found.depth)
    step = (written.far - written.near) / 65534
    png = path("depth.png").read_bytes()
    np.testing.assert_allclose(depth_from_png(png, written.near, written.far), found.depth, atol=step)
    with Image.open(path("depth.png")) as image:
        image.load()
        assert float(image.text["Near"]) == written.near
        assert "relative within one person" in image.text["Convention"]

    np.testing.assert_allclose(np.load(path("normals.npy")), found.normals, atol=1e-3)
    np.testing.assert_allclose(normals_from_png(path("normals.png").read_bytes()), found.normals, atol=1e-4)

    said = json.loads(path("keypoints.json").read_text())
    assert (said["image"], said["width"], said["height"]) == ("photos/a.jpg", 400, 320)
    assert said["keypoint_names"] == list(COCO.names)
    np.testing.assert_allclose(said["people"][0]["keypoints"], found.people[0].keypoints, atol=0.006)
    np.testing.assert_allclose(said["people"][0]["box"], found.people[0].box, atol=0.006)
    assert cv2.imread(str(path("overlay.jpg"))).shape == found.image.shape


def test_nobody_is_written_as_nothing(tmp_path):
    nobody = Composer(
        np.zeros((20, 30, 3), np.uint8), np.empty((0, 5), np.float32), ["pose", "parts", "depth", "normals"]
    )
    written = write_photo(tmp_path, "a", "a.jpg", nobody.done(), STYLE, pictures=True, data=True)
    assert json.loads((tmp_path / "a.keypoints.json").read_text())["people"] == []
    assert np.isnan(depth_from_png((tmp_path / "a.depth.png").read_bytes(), written.near, written.far)).all()
    assert np.isnan(normals_from_png((tmp_path / "a.normals.png").read_bytes())).all()


def test_pictures_and_data_can_be_had_alone(found, tmp_path):
    only = write_photo(tmp_path, "p", "a.jpg", found, STYLE, pictures=True, data=False)
    assert only.files == ("p.panel.jpg", "p.overlay.jpg")
    assert np.isnan(only.near)
    assert "d.panel.jpg" not in write_photo(tmp_path, "d", "a.jpg", found, STYLE, pictures=False, data=True).files


def test_more_than_255_people_take_16_bits(tmp_path):
    owner = np.arange(400, dtype=np.uint16).reshape(20, 20)
    (tmp_path / "p.png").write_bytes(people_png(owner))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p.png")), owner)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "p.png"), cv2.IMREAD_UNCHANGED), owner)


def test_where_one_file_finds_no_room_all_stay_as_they_were(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"earlier")
    with files_of_at_most(1000), pytest.raises(OSError, match="too large"):
        write_files(tmp_path, {"a.jsonl": b"new", "a.depth.npy": bytes(2000)})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.jsonl", b"earlier")]
