"""One image looked up by key, uid or path."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.errors import UsageError
from curation.inspect import inspect
from tests.curation.made_run import failed_row, row, write_run


def test_a_kept_image_by_its_sample_key(made_run: Path) -> None:
    found = inspect(made_run, "000000003")
    assert found.row["uri"].endswith("03.jpg")
    assert all(ruling.passes for ruling in found.rulings)
    assert [ruling.name for ruling in found.rulings] == ["watermark", "art", "person", "duplicate"]
    text = found.text()
    assert "verdict  kept" in text
    assert "key 000000003" in text
    assert "people-small@a1b2c3" in text


def test_every_rule_says_what_it_saw(made_run: Path) -> None:
    found = inspect(made_run, "photos/18.jpg")
    saw = {ruling.name: (ruling.saw, ruling.passes) for ruling in found.rulings}
    assert saw["watermark"] == ("pwatermark 0.510", False)
    assert saw["art"] == ("partistic 0.900", False)
    assert saw["person"] == ("person_score 0.970, largest_person_px 400", True)
    assert "because  watermark, art" in found.text()


def test_by_uid_the_kept_one_of_equal_bytes_is_shown_and_the_others_are_named(made_run: Path) -> None:
    found = inspect(made_run, f"{0:032x}")
    assert found.row["verdict"] == "kept"
    assert [Path(place).name for place in found.copies] == ["23.jpg"]
    repeat = inspect(made_run, "23.jpg")
    assert repeat.row["verdict"] == "rejected"
    assert f"repeats uid {0:032x}" in repeat.text()


def test_a_failed_input_has_its_error_and_no_rules(made_run: Path) -> None:
    found = inspect(made_run, "broken-4.jpg")
    assert found.rulings == found.scores == ()
    assert "because  DamagedImage: ends early" in found.text()


def test_a_name_matches_from_a_slash_on(made_run: Path) -> None:
    with pytest.raises(UsageError, match=r"no image '4\.jpg'"):
        inspect(made_run, "4.jpg")


def test_members_of_tars_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    rows = [row("/a/x.tar", member="one.jpg"), row("/a/y.tar", member="one.jpg"), row("/a/y.tar", member="two.jpg")]
    write_run(tmp_path, rows, files=1)
    assert inspect(tmp_path, "two.jpg").row["uri"] == "/a/y.tar"
    assert inspect(tmp_path, "x.tar/one.jpg").row["uri"] == "/a/x.tar"
    with pytest.raises(UsageError, match=r"fits 2 images: /a/x\.tar/one\.jpg .*; give more of the path"):
        inspect(tmp_path, "one.jpg")


def test_a_short_uid_that_fits_several_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, [row("/a.jpg", uid="abcdef" + 26 * "0"), row("/b.jpg", uid="abcdef" + 26 * "1")], files=1)
    with pytest.raises(UsageError, match="'abcdef' fits 2 images"):
        inspect(tmp_path, "abcdef")
    assert inspect(tmp_path, "abcdef1").row["uri"] == "/b.jpg"


@pytest.mark.parametrize("key", ["", " ", "nobody.jpg", "999999999", "abcdef0123"])
def test_an_unknown_key_says_what_to_give(made_run: Path, key: str) -> None:
    with pytest.raises(UsageError, match="give a sample key"):
        inspect(made_run, key)


def test_the_picture_has_its_boxes_drawn(made_run: Path, tmp_path: Path) -> None:
    found = inspect(made_run, "000000000")
    drawn = np.asarray(Image.open(found.save_picture(tmp_path / "a.png")).convert("RGB")).astype(int)
    height, width = drawn.shape[:2]
    scale = width / found.row["original_width"]
    middle = drawn[int(320 * scale), int(60 * scale) : int(60 * scale) + 2]
    np.testing.assert_array_less(np.abs(middle - [0x17, 0xC3, 0xA8]).max(), 3)
    assert height > 300


def test_a_picture_that_cannot_be_shown_is_one_sentence(made_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(FileNotFoundError"):
        inspect(made_run, "19.jpg").save_picture(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"ends in \.jpg"):
        inspect(made_run, "000000000").save_picture(tmp_path / "a.xyz")


def test_a_failed_row_without_a_size_has_no_picture(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    write_run(tmp_path / "out", [failed_row(str(broken), "failed_to_decode", "EmptyFile: 0 bytes")], files=1)
    with pytest.raises(UsageError, match="EmptyFile"):
        inspect(tmp_path / "out", "broken.jpg").save_picture(tmp_path / "a.png")


def test_unreadable_images_of_one_name_are_told_apart(tmp_path: Path) -> None:
    rows = [failed_row(f"/p/{folder}/x.jpg", "failed_to_read", "gone") | {"uid": None} for folder in "ab"]
    out = write_run(tmp_path / "out", [one | {"sha256": None} for one in rows])
    with pytest.raises(UsageError, match=r"'x\.jpg' fits 2 images: /p/a/x\.jpg, /p/b/x\.jpg; give more of the path"):
        inspect(out, "x.jpg")
