"""Boxes of people, from files and from the detector."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training.config import UsageError
from training.predict.inputs import Photo
from training.predict.people import Detector, NoBoxes, WholeImage, choose_people, inside, read_boxes

IMAGE = np.zeros((80, 60, 3), np.uint8)


def test_a_json_file_names_images_relative_to_itself(tmp_path: Path):
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps([{"uri": "in/a.jpg", "boxes": [[1, 2, 30, 40], [5, 6, 7, 8, 0.2]]}]))
    photo = Photo("a", str(tmp_path / "in" / "a.jpg"))
    (found,) = choose_people(str(file), None)([photo], [IMAGE])
    np.testing.assert_allclose(found, [[1, 2, 30, 40, 1], [5, 6, 7, 8, 0.2]])
    (found,) = choose_people(str(file), 0.5)([photo], [IMAGE])
    assert len(found) == 1


def test_a_parquet_table_may_speak_of_tar_members(tmp_path: Path):
    file = tmp_path / "boxes.parquet"
    tar = str(tmp_path / "s.tar")
    boxes = [{"x0": 1.0, "y0": 2.0, "x1": 3.0, "y1": 4.0, "score": 0.5}]
    members = ["a", "b.jpg"]  # predict writes keys, curation names of files
    pd.DataFrame({"uri": [tar, tar], "member": members, "person_boxes": [boxes, []], "more": [1, 2]}).to_parquet(file)
    people = choose_people(str(file), None)
    found = people([Photo("a", tar, "a"), Photo("b", tar, "b"), Photo("c", tar, "c")], [IMAGE] * 3)
    assert [len(boxes) for boxes in found[:2]] == [1, 0]  # type: ignore[arg-type]
    assert isinstance(found[2], NoBoxes)
    assert "member c" in str(found[2])


def test_of_a_curated_folder_the_manifest_is_taken(tmp_path: Path):
    (tmp_path / "manifest").mkdir()
    (tmp_path / "report.html").touch()
    boxes = [{"x0": 1.0, "y0": 2.0, "x1": 3.0, "y1": 4.0, "score": 0.5}]
    pd.DataFrame({"uri": ["/a.jpg"], "person_boxes": [boxes]}).to_parquet(tmp_path / "manifest" / "00000.parquet")
    assert len(read_boxes(tmp_path)["/a.jpg", ""]) == 1


def test_an_input_that_was_given_twice_has_everybody_once(tmp_path: Path):
    file = tmp_path / "earlier.parquet"
    one, other = ({"x0": x, "y0": 2.0, "x1": 30.0, "y1": 40.0, "score": 0.5} for x in (1.0, 5.0))
    pd.DataFrame(
        {"uri": ["/a.jpg", "/a.jpg", "/b.jpg", "/b.jpg"], "person_boxes": [[one], [one], [other], [one]]}
        | {"kind": ["photo"] * 4, "status": ["success"] * 4}
    ).to_parquet(file)
    boxes = read_boxes(file)
    assert [len(boxes["/a.jpg", ""]), len(boxes["/b.jpg", ""])] == [1, 2]
    assert boxes["/b.jpg", ""][:, 0].tolist() == [5.0, 1.0]


def test_rows_that_do_not_say_who_is_there_are_not_taken_for_nobody(tmp_path: Path):
    """Of an earlier run the videos and what failed, of a curated folder what was not asked or failed."""
    earlier, curated = tmp_path / "earlier.parquet", tmp_path / "manifest" / "00000.parquet"
    curated.parent.mkdir()
    kinds, statuses = ["photo", "photo", "video"], ["success", "failed", "success"]
    uris = ["/a.jpg", "/b.jpg", "/c.mp4"]
    pd.DataFrame({"uri": uris, "kind": kinds, "status": statuses, "person_boxes": [[], [], []]}).to_parquet(earlier)
    pd.DataFrame(
        {"uri": ["/a.jpg", "/b.jpg", "/c.jpg"], "status": ["success", "failed_to_read", "success"]}
        | {"person_boxes": [[{"x0": 1.0, "y0": 2.0, "x1": 3.0, "y1": 4.0, "score": 0.5}], None, None]}
    ).to_parquet(curated)
    assert set(read_boxes(earlier)) == set(read_boxes(tmp_path)) == {("/a.jpg", "")}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ('{"a.jpg": []}', "not a list but a dict"),
        ('[{"uri": "a.jpg", "boxes": [[1, 2, 3]]}]', "3 numbers"),
        ('[{"boxes": []}]', "entry 0 of .* lacks 'uri'; give"),
        ('[{"uri": "a.jpg"}]', "entry 0 of .* lacks 'boxes'; give"),
        ('[{"uri": "a.jpg", "boxes": [["x", 2, 3, 4]]}]', "entry 0"),
        ('["a.jpg"]', "entry 0"),
    ],
)
def test_a_bad_file_of_boxes_is_one_sentence(tmp_path: Path, text: str, says: str):
    file = tmp_path / "boxes.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_boxes(file)
    with pytest.raises(UsageError, match="do not exist"):
        read_boxes(tmp_path / "none.json")


def test_boxes_are_cut_to_the_image_and_the_rest_is_counted():
    nan = float("nan")
    given = np.array([[-9, 5, 30, 400, 1], [70, 0, 90, 9, 1], [1, 1, nan, 5, 1], [5, 5, 5, 9, 1], [9, 9, 3, 3, 1]])
    kept, gone = inside(given.astype(np.float32), 80, 60)
    np.testing.assert_allclose(kept, [[0, 5, 30, 80, 1]])
    assert gone == 4


def test_the_whole_image_is_one_person():
    (found,) = WholeImage()([Photo("a", "a.jpg")], [IMAGE])
    np.testing.assert_allclose(found, [[0, 0, 60, 80, 1]])


def test_the_detector_is_not_asked_where_curation_has_answered():
    boxes = np.array([[1, 1, 9, 9, 0.9], [2, 2, 9, 9, 0.4]], np.float32)
    detector = Detector(min_score=0.5)
    (found,) = detector([Photo("a", "s.tar", "a", boxes=boxes)], [IMAGE])
    np.testing.assert_allclose(found, boxes[:1])
    assert detector._networks is None
