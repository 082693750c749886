"""`sapiens-train practice`: files that agree with each other, the same for any number of workers."""

import json
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.shard_factory import photo
from training.config import UsageError
from training.practice.write import FOLDERS, parse_size, write_practice
from training.tasks.background import Backgrounds


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("practice")
    assert list(write_practice(out, 5, seed=1)) == [1, 2, 3, 4, 5]
    return out


def test_every_picture_has_all_its_labels_at_its_size(made: Path) -> None:
    content = json.loads((made / "keypoints.json").read_text())
    assert len(content["images"]) == 5
    for entry in content["images"]:
        stem, shape = Path(entry["file_name"]).stem, (entry["height"], entry["width"])
        image = cv2.imread(str(made / "images" / entry["file_name"]))
        parts = cv2.imread(str(made / f"parts/{stem}.png"), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(made / f"masks/{stem}.png"), cv2.IMREAD_UNCHANGED)
        depth, normals = np.load(made / f"depths/{stem}.npy"), np.load(made / f"normals/{stem}.npy")
        assert image.shape[:2] == parts.shape == mask.shape == depth.shape == normals.shape[:2] == shape
        assert ((mask > 0) == np.isfinite(depth)).all()
        people = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
        assert sum(person["area"] for person in people) == (mask > 0).sum()
        for person in people:
            x, y, width, height = person["bbox"]
            assert x >= 0 and y >= 0 and x + width <= shape[1] and y + height <= shape[0]  # noqa: PT018
            assert person["num_keypoints"] == sum(v > 0 for v in person["keypoints"][2::3])


def test_pycocotools_reads_the_keypoints(made: Path) -> None:
    from pycocotools.coco import COCO

    content = COCO(str(made / "keypoints.json"))
    assert len(content.getImgIds()) == 5
    assert len(content.loadCats(1)[0]["keypoints"]) == 17


def test_the_files_are_the_same_for_any_number_of_workers(made: Path, tmp_path: Path) -> None:
    list(write_practice(tmp_path / "two", 5, seed=1, workers=2))
    assert digests(tmp_path / "two") == digests(made)
    assert {name.split("/")[0] for name in digests(made)} == {*FOLDERS, "keypoints.json", "preview.jpg"}


def test_photos_become_backgrounds_and_broken_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(photo(1))
    photos = Backgrounds.from_folder(tmp_path / "photos")
    list(write_practice(tmp_path / "with", 1, seed=1, photos=photos))
    list(write_practice(tmp_path / "without", 1, seed=1))
    same = {
        name for name, digest in digests(tmp_path / "with").items() if digest in digests(tmp_path / "without").values()
    }
    assert "parts/000000.png" in same
    assert "images/000000.jpg" not in same
    (tmp_path / "photos/a.jpg").write_bytes(b"no photo")
    with pytest.raises(UsageError, match=r"a\.jpg cannot be read"):
        list(write_practice(tmp_path / "broken", 1, seed=1, photos=photos))


def test_a_folder_that_is_in_use_is_refused(made: Path) -> None:
    with pytest.raises(UsageError, match="already holds practice pictures"):
        list(write_practice(made, 1, seed=1))


def test_what_lies_in_the_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/000000.jpg").write_bytes(photo(1))
    with pytest.raises(UsageError, match="is not empty; give a new or empty folder"):
        list(write_practice(tmp_path, 1, seed=1))
    assert (tmp_path / "images/000000.jpg").read_bytes() == photo(1)


def test_a_run_that_did_not_end_is_done_again(tmp_path: Path) -> None:
    assert next(write_practice(tmp_path, 2, seed=1)) == 1
    assert list(write_practice(tmp_path, 2, seed=1)) == [1, 2]


def test_nothing_of_a_run_that_did_not_end_stays_beside_a_smaller_one(tmp_path: Path) -> None:
    """Its pictures are of another seed."""
    stopped = write_practice(tmp_path, 4, seed=0)
    assert [next(stopped) for _ in range(3)] == [1, 2, 3]
    stopped.close()
    assert list(write_practice(tmp_path, 1, seed=1)) == [1]
    assert all(len(list((tmp_path / folder).iterdir())) == 1 for folder in ("images", "parts", "depths", "normals"))


@pytest.mark.parametrize("text", ["256", "axb", "8x8", "256x"])
def test_a_size_is_rows_x_columns(text: str) -> None:
    with pytest.raises(UsageError, match="rows x columns"):
        parse_size(text)
