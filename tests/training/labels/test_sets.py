"""Keypoint sets and class lists: shipped ones against published facts, a user's own, and mistakes in them."""

import json
import re
from pathlib import Path

import pytest

from training.config import UsageError
from training.labels.sets import ClassList, KeypointSet, shipped


@pytest.mark.parametrize(
    ("name", "keypoints", "pairs"),
    [("coco17", 17, 8), ("wholebody133", 133, 61), ("goliath308", 308, 138), ("lsp14", 14, 6)],
)
def test_shipped_keypoint_sets(name: str, keypoints: int, pairs: int) -> None:
    made = KeypointSet.load(name)
    assert (len(made.names), len(made.sigmas), len(made.flip_pairs)) == (keypoints, keypoints, pairs)
    assert KeypointSet.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert sorted(made.flip_order) == list(range(keypoints))
    for here, there in enumerate(made.flip_order):
        assert made.flip_order[there] == here
        if "left" in made.names[here]:
            assert made.names[there] == made.names[here].replace("left", "right")
        elif re.search(r"(^|_)l_", made.names[here]):
            assert made.names[there] == re.sub(r"(^|_)l_", r"\1r_", made.names[here])


def test_the_face_of_wholebody_is_mirrored_as_the_68_points_of_ibug_are() -> None:
    """And its body has COCO's sigmas, both hands the same; what a half body keeps has no legs."""
    made = KeypointSet.load("wholebody133")
    face = [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1)]
    face += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    face += [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
    assert list(made.flip_order[23:91]) == [23 + point for point in face]
    assert made.sigmas[:17] == KeypointSet.load("coco17").sigmas
    assert made.sigmas[91:112] == made.sigmas[112:133]
    assert (made.sigmas[17], made.sigmas[23], made.sigmas[90]) == (0.068, 0.042, 0.008)
    assert {"left_hip", "right_knee", "left_heel"} < {made.names[point] for point in made.lower_body}
    assert sorted(made.upper_body + made.lower_body) == list(range(23))  # neither has face or hands


def test_who_names_no_lower_half_has_all_that_is_not_above_there() -> None:
    given = {"keypoints": ["head", "hand", "foot"], "sigmas": [0.1] * 3, "upper_body": ["hand", "head"]}
    assert KeypointSet.from_dict(given).lower_body == (2,)
    assert KeypointSet.from_dict(given | {"lower_body": []}).lower_body == ()
    written = KeypointSet.load("coco17").to_dict()
    assert "lower_body" not in written  # or shards packed by earlier versions would be of another set


@pytest.mark.parametrize(
    "entry",
    [{"value": float("nan")}, {"value": float("inf")}, {"value": 1.7}, {"weight": float("nan")}, {"weight": -1}],
)
def test_numbers_of_classes_that_are_none_are_refused(entry: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"nan|inf|1\.7|-1"):
        ClassList.from_dict({"classes": ["background", {"name": "hair", **entry}]})
    fine = ClassList.from_dict({"classes": ["background", {"name": "hair", "weight": 0, "value": 3.0}]})
    assert fine.values == (0, 3)


def test_coco_sigmas_are_pycocotools_own() -> None:
    from pycocotools.cocoeval import Params

    assert KeypointSet.load("coco17").sigmas == pytest.approx(Params("keypoints").kpt_oks_sigmas.tolist())


def test_sapiens_308_agrees_with_the_places_that_are_published() -> None:
    """Indices as in facebookresearch/sapiens' goliath.py, where 36 teeth stand before 220 + 36."""
    names = KeypointSet.load("goliath308").names
    places = {
        0: "nose", 14: "right_ankle", 20: "right_heel", 21: "right_thumb4", 41: "right_wrist", 62: "left_wrist",
        69: "neck", 77: "tip_of_chin", 96: "l_inner_end_of_upper_lash_line", 137: "r_midpoint_3_of_upper_crease_line",
        176: "r_midpoint_2_of_lower_eyelid_line", 187: "upper_corner_of_l_nostril",
        219: "midpoint_6_of_lower_inner_lip", 220: "l_top_end_of_inferior_crus",
        271: "r_point_2_of_inner_helix", 272: "l_center_of_iris",
        307: "r_border_of_pupil_midpoint_2",
    }  # fmt: skip
    assert {place: names[place] for place in places} == places


def test_whole_body_sets_are_split_into_groups() -> None:
    sizes = {name: len(group) for name, group in KeypointSet.load("wholebody133").groups.items()}
    assert sizes == {"body": 17, "foot": 6, "face": 68, "lefthand": 21, "righthand": 21}
    assert sorted(i for group in KeypointSet.load("wholebody133").groups.values() for i in group) == list(range(133))
    goliath = KeypointSet.load("goliath308")
    assert {name: len(group) for name, group in goliath.groups.items()} == {
        "body": 17, "foot": 6, "face": 238, "lefthand": 20, "righthand": 20
    }  # fmt: skip
    assert len(set(goliath.names) & set(KeypointSet.load("wholebody133").names)) == 53


def test_shipped_class_lists() -> None:
    sapiens, lip = ClassList.load("sapiens28"), ClassList.load("lip20")
    assert (len(sapiens.names), len(lip.names)) == (28, 20)
    assert sapiens.names[21:23] == ("Torso", "Upper_Clothing")
    assert sapiens.flip_pairs == ((4, 13), (5, 14), (6, 15), (7, 16), (8, 17), (9, 18), (10, 19), (11, 20))
    assert lip.flip_pairs == ((14, 15), (16, 17), (18, 19))
    assert (sapiens.weights[0], sapiens.weights[1], sapiens.colours[3]) == (0.1, 10.0, (255, 0, 109))
    assert ClassList.load("person2").values == (0, 255)
    for name in shipped("classes"):
        made = ClassList.load(name)
        assert ClassList.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_a_users_own_set_and_list(tmp_path: Path) -> None:
    keypoints = tmp_path / "three.yaml"
    keypoints.write_text("keypoints: [a, b, c]\nsigmas: [0.1, 0.1, 0.2]\nflip_pairs: [[a, b]]\n")
    made = KeypointSet.load(str(keypoints))
    assert (made.name, made.flip_order) == ("three", (1, 0, 2))
    names = tmp_path / "names.json"
    names.write_text('["nothing", "coat", "hat"]')
    classes = ClassList.load(str(names))
    assert classes.names == ("nothing", "coat", "hat")
    assert classes.weights == (1.0, 1.0, 1.0)
    assert len(set(classes.colours)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keypoints: [a, b]\nsigmas: [0.1]\n", "1 sigmas for 2 keypoints"),
        ("keypoints: [a, a]\nsigmas: [0.1, 0.1]\n", "the keypoint a twice"),
        ("keypoints: [a]\nsigmas: [0.1]\nflip_pairs: [[a, z]]\n", "speaks of 'z'"),
        ("keypoints: [a, b, c]\nsigmas: [1, 1, 1]\nflip_pairs: [[a, b], [b, c]]\n", "in two flip pairs"),
        ("keypoints: [a]\nsigmas: [0.1]\ncolor: red\n", "has the key 'color'; allowed are name, keypoints"),
        ("keypoints: [a]\n", "lacks the key 'sigmas'"),
        ("- a\n", "holds list where keys are expected"),
        ("a: [", "is not YAML"),
        ("keypoints:\nsigmas:\n", "0 sigmas for 0 keypoints"),
        ("keypoints: nose\nsigmas: [0.1]\n", "has 'nose' under 'keypoints', where a list is expected"),
        ("keypoints: [a]\nsigmas: 0.1\n", "has 0.1 under 'sigmas', where a list is expected"),
        ("keypoints: [a]\nsigmas: [thin]\n", "has the sigma 'thin'; give a number"),
        ("keypoints: [a, b]\nsigmas: [1, 1]\nflip_pairs: [[[a], b]]\n", "speaks of '['a']'"),
        ("keypoints: [a]\nsigmas: [1]\ngroups: [a]\n", "where names with a list each are expected"),
    ],
)
def test_mistakes_in_a_keypoint_file_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    assert message in complaint(KeypointSet, tmp_path / "bad.yaml", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes:\n", "0 classes; 2 to 255 are possible"),
        ("classes: glove\n", "has 'glove' under 'classes', where a list is expected"),
        ("classes: [a, {name: b, weight: heavy}]\n", "has the weight 'heavy'; give a number"),
        ("classes: [a, {name: b, value: }]\n", "has the value None; give a number"),
        ("classes: [a, {name: b, colour: [r, g, b]}]\n", "has the colour 'r'; give a number"),
    ],
)
def test_mistakes_in_a_class_file_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    assert message in complaint(ClassList, tmp_path / "bad.yaml", text)


def complaint(kind: type[KeypointSet] | type[ClassList], path: Path, text: str) -> str:
    """What is said of a file with this text; it names the file."""
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(path.name)) as caught:
        kind.load(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_keys_without_anything_and_names_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    (tmp_path / "k.yaml").write_text("keypoints: [1, 2]\nsigmas: [1, 1]\nflip_pairs: [[1, 2]]\nskeleton:\ngroups:\n")
    made = KeypointSet.load(str(tmp_path / "k.yaml"))
    assert (made.names, made.flip_pairs, made.skeleton, made.groups) == (("1", "2"), ((0, 1),), (), {})


def test_an_unknown_name_lists_what_is_shipped() -> None:
    with pytest.raises(UsageError, match=r"neither a shipped set of classes .*lip20.*sapiens28.* nor a file"):
        ClassList.load("sapiens29")


def test_a_set_of_the_other_kind_is_told() -> None:
    with pytest.raises(UsageError, match=r"lip20 is a class list, not a keypoint set; shipped are coco17, .*"):
        KeypointSet.load("lip20")
    with pytest.raises(UsageError, match=r"coco17 is a keypoint set, not a class list; shipped are lip20, .*"):
        ClassList.load("coco17")
