"""`sapiens-train pack`: every format comes out as it went in, and every bad label is a counted sentence."""

import io
import json
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from shards.labelled import open_labelled
from tests.shard_factory import photo, write_curated, write_members
from tests.training.labels.made import HEIGHT, WIDTH, manifest, person, write_coco, write_folder, write_pixels
from training.config import Task, UsageError
from training.labels.decode import depth_from_png, normals_from_png, parts_from_png
from training.labels.dense_files import Convention
from training.labels.pack import Packing, pack
from training.labels.preview import write_preview
from training.labels.sets import KeypointSet
from training.practice.scene import render
from training.practice.write import write_practice


def packed(task: Task, out: Path, *labels: Path, names: str = "", **how: Any) -> dict[str, Any]:
    """Pack and return labels.json."""
    list(pack(Packing(task, labels, out, names, how=Convention(**how))))
    return dict(json.loads((out / "labels.json").read_text()))


def refusals(out: Path) -> dict[str, str]:
    """Reason → sentence."""
    rows = manifest(out)
    rows = rows[rows.status == "refused"]
    return dict(zip(rows.reason, rows.error_message, strict=True))


# -- practice data, every task -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def practice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("practice")
    list(write_practice(out, 4, seed=2))
    return out


def test_practice_keypoints(practice: Path, tmp_path: Path) -> None:
    labels = packed("pose", tmp_path / "out", practice)
    data = open_labelled(str(tmp_path / "out"))
    people = [person for number in range(4) for person in render(2, number).people]
    assert data.shards.count == len(people) == labels["counts"]["packed"]
    assert KeypointSet.from_dict(data.labels["keypoints"]).name == "coco17"
    for row, given in enumerate(people):
        sample = data.read(0, row)
        found = np.array(sample.row["keypoints"]).reshape(17, 3)
        assert found == pytest.approx(np.where(given.keypoints[:, 2:] > 0, given.keypoints, 0), abs=0.006)
        rows, columns = np.nonzero(given.mask)
        assert sample.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert sample.row["area"] == given.mask.sum()
        assert sample.label == b""
    several = [data.read(0, row) for row in range(len(people))]
    assert len({sample.uid for sample in several}) == len(people)
    assert len({sample.image for sample in several}) == len({sample.row["image_id"] for sample in several}) == 4


def test_practice_parts_depth_and_normals(practice: Path, tmp_path: Path) -> None:
    tasks: tuple[Task, ...] = ("parts", "depth", "normals")
    for task in tasks:
        packed(task, tmp_path / task, practice)
    data = {task: open_labelled(str(tmp_path / task)) for task in tasks}
    for row in range(4):
        shown = render(2, row)
        samples = {task: data[task].read(0, row) for task in tasks}
        image = (practice / f"images/{row:06d}.jpg").read_bytes()
        assert {sample.image for sample in samples.values()} == {image}
        assert (parts_from_png(samples["parts"].label) == shown.parts).all()
        found = samples["depth"].row
        depth = depth_from_png(samples["depth"].label, found["near"], found["far"])
        assert np.nanmax(abs(depth - shown.depth)) < 1e-4
        assert (np.isnan(depth) == np.isnan(shown.depth)).all()
        normals = normals_from_png(samples["normals"].label)
        assert np.nanmax(abs(normals - shown.normals)) < 2e-3  # stored as float16
        assert len({sample.box for sample in samples.values()}) == 1


def test_the_same_labels_give_the_same_bytes(practice: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        packed("parts", tmp_path / name, practice)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.append([(path.name, sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]


def test_what_an_interrupted_run_left_is_replaced(practice: Path, tmp_path: Path) -> None:
    packed("parts", tmp_path / "out", practice)
    (tmp_path / "out/labels.json").unlink()
    (tmp_path / "out/shards/00001.tar").write_bytes(b"half a shard")
    packed("parts", tmp_path / "out", practice)
    assert open_labelled(str(tmp_path / "out")).shards.count == 4
    with pytest.raises(UsageError, match="already holds packed labels"):
        packed("parts", tmp_path / "out", practice)


def test_shards_of_something_else_are_not_deleted(practice: Path, tmp_path: Path) -> None:
    curated = write_curated(tmp_path / "curated", shards=1, per_shard=2)
    before = {path: path.read_bytes() for path in curated.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="already holds shards that were not packed from labels; give a new or empty"):
        packed("parts", curated, practice)
    assert {path: path.read_bytes() for path in curated.rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file; the last argument is the folder"):
        packed("parts", tmp_path / "file", practice)


# -- keypoints ---------------------------------------------------------------------------------------------------------


def test_bad_people_are_refused_or_mended_and_counted(tmp_path: Path) -> None:
    outside = [value for k in range(17) for value in (500.0 + k, 30.0, 2)]
    partly = [*person(0)["keypoints"][:48], -7.0, 50.0, 2]
    given = [
        person(0),
        person(0, keypoints=partly, bbox=[-10, 20, 60, 200]),  # cut by the edge
        person(0, bbox=[300, 20, 50, 40]),
        person(0, keypoints=[0.0] * 51),
        person(0, keypoints=outside),
        person(0, keypoints=[1.0, 2.0, 2.0]),
        person(0, iscrowd=1),
        person(0, bbox=[10, 10, 0, 5]),
        person(0, keypoints=[float("nan"), 5.0, 2.0, *person(0)["keypoints"][3:]]),
        person(7),
        person(0, keypoints=["here", "there", None]),
        person(0, bbox=[10, 10, None, 5]),
        person(0, bbox=[10, 10, 5]),
        person(0, area="large"),
    ]
    labels = packed("pose", tmp_path / "out", write_coco(tmp_path / "coco", given))
    rows = manifest(tmp_path / "out")
    assert len(rows) == len(given) == labels["counts"]["given"]
    assert rows.status.tolist() == ["packed"] * 2 + ["refused"] * 6 + ["packed"] + ["refused"] * 5
    assert rows[rows.status == "packed"].dropped.tolist() == [0, 1, 1]
    assert rows[rows.status == "packed"].clipped.tolist() == [False, True, False]
    assert rows.error_message.tolist()[2:8] == [
        f"its box 300, 20, 350, 60 lies outside the image of {WIDTH} x {HEIGHT} px",
        "none of its keypoints is labelled",
        "all its keypoints lie outside the image",
        "it has 3 numbers where the 17 keypoints of coco17 need 51",
        "it stands for a crowd (iscrowd)",
        "its box 10, 10, 10, 15 is empty",
    ]
    assert rows.error_message.tolist()[9:] == [
        "'here' in its keypoints is not a number",
        "None in its bbox is not a number",
        "its bbox has 3 numbers where x, y, width and height are needed",
        "'large' in its area is not a number",
        "image_id 7 is not among the file's images",
    ]
    assert sum(labels["counts"]["refusals"].values()) == labels["counts"]["refused"] == 11
    sample = open_labelled(str(tmp_path / "out")).read(0, 1)
    assert sample.box == (0, 20, 50, HEIGHT)
    assert sample.row["keypoints"][48:] == [0, 0, 0]


def test_a_photo_that_is_missing_broken_or_of_another_size(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "coco", [person(n) for n in range(4)], photos=4)
    (tmp_path / "coco/images/1.jpg").unlink()
    (tmp_path / "coco/images/2.jpg").write_bytes(photo(2)[:900])
    (tmp_path / "coco/images/3.jpg").write_bytes(photo(3, height=50))
    packed("pose", tmp_path / "out", path)
    found = refusals(tmp_path / "out")
    assert found["label without its image"].startswith("there is no '1.jpg' in")
    assert found["image cannot be read"].startswith("the image cannot be read: ")
    assert (
        found["label and image differ in size"] == "the label is for an image of 120 x 96 px and this one has 120 x 50"
    )


@pytest.mark.parametrize(
    ("changed", "packs"),
    [
        ({"categories": None}, 2),
        ({"categories": {"person": 1}}, 2),
        ({"categories": ["person"]}, 2),
        ({"annotations": [person(0, keypoints=None), person(1)]}, 1),
        ({"annotations": [person(0) | {"image_id": [0]}, person(1)]}, 1),
        (
            {
                "images": [
                    {"id": 0, "file_name": "0.jpg", "height": "tall", "width": 9},
                    {"id": 1, "file_name": "1.jpg"},
                ]
            },
            1,
        ),
        ({"images": [{"id": 0, "file_name": None}, {"id": {}}, {"id": 1, "file_name": "1.jpg"}]}, 1),
    ],
)
def test_fields_that_hold_something_else_cost_their_label_and_no_other(
    tmp_path: Path, changed: dict[str, Any], packs: int
) -> None:
    path = write_coco(tmp_path / "coco", [person(0), person(1)])
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    counts = packed("pose", tmp_path / "out", path)["counts"]
    assert (counts["packed"], counts["given"]) == (packs, 2)


def test_ids_of_several_kinds_and_names_from_windows_are_understood(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "coco", [person(0), person(1), person(1)])
    content = json.loads(path.read_text())
    content["images"][0] |= {"id": "0", "file_name": "C:\\export\\images\\0.jpg"}
    content["images"][1] |= {"id": 1.0, "file_name": "images\\1.jpg"}
    content["annotations"][2]["image_id"] = "1"
    path.write_text(json.dumps(content))
    counts = packed("pose", tmp_path / "out", path)["counts"]
    assert (counts["packed"], counts["photos"]) == (3, 2)


def changed_coco(folder: Path, annotations: list[dict[str, Any]], photos: int, **entries: Any) -> Path:
    """A COCO file of which some lists are others: `images` and `categories` by what to change of each entry."""
    path = write_coco(folder, annotations, photos)
    content = json.loads(path.read_text())
    for name, changes in entries.items():
        content[name] = [old | new for old, new in zip(content[name], changes, strict=True)]
    path.write_text(json.dumps(content))
    return path


def test_an_id_of_several_images_is_told(tmp_path: Path) -> None:
    """As in files that were joined without counting on: everybody would lie on the first photo."""
    people = [person(0), person(0), person(2)]
    path = changed_coco(tmp_path / "coco", people, 3, images=[{}, {"id": 0}, {}])
    assert packed("pose", tmp_path / "out", path)["counts"]["packed"] == 1
    (told,) = set(manifest(tmp_path / "out").query("status == 'refused'").error_message)
    assert told == "its id 0 is that of several images: 0.jpg, 1.jpg"


def test_a_photo_that_is_missing_is_not_replaced_by_another_of_its_name(tmp_path: Path) -> None:
    names = [{"file_name": "train/0.jpg"}, {"file_name": "test/0.jpg"}, {"file_name": "test/2.jpg"}]
    path = changed_coco(tmp_path / "coco", [person(n) for n in range(3)], 3, images=names)
    assert packed("pose", tmp_path / "out", path)["counts"]["packed"] == 1  # 2.jpg, which no other is called
    assert refusals(tmp_path / "out").keys() == {"label without its image"}
    for folder in ("train", "test"):
        (tmp_path / "coco" / "images" / folder).mkdir()
        (tmp_path / "coco" / "images" / folder / "0.jpg").write_bytes(photo(7 + len(folder)))
    assert packed("pose", tmp_path / "both", path)["counts"]["photos"] == 3


def test_photos_of_one_name_in_several_files_are_not_taken_for_each_other(tmp_path: Path) -> None:
    paths = [
        changed_coco(tmp_path / name, [person(0), person(1)], 2, images=[{"file_name": f"{name}/0.jpg"}, {}])
        for name in ("a", "b")
    ]
    list(pack(Packing("pose", tuple(paths), tmp_path / "out", images=tmp_path / "a" / "images")))
    assert manifest(tmp_path / "out").status.tolist() == ["refused", "packed"] * 2  # both call 1.jpg the same
    (tmp_path / "b/images/0.jpg").write_bytes(photo(7))
    assert packed("pose", tmp_path / "own", *paths)["counts"]["packed"] == 4  # each with its own folder
    assert manifest(tmp_path / "own").uid.nunique() == 3


def test_a_name_that_is_not_unicode_costs_no_other(tmp_path: Path) -> None:
    path = changed_coco(tmp_path / "coco", [person(0), person(1)], 2, images=[{"file_name": "\ud83d.jpg"}, {}])
    assert packed("pose", tmp_path / "out", path)["counts"]["packed"] == 1
    assert list(refusals(tmp_path / "out")) == ["label without its image"]


def test_a_crowd_in_text_and_people_of_one_point(tmp_path: Path) -> None:
    point = [0.0, 0.0, 0] * 16 + [50.0, 50.0, 2]
    people = [person(0, iscrowd="0"), person(0, iscrowd="1"), person(1, bbox=None, keypoints=point)]
    people.append(person(1, keypoints=point))
    assert packed("pose", tmp_path / "out", write_coco(tmp_path / "coco", people))["counts"]["packed"] == 2
    told = set(manifest(tmp_path / "out").query("status == 'refused'").error_message)
    assert told == {
        "it stands for a crowd (iscrowd)",
        "it has no box, and keypoints at one place alone do not tell its size",
    }


def test_somebody_without_keypoints_first_hides_nobody(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "coco", [person(0, keypoints=[]), person(1)])
    assert packed("pose", tmp_path / "out", path)["counts"]["packed"] == 1


def test_every_category_has_its_own_order_of_keypoints(tmp_path: Path) -> None:
    names = list(KeypointSet.load("coco17").names)
    flat = np.array(person(0)["keypoints"]).reshape(17, 3)
    path = write_coco(tmp_path / "coco", [person(0), person(1, category_id=2, keypoints=flat[::-1].ravel().tolist())])
    content = json.loads(path.read_text())
    content["categories"] = [
        {"id": 1, "name": "man", "keypoints": names},
        {"id": 2, "name": "woman", "keypoints": names[::-1]},
    ]
    path.write_text(json.dumps(content))
    packed("pose", tmp_path / "out", path)
    opened = open_labelled(str(tmp_path / "out"))
    first, second = (opened.read(0, row).row["keypoints"] for row in range(2))
    assert first == second


def test_the_masks_of_a_tar_are_no_depth(tmp_path: Path) -> None:
    mask = io.BytesIO()
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(mask, "PNG")
    depth = io.BytesIO()
    np.save(depth, np.ones((HEIGHT, WIDTH), np.float32))
    members = [("0.jpg", photo(0)), ("0.depth.npy", depth.getvalue()), ("0.mask.png", mask.getvalue())]
    members += [("1.jpg", photo(1)), ("1.mask.png", mask.getvalue())]
    tar = write_members(tmp_path / "a.tar", members)
    assert packed("depth", tmp_path / "depth", tar)["counts"]["packed"] == 1
    assert list(refusals(tmp_path / "depth")) == ["image without a label"]
    assert packed("parts", tmp_path / "parts", tar)["counts"]["packed"] == 2


def test_a_box_without_keypoints_is_no_label_rather_than_a_broken_one(tmp_path: Path) -> None:
    box = {name: value for name, value in person(0).items() if name != "keypoints"}
    packed("pose", tmp_path / "out", write_coco(tmp_path / "coco", [person(0), box]))
    assert refusals(tmp_path / "out") == {"image without a label": "it has no keypoints"}


def test_a_file_without_keypoints_is_told_apart_from_one_with_unknown_names(tmp_path: Path) -> None:
    boxes = {name: value for name, value in person(0).items() if name != "keypoints"}
    with pytest.raises(UsageError, match="has no list 'keypoints' in any of its annotations"):
        packed("pose", tmp_path / "out", write_coco(tmp_path / "coco", [boxes]))


def test_whole_body_fields_are_joined_and_invalid_ones_count_as_unlabelled(tmp_path: Path) -> None:
    sizes = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
    extra: dict[str, Any] = {name: [30.0, 40.0, 1] * count for name, count in sizes.items()}
    path = write_coco(tmp_path / "coco", [person(0, **extra, lefthand_valid=False, face_valid=True)])
    labels = packed("pose", tmp_path / "out", path)
    assert labels["keypoints"]["name"] == "wholebody133"
    found = np.array(open_labelled(str(tmp_path / "out")).read(0, 0).row["keypoints"]).reshape(133, 3)
    assert (found[17:91, 2] == 1).all()
    assert (found[91:112] == 0).all()
    assert (found[112:] == (30, 40, 1)).all()


def test_308_keypoints_and_a_set_of_ones_own(tmp_path: Path) -> None:
    flat = [30.0, 40.0, 2] * 308
    packed("pose", tmp_path / "out", write_coco(tmp_path / "coco", [person(0, keypoints=flat)]))
    assert open_labelled(str(tmp_path / "out")).labels["keypoints"]["name"] == "goliath308"
    (tmp_path / "two.yaml").write_text("keypoints: [b, a]\nsigmas: [0.1, 0.1]\n")
    path = write_coco(tmp_path / "own", [person(0, keypoints=[1.0, 2, 2, 3, 4, 2])], names=["a", "b"])
    packed("pose", tmp_path / "two", path, names=str(tmp_path / "two.yaml"))
    assert open_labelled(str(tmp_path / "two")).read(0, 0).row["keypoints"] == [3, 4, 2, 1, 2, 2]  # by name
    with pytest.raises(UsageError, match="2 keypoints by names that no shipped set has"):
        packed("pose", tmp_path / "unknown", path)


def test_animals_in_the_same_file_are_not_packed_as_people(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "coco", [person(0, category_id=7), person(1)])
    content = json.loads(path.read_text())
    dog = {"id": 7, "name": "dog", "keypoints": [f"paw {number}" for number in range(17)]}
    people = {"id": 1, "name": "person", "keypoints": list(KeypointSet.load("coco17").names)}
    path.write_text(json.dumps(content | {"categories": [dog, people]}))
    labels = packed("pose", tmp_path / "out", path)
    assert labels["keypoints"]["name"] == "coco17"
    assert labels["counts"]["packed"] == 1
    assert refusals(tmp_path / "out") == {"another category": "it is of the category dog, whose keypoints are others"}


def test_a_photo_on_its_side_and_a_png_become_upright_jpegs(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "coco", [person(0), person(1)])
    pixels = simplejpeg.decode_jpeg(photo(0))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "coco/images/0.jpg", exif=exif, quality=95)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    (tmp_path / "coco/images/1.jpg").write_bytes(buffer.getvalue())
    packed("pose", tmp_path / "out", path)
    data = open_labelled(str(tmp_path / "out"))
    for row in range(2):
        found = simplejpeg.decode_jpeg(data.read(0, row).image)
        assert abs(found.astype(int) - pixels).mean() < 3


def test_a_tar_with_names_and_boxes(tmp_path: Path) -> None:
    names = list(KeypointSet.load("lsp14").names)
    record = {
        "keypoint_names": names[::-1],
        "keypoints": [[10.0 + k, 20.0, 2] for k in range(13)] + [[0.0, 0.0, 0]],
        "persons": [{"x0": 5, "y0": 15, "x1": 30, "y1": 40}, {"x0": 60, "y0": 15, "x1": 90, "y1": 40}],
    }
    members = [("0.jpg", photo(0)), ("0.json", json.dumps(record).encode()), ("1.jpg", photo(1)), ("1.json", b"{")]
    members += [("2.json", json.dumps(record).encode()), ("3.jpg", photo(3)), ("3.json", b"{}")]
    labels = packed("pose", tmp_path / "out", write_members(tmp_path / "a.tar", members))
    sample = open_labelled(str(tmp_path / "out")).read(0, 0)
    assert labels["keypoints"]["name"] == "lsp14"
    assert sample.box == (5, 15, 30, 40)
    assert sample.row["keypoints"][:6] == [0, 0, 0, 22, 20, 2]
    assert np.isnan(sample.row["area"])
    assert set(refusals(tmp_path / "out")) == {
        "label cannot be read", "label without its image", "image without a label"
    }  # fmt: skip


def test_people_of_a_tar_are_not_given_the_boxes_of_others(tmp_path: Path) -> None:
    names = list(KeypointSet.load("lsp14").names)
    record = {
        "keypoint_names": names,
        "keypoints": [[10.0 + k, 20.0, 2] for k in range(14)],
        "persons": [{"x0": 22, "y0": 15, "x1": 90, "y1": 80}],  # holds two
        "width": None,
        "height": None,
    }
    members = [("0.json", json.dumps(record).encode()), ("0.jpg", photo(0))]
    members += [
        ("1.json", json.dumps(record | {"persons": None, "keypoint_names": None}).encode()),
        ("1.jpg", photo(1)),
    ]
    packed("pose", tmp_path / "out", write_members(tmp_path / "a.tar", members))
    data = open_labelled(str(tmp_path / "out"))
    assert data.read(0, 0).box == data.read(0, 1).box == (8, 18, 25, 22)


# -- dense -------------------------------------------------------------------------------------------------------------


def test_class_maps_good_and_bad(tmp_path: Path) -> None:
    good = np.zeros((HEIGHT, WIDTH), np.uint8)
    good[20:60, 30:50], good[0, 0] = 3, 255
    strange = good.copy()
    strange[5, 5] = 77
    labels = {"a.png": good, "b.png": strange, "c.png": np.zeros_like(good), "d.png": good[:50]}
    root = write_folder(tmp_path / "in", "masks", labels)
    (root / "images/d.jpg").rename(root / "images/e.jpg")
    write_pixels(root / "masks/f.png", good[:50])
    write_pixels(root / "masks/g.png", np.full_like(good, 255))
    (root / "images/g.jpg").write_bytes((root / "images/a.jpg").read_bytes())
    (root / "images/f.jpg").write_bytes(photo(9))
    result = packed("parts", tmp_path / "out", root, names="lip20")
    data = open_labelled(str(tmp_path / "out"))
    assert data.labels["classes"]["name"] == "lip20"
    assert (parts_from_png(data.read(0, 0).label) == good).all()
    assert data.read(0, 0).box == (30, 20, 50, 60)
    assert data.read(0, 1).box == (0, 0, WIDTH, HEIGHT)  # nobody there: all of it is background
    assert result["counts"]["pixels"]["Glove"] == 800
    assert refusals(tmp_path / "out") == {
        "unknown class": "it has the class 77; lip20 has 0 to 19, and 255 to ignore",
        "label without its image": f"there is no image 'd' in {root / 'images'}",
        "image without a label": f"there is no 'e' in {root / 'masks'}",
        "label and image differ in size": "the label has 120 x 50 px and the image 120 x 96",
        "nothing is labelled": "no pixel has a class",
    }
    assert len(manifest(tmp_path / "out")) == 7


def test_masks_of_people_and_palette_pngs(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:20, 30:50] = 255
    packed("parts", tmp_path / "people", write_folder(tmp_path / "a", "masks", {"a.png": mask}), names="person2")
    assert (parts_from_png(open_labelled(str(tmp_path / "people")).read(0, 0).label) == mask // 255).all()
    root = write_folder(tmp_path / "b", "masks", {"a.png": mask})
    palette = Image.fromarray(mask // 255 * 7, "P")
    palette.putpalette([value for n in range(256) for value in (n, 255 - n, 9)])
    palette.save(root / "masks/a.png")
    packed("parts", tmp_path / "palette", root)
    assert set(np.unique(parts_from_png(open_labelled(str(tmp_path / "palette")).read(0, 0).label))) == {0, 7}
    colours = write_folder(tmp_path / "c", "masks", {"a.png": np.stack([mask] * 3, axis=2)})
    with pytest.raises(UsageError, match="class maps are"):
        packed("parts", tmp_path / "colours", colours)


def test_depth_good_and_bad(tmp_path: Path) -> None:
    ramp = np.linspace(1, 4, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    holes = ramp.copy()
    holes[:10], holes[10:20], holes[20:30], holes[30:40] = np.nan, np.inf, -1, 1e10
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, 60:] = 255
    labels = {"a.npy": holes, "b.npy": np.full_like(ramp, np.nan), "c.npy": ramp, "d.npy": np.zeros((4, 4, 4))}
    labels["f.npy"] = np.zeros((0, 4), np.float32)
    root = write_folder(tmp_path / "in", "depths", labels, masks={"a.png": mask, "b.png": mask, "d.png": mask})
    (root / "images/e.jpg").write_bytes(photo(8))
    (root / "depths/e.npy").write_bytes(b"\x93NUMPY, but not for long")
    write_pixels(root / "masks/e.png", mask)
    packed("depth", tmp_path / "out", root)
    sample = open_labelled(str(tmp_path / "out")).read(0, 0)
    depth = depth_from_png(sample.label, sample.row["near"], sample.row["far"])
    valid = np.zeros((HEIGHT, WIDTH), bool)
    valid[40:, 60:] = True
    assert (np.isfinite(depth) == valid).all()
    assert depth[valid] == pytest.approx(ramp[valid], abs=1e-4)
    assert sample.box == (60, 40, WIDTH, HEIGHT)
    rows = manifest(tmp_path / "out")
    assert rows.error_message.tolist()[1:3] == ["no pixel has a depth", f"there is no mask 'c' in {root / 'masks'}"]
    assert rows.error_message.tolist()[3] == "d.npy holds 4 x 4 x 4 of float64; depth maps are (H, W) with numbers"
    assert rows.error_message.tolist()[4].startswith("e.npy is not an npy file of numbers")
    assert rows.error_message.tolist()[5] == "f.npy holds 0 x 4 of float32: nothing"


def test_depth_in_millimetres_needs_a_scale(tmp_path: Path) -> None:
    millimetres = np.full((HEIGHT, WIDTH), 1500, np.uint16)
    millimetres[:2], millimetres[2:4] = 0, 65535
    root = write_folder(tmp_path / "in", "depth", {"a.png": millimetres})
    with pytest.raises(UsageError, match="say with --scale how many metres a step is"):
        packed("depth", tmp_path / "none", root)
    packed("depth", tmp_path / "out", root, scale=0.001)
    sample = open_labelled(str(tmp_path / "out")).read(0, 0)
    depth = depth_from_png(sample.label, sample.row["near"], sample.row["far"])
    assert np.isnan(depth[:4]).all()
    assert depth[4:] == pytest.approx(1.5)


def test_arrays_of_another_kind_or_shape_are_refused_one_by_one(tmp_path: Path) -> None:
    whole = np.ones((HEIGHT, WIDTH))
    depths = {"a.npy": whole.astype(np.float16), "b.npy": whole > 0, "c.npy": whole.astype(str), "d.npy": whole}
    depths |= {"e.npy": whole, "f.npy": whole.astype(complex)}
    masks = dict.fromkeys(("a.npy", "b.npy", "c.npy", "f.npy"), whole)
    masks |= {"d.npy": whole[0], "e.npy": np.zeros((0, 4))}
    root = write_folder(tmp_path / "in", "depths", depths, masks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert packed("depth", tmp_path / "out", root, scale=0.5)["counts"]["packed"] == 1
    assert manifest(tmp_path / "out").error_message.tolist() == [
        "",
        "b.npy holds 96 x 120 of bool; depth maps are (H, W) with numbers",
        "c.npy holds 96 x 120 of <U32; depth maps are (H, W) with numbers",
        "d.npy holds 120 of float64; masks are (H, W)",
        "e.npy holds 0 x 4 of float64; masks are (H, W)",
        "f.npy holds 96 x 120 of complex128; depth maps are (H, W) with numbers",
    ]
    words = write_folder(tmp_path / "words", "normals", {"a.npy": np.full((HEIGHT, WIDTH, 3), "up")})
    with pytest.raises(UsageError, match=r"normal maps are \(H, W, 3\) with numbers"):
        packed("normals", tmp_path / "none", words)


def test_normals_with_other_axes_lengths_and_files(tmp_path: Path) -> None:
    """A wall that faces the camera and leans up is (0, .6, .8) for us and (0, -.6, -.8) for OpenCV's camera."""
    ours = np.tile(np.array([0.0, 0.6, 0.8]), (HEIGHT, WIDTH, 1))
    opencv = ours * (1, -1, -1) * 1.2
    opencv[:5] = -1000  # Sapiens' background
    opencv[5:8] = np.nan
    packed("normals", tmp_path / "a", write_folder(tmp_path / "in", "normals", {"a.npy": opencv}), axes="+x-y-z")
    found = normals_from_png(open_labelled(str(tmp_path / "a")).read(0, 0).label)
    assert np.isnan(found[:8]).all()
    assert found[8:] == pytest.approx(ours[8:], abs=1e-4)
    swapped = np.rint((ours[:, :, ::-1] + 1) / 2 * 255).astype(np.uint8)  # z, y, x in 8 bits
    swapped[:5] = 0
    packed("normals", tmp_path / "b", write_folder(tmp_path / "png", "normals", {"a.png": swapped}), axes="+z+y+x")
    found = normals_from_png(open_labelled(str(tmp_path / "b")).read(0, 0).label)
    assert np.isnan(found[:5]).all()
    assert found[5:] == pytest.approx(ours[5:], abs=0.01)
    with pytest.raises(UsageError, match="give a sign and a letter for each channel"):
        Convention(axes="xyz")


def test_dense_tars(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:20, 30:50] = 2
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    members = [("0.jpg", photo(0)), ("0.png", buffer.getvalue()), ("1.png", buffer.getvalue()), ("2.jpg", photo(2))]
    packed("parts", tmp_path / "out", write_members(tmp_path / "a.tar", members))
    assert (parts_from_png(open_labelled(str(tmp_path / "out")).read(0, 0).label) == mask).all()
    assert list(refusals(tmp_path / "out")) == ["image without a label"]
    assert len(manifest(tmp_path / "out")) == 3


def test_what_cannot_be_packed_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere does not exist; give a folder"):
        packed("depth", tmp_path / "out", tmp_path / "nowhere")
    (tmp_path / "bad.json").write_text("[1, 2]")
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="it needs the lists 'images' and 'annotations'"):
        packed("pose", tmp_path / "out", tmp_path / "bad.json")
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UsageError, match="is not a whole, plain tar"):
        packed("parts", tmp_path / "out", tmp_path / "bad.tar")
    whole = write_members(tmp_path / "whole.tar", [("a.jpg", photo(0)), ("a.png", b"x"), ("b.jpg", photo(1))])
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: 3 * 512 + len(photo(0)) // 512 * 512 + 512])  # after a.png
    with pytest.raises(UsageError, match=r"cut.tar is not a whole, plain tar \(it ends without the closing block\)"):
        packed("parts", tmp_path / "out", tmp_path / "cut.tar")
    with pytest.raises(UsageError, match="has no folder 'normals'"):
        packed("normals", tmp_path / "out", tmp_path)
    twice = write_folder(tmp_path / "twice", "parts", {"a.png": np.zeros((4, 4), np.uint8), "a.npy": np.zeros((4, 4))})
    with pytest.raises(UsageError, match=r"has both a\.npy and a\.png"):
        packed("parts", tmp_path / "out", twice)
    path = write_coco(tmp_path / "coco", [person(0, iscrowd=1)])
    with pytest.raises(UsageError, match=r"none of the 1 labels can be used: .*crowd"):
        packed("pose", tmp_path / "out", path)


def test_a_preview_shows_a_row_per_sample(practice: Path, tmp_path: Path) -> None:
    tasks: tuple[Task, ...] = ("pose", "parts", "depth", "normals")
    for task in tasks:
        packed(task, tmp_path / task, practice)
        drawn = simplejpeg.decode_jpeg(write_preview(tmp_path / task, count=3).read_bytes())
        assert drawn.shape[0] > 3 * 256
        assert drawn[:, drawn.shape[1] // 2 :].std() > 20


@pytest.mark.real_data
def test_real_labels(shared_data: Path, tmp_path: Path) -> None:
    sport = packed("pose", tmp_path / "sport", shared_data / "dev/pose-sport-000.tar")
    assert (sport["keypoints"]["name"], sport["counts"]["packed"]) == ("lsp14", 288)
    classes = str(shared_data / "train/parts-fashion-classes.json")
    fashion = packed("parts", tmp_path / "fashion", shared_data / "dev/parts-fashion-000.tar", names=classes)
    assert (len(fashion["classes"]["classes"]), fashion["counts"]["packed"]) == (59, 70)
    kitchen = packed("depth", tmp_path / "kitchen", shared_data / "dev/depth-kitchen-000.tar", scale=0.001)
    assert kitchen["counts"]["packed"] == 35
    people = packed("parts", tmp_path / "people", shared_data / "train/mask-people-000.tar", names="person2")
    assert people["counts"]["packed"] == 217
