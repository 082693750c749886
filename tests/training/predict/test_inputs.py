"""What is given becomes photos and clips with safe, unique names."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shard_factory import photo, write_curated, write_members
from training.config import UsageError
from training.predict.inputs import Clip, Photo, list_inputs


def names(*paths: object, out: Path = Path("/nowhere")) -> list[str]:
    return [item.name for item in list_inputs([str(p) for p in paths], out).inputs]


def test_a_folder_is_searched_through_by_path_without_hidden_files_and_the_output(photos: Path):
    (photos / ".hidden.jpg").write_bytes(photo(3))
    (photos / "notes.txt").write_text("not a photo")
    (photos / "clip.MP4").write_bytes(b"")
    (photos / "out").mkdir()
    (photos / "out" / "a.panel.jpg").write_bytes(photo(4))
    assert names(photos, out=photos / "out") == ["a", "b", "clip", "more/a"]


def test_results_of_an_earlier_run_are_no_photos(photos: Path):
    (photos / "pose").mkdir()
    (photos / "pose" / "a.panel.jpg").write_bytes(photo(4))
    (photos / "pose" / "run.json").write_text(json.dumps({"conventions": {}}))
    listing = list_inputs([str(photos)], photos / "parts")
    assert [item.name for item in listing.inputs] == ["a", "b", "more/a"]
    assert listing.passed_over == {"folder of results": 1}


def test_what_is_no_photo_is_counted_by_kind(photos: Path):
    (photos / ".hidden.jpg").write_bytes(photo(3))
    (photos / ".git").mkdir()
    for name in ("notes.txt", "more/b.TXT", "README"):
        (photos / name).write_text("not a photo")
    write_members(photos / "s.tar", [("a.jpg", photo(1)), ("b.tif", b"x"), ("c.json", b"{}"), ("._a.jpg", b"x")])
    kinds = {"hidden": 3, ".txt": 2, "without suffix": 1, "tar samples without .jpg, .jpeg, .png, .webp": 2}
    assert list_inputs([str(photos)], Path("/nowhere")).passed_over == kinds


def test_photos_beside_a_folder_called_shards_are_found(photos: Path):
    (photos / "more").rename(photos / "shards")
    assert names(photos) == ["a", "b", "shards/a"]


def test_what_is_not_read_in_a_folder_is_an_input_with_an_error(photos: Path, tmp_path: Path):
    (photos / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "elsewhere").mkdir()
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    found = {item.name: item for item in list_inputs([str(photos)], tmp_path / "out").inputs}
    assert sorted(found) == ["a", "b", "link", "more/a", "phone"]
    link = found["link"]
    assert isinstance(link, Photo)
    assert link.error.startswith("a link to a folder is not followed")


def test_a_name_that_is_not_utf8_is_read_and_shown(tmp_path: Path):
    name = os.fsencode(tmp_path / "caf") + b"\xe9.jpg"
    try:
        Path(os.fsdecode(name)).write_bytes(photo(1))
        Path(os.fsdecode(name[:-4] + b".\xe9")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    listing = list_inputs([str(tmp_path)], tmp_path / "out")
    assert listing.passed_over == {".�": 1}
    (found,) = listing.inputs
    assert isinstance(found, Photo)
    assert (found.name, found.uri) == ("caf�", f"{tmp_path}/caf�.jpg")
    assert found.read() == photo(1)


def test_inputs_of_one_name_keep_apart(tmp_path: Path):
    for name in ("a.jpg", "a.png", "a.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["a", "a-2", "a-3"]
    assert names(tmp_path / "a.jpg", tmp_path / "a.jpg") == ["a", "a-2"]


def test_a_name_is_short_enough_for_what_is_put_behind_it(tmp_path: Path):
    for letter in "ab":
        (tmp_path / f"{'é' * 124}{letter}.jpg").write_bytes(photo(1))
    first, second = names(tmp_path)
    assert (first, second) == ("é" * 100, "é" * 100 + "-2")


def test_inputs_keep_the_names_that_results_are_there_under(tmp_path: Path):
    for name in ("a.jpg", "more/a.jpg", "b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    earlier = {
        (str(tmp_path / "more/a.jpg"), ""): ["a"],
        (str(tmp_path / "gone.jpg"), ""): ["b"],
        (str(tmp_path / "b.jpg"), ""): ["../up"],
    }
    found = list_inputs([str(tmp_path)], tmp_path / "out", earlier).inputs
    assert [item.name for item in found] == ["a-2", "b-2", "a"]


def test_a_relative_path_means_the_same_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("day1/photos/a.jpg", "day2/photos/a.jpg", "day1/photos/12:30.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "day1")
    video, first = list_inputs(["photos"], tmp_path / "out").inputs
    assert (first.uri, video.uri) == (f"{tmp_path}/day1/photos/a.jpg", f"{tmp_path}/day1/photos/12:30.mp4")
    monkeypatch.chdir(tmp_path / "day2")
    (second,) = list_inputs(["photos"], tmp_path / "out", {(first.uri, ""): ["a"]}).inputs
    assert (second.uri, second.name) == (f"{tmp_path}/day2/photos/a.jpg", "a-2")


def test_tar_members_are_read_by_offset_and_cannot_leave_the_output(tmp_path: Path):
    tar = write_members(
        tmp_path / "s.tar",
        [("../../up.jpg", photo(1)), ("/abs/x.jpg", photo(2)), ("x.json", b"{}"), ("y.jpg", photo(3))],
    )
    found = list_inputs([str(tar)], tmp_path / "out").inputs
    assert [item.name for item in found] == ["s/up", "s/abs/x", "s/y"]
    assert isinstance(found[2], Photo)
    assert found[2].read() == photo(3)


def test_a_broken_tar_is_a_photo_with_an_error(tmp_path: Path):
    tar = write_members(tmp_path / "s.tar", [("a.jpg", photo(1)), ("b.jpg", photo(2))])
    tar.write_bytes(tar.read_bytes()[:1500])
    (found,) = list_inputs([str(tmp_path)], tmp_path / "out").inputs
    assert isinstance(found, Photo)
    assert "s.tar" in found.error


def test_curated_shards_bring_their_people_at_the_packed_size(tmp_path: Path):
    curated = write_curated(tmp_path / "c", shards=1, per_shard=2)
    index = curated / "shards" / "00000.parquet"
    person = {"x0": 20.0, "y0": 40.0, "x1": 120.0, "y1": 160.0, "score": 0.75}
    table = pq.read_table(index)
    table = table.append_column("original_width", pa.array([240, 240]))
    table = table.append_column("original_height", pa.array([2 * height for height in table["height"].to_pylist()]))
    table = table.append_column("person_boxes", pa.array([[person], None]))
    pq.write_table(table, index)
    first, second = list_inputs([str(curated)], tmp_path / "out").inputs
    assert isinstance(first, Photo)
    assert isinstance(second, Photo)
    np.testing.assert_allclose(first.boxes, [[10, 20, 60, 80, 0.75]])
    assert second.boxes is None


def test_a_number_is_a_webcam_unless_there_is_such_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert list_inputs(["0"], tmp_path).inputs == [Clip("webcam-0", "0", webcam=0)]
    Path("0").write_bytes(photo(1))
    assert isinstance(list_inputs(["0"], tmp_path).inputs[0], Photo)


@pytest.mark.parametrize("name", ["camcorder.MTS", "phone.3gp", "stream.flv", "disc.vob"])
def test_videos_of_phones_and_camcorders_are_videos(tmp_path: Path, name: str):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / name).write_bytes(b"film")
    for given in (tmp_path / "films", tmp_path / "films" / name):
        assert [type(item) for item in list_inputs([str(given)], tmp_path / "out").inputs] == [Clip]


def test_what_is_not_there_is_one_sentence(tmp_path: Path):
    with pytest.raises(UsageError, match=r"nothing\.jpg does not exist"):
        list_inputs([str(tmp_path / "nothing.jpg")], tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(photo(1))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.json").write_text(json.dumps({}))
    with pytest.raises(UsageError, match=r"no photo or video was found in .*notes \(only 1 \.json\)"):
        list_inputs([str(tmp_path / "photos"), str(tmp_path / "notes")], tmp_path / "out")
