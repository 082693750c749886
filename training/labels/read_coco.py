"""Keypoint files in COCO's format: 17, COCO-WholeBody's 133, or any other number of keypoints."""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from training.config import UsageError
from training.labels.given import BROKEN_LABEL, NOWHERE, OTHER, Given, GivenPerson, LabelError
from training.labels.sets import KeypointSet, shipped

WHOLE_BODY = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
"""COCO-WholeBody's fields, in the order of its 133 keypoints; all but the first have a `…_valid` beside them."""


def read_coco(
    path: Path, images: Path, keypoints: KeypointSet | None, called: defaultdict[str, set[str]]
) -> tuple[KeypointSet, list[Given]]:
    """The photos of a COCO json in its order, with their people; and the keypoint set, told by the file where none is
    given. called: base name → names that jsons give photos of the folder `images`; this one's are added. Raises
    UsageError for what is no such file.
    """
    content = _load(path)
    keypoints = keypoints or _recognise(path, content)
    order, others = _order(path, content, keypoints), _others(content, keypoints)
    people: dict[str, list[GivenPerson]] = defaultdict(list)
    for number, annotation in enumerate(content["annotations"]):
        own = order.get(_identity(annotation.get("category_id")), order[""])
        people[_identity(annotation.get("image_id"))].append(_person(annotation, number, own, others))
    files: dict[str, set[str]] = defaultdict(set)
    for entry in content["images"]:
        name = _file_name(entry)
        files[_identity(entry.get("id"))].add(name)
        called[Path(name).name].add(name)
    given = []
    for entry in content["images"]:
        identity = _identity(entry.get("id"))
        if found := people.pop(identity, None):
            given.append(_photo(path, images, entry, found, called, sorted(files[identity])))
    return keypoints, given + list(_astray(path, people))


def default_images(path: Path) -> Path | None:
    """The folder `images` beside a json, where there is one."""
    folder = path.parent / "images"
    return folder if folder.is_dir() else None


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error
    lists = [content.get(key) for key in ("images", "annotations")] if isinstance(content, dict) else [None]
    if not all(isinstance(entries, list) and all(isinstance(e, dict) for e in entries) for entries in lists):
        raise UsageError(f"{path} is not a COCO file: it needs the lists 'images' and 'annotations'")
    return dict(content)


def _identity(value: Any) -> str:
    """An id as text: exports have 7, 7.0 and "7" for the same image."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _categories(content: dict[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name and names of keypoints of the file's categories by their ids."""
    found = {}
    given = content.get("categories")
    for category in given if isinstance(given, list) else ():
        if isinstance(category, dict):
            names = category.get("keypoints")
            keypoints = tuple(map(str, names)) if isinstance(names, list) else ()
            found[_identity(category.get("id"))] = (str(category.get("name", category.get("id"))), keypoints)
    return found


def _named(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """The lists of names by which the categories call their keypoints."""
    return [names for _, names in _categories(content).values() if names]


def _others(content: dict[str, Any], keypoints: KeypointSet) -> dict[str, str]:
    """Categories with other keypoints than those of the set, such as animals, where one has these: id → name."""
    categories, ours = _categories(content), set(keypoints.names)
    if not any(set(names) == ours for _, names in categories.values()):
        return {}
    return {identity: name for identity, (name, names) in categories.items() if names and set(names) != ours}


def _recognise(path: Path, content: dict[str, Any]) -> KeypointSet:
    lists = (a for a in content["annotations"] if isinstance(a.get("keypoints"), list) and a["keypoints"])
    first: dict[str, Any] = next(lists, {})
    if "face_kpts" in first:
        return KeypointSet.load("wholebody133")
    named, count = _named(content), len(first.get("keypoints", ())) // 3
    known = [KeypointSet.load(name) for name in shipped("keypoints")]
    for candidate in known:
        if set(candidate.names) in map(set, named) or (not named and len(candidate.names) == count):
            return candidate
    if not named and not count:
        raise UsageError(f"{path} has no list 'keypoints' in any of its annotations; give a file of keypoints")
    raise UsageError(
        f"{path} has {count} keypoints by names that no shipped set has ({', '.join(shipped('keypoints'))}); "
        "describe them in a YAML file and give it with --set"
    )


def _order(path: Path, content: dict[str, Any], keypoints: KeypointSet) -> dict[str, tuple[int, ...]]:
    """Where in the file's lists each keypoint of the set stands, by the names of the file's categories: category id →
    places, and "" for annotations of none of these.
    """
    as_many = [names for names in _named(content) if len(names) == len(keypoints.names)]
    if not as_many:  # COCO-WholeBody names only the first 17
        return {"": tuple(range(len(keypoints.names)))}
    found = {
        identity: tuple(names.index(name) for name in keypoints.names)
        for identity, (_, names) in _categories(content).items()
        if len(names) == len(keypoints.names) and set(names) == set(keypoints.names)
    }
    if not found:
        strange = sorted(set(as_many[0]) - set(keypoints.names))
        raise UsageError(
            f"{path} calls keypoints {', '.join(strange[:3])}, which {keypoints.name} does not have; give --set"
        )
    return {"": next(iter(found.values())), **found}


def _person(annotation: dict[str, Any], number: int, order: tuple[int, ...], others: dict[str, str]) -> GivenPerson:
    member = str(annotation.get("id", number))
    if other := others.get(_identity(annotation.get("category_id"))):
        error = LabelError(OTHER, f"it is of the category {other}, whose keypoints are others")
        return GivenPerson(member, (), refused=error)
    try:
        keypoints, box = _keypoints(annotation, order), _box(annotation)
        area = sum(_numbers(annotation, "area")) or float("nan")  # 0 says no more than leaving it out
        is_crowd = any(_numbers(annotation, "iscrowd"))
    except LabelError as error:
        return GivenPerson(member, (), refused=error)
    return GivenPerson(member, keypoints, box, area, is_crowd)


def _keypoints(annotation: dict[str, Any], order: tuple[int, ...]) -> tuple[float, ...]:
    flat: list[float] = []
    for field in WHOLE_BODY:
        values = _numbers(annotation, field)
        if not annotation.get(field.replace("_kpts", "_valid"), True):
            values = [0.0] * len(values)
        flat += values
    if len(flat) == 3 * len(order):
        flat = [value for place in order for value in flat[3 * place : 3 * place + 3]]
    return tuple(flat)


def _box(annotation: dict[str, Any]) -> tuple[float, float, float, float] | None:
    values = _numbers(annotation, "bbox")
    if not values:
        return None
    if len(values) != 4:
        raise LabelError(BROKEN_LABEL, f"its bbox has {len(values)} numbers where x, y, width and height are needed")
    x, y, width, height = values
    return x, y, x + width, y + height


def _numbers(annotation: dict[str, Any], field: str) -> list[float]:
    """What a field holds, a list or a single number; nothing where it is left out."""
    given = annotation.get(field)
    values = given if isinstance(given, list) else [] if given is None else [given]
    numbers = []
    for value in values:
        try:
            numbers.append(float(value))
        except (TypeError, ValueError, OverflowError):
            raise LabelError(BROKEN_LABEL, f"{shortened(value)} in its {field} is not a number") from None
    return numbers


def _file_name(entry: dict[str, Any]) -> str:
    """Of an image, with slashes where Windows wrote it."""
    return str(entry.get("file_name") or "").replace("\\", "/")


def _photo(
    path: Path,
    images: Path,
    entry: dict[str, Any],
    people: list[GivenPerson],
    called: dict[str, set[str]],
    files: list[str],
) -> Given:
    """files: all that have this id."""
    name = str(entry.get("file_name") or "")
    size = refused = None
    if len(files) > 1:
        refused = LabelError(NOWHERE, f"its id {entry.get('id')} is that of several images: {', '.join(files[:3])}")
    try:
        size = (int(entry["height"]), int(entry["width"])) if entry.get("height") and entry.get("width") else None
    except (TypeError, ValueError, OverflowError):
        sides = f"{entry['height']!r} and {entry['width']!r}"
        refused = LabelError(BROKEN_LABEL, f"its height and width are {sides} in the file, not whole numbers")
    read = partial(_read_image, images, name, called)
    return Given(str(path), name, read, tuple(people), size=size, refused=refused)


def _read_image(images: Path, name: str, called: dict[str, set[str]]) -> bytes:
    """By its base name alone where no other image has that in another folder: known once every json is read."""
    there = _file_name({"file_name": name})
    base = Path(there).name
    anywhere = (images / base,) if len(called[base]) == 1 else ()
    for candidate in (images / name, images / there, *anywhere):
        if name and candidate.is_file():
            return candidate.read_bytes()
    if others := sorted(called[base] - {there}):
        raise LabelError(NOWHERE, f"there is no '{name}' in {images}, and its {base} may be that of '{others[0]}'")
    raise LabelError(NOWHERE, f"there is no '{name}' in {images}")


def _astray(path: Path, people: dict[str, list[GivenPerson]]) -> Iterator[Given]:
    for identity, found in people.items():
        error = LabelError(NOWHERE, f"image_id {identity} is not among the file's images")
        yield Given(str(path), f"image_id {identity}", bytes, tuple(found), refused=error)
