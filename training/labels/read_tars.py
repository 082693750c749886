"""Labels in WebDataset tars: {key}.jpg with its {key}.json, {key}.png or {key}.npy."""

import json
import os
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shards.index import IMAGE_SUFFIXES, key_and_suffix
from training.config import Task, UsageError
from training.labels.dense_files import Convention, read_dense
from training.labels.given import BROKEN_LABEL, NOWHERE, UNLABELLED, Given, GivenPerson, LabelError
from training.labels.sets import KeypointSet, shipped

Members = dict[str, tuple[int, int]]
"""What of a sample lies where in the tar: suffix → offset, bytes."""


def read_tar_pose(path: Path, keypoints: KeypointSet | None) -> tuple[KeypointSet, list[Given]]:
    """The photos of a tar whose json has `keypoints`, one list of x, y, v for a person or one such list for each, and
    perhaps `keypoint_names` and `persons` (boxes). Raises UsageError.
    """
    found = []
    for key, members in _samples(path).items():
        record = _record(path, members)
        if record.get("keypoints"):
            keypoints = keypoints or _recognise(path, record)
        found.append((key, members, record))
    if keypoints is None:
        raise UsageError(f"{path} has no sample whose json holds 'keypoints'; is it for another task?")
    return keypoints, [_pose(path, key, members, record, keypoints) for key, members, record in found]


def read_tar_dense(path: Path, task: Task, how: Convention) -> list[Given]:
    """The photos of a tar beside which a member holds the dense label. Raises UsageError for what is no tar."""
    given = []
    for key, members in _samples(path).items():
        image = _image(members)
        masks = ("mask.png",) if task == "parts" else ()
        wanted = (f"{task}.png", f"{task}.npy", *masks, "png", "npy")
        label = next((suffix for suffix in wanted if suffix in members and suffix != image), None)
        refused = None
        if image is None:
            refused = LabelError(NOWHERE, f"there is no image {key}.{{{','.join(IMAGE_SUFFIXES)}}} in the tar")
        elif label is None:
            refused = LabelError(UNLABELLED, f"there is none of {', '.join(f'{key}.{suffix}' for suffix in wanted)}")
        name = f"{key}.{label or image}"
        read = partial(_dense, path, members[label], task, name, how) if label else None
        given.append(
            Given(str(path), name, partial(_read, path, members.get(image or "")), dense=read, refused=refused)
        )
    return given


def _samples(path: Path) -> dict[str, Members]:
    samples: dict[str, Members] = {}
    end = 0
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // 512) * 512
                key, suffix = key_and_suffix(member.name)
                if member.isfile() and key:
                    samples.setdefault(key, {})[suffix] = (member.offset_data, member.size)
            file.seek(end)
            if file.read(512) != bytes(512):
                raise tarfile.ReadError("it ends without the closing block")
    except (OSError, tarfile.TarError) as error:
        raise UsageError(f"{path} is not a whole, plain tar ({error}); copy it again") from error
    return samples


def _image(members: Members) -> str | None:
    return next((suffix for suffix in IMAGE_SUFFIXES if suffix in members), None)


def _read(path: Path, place: tuple[int, int] | None) -> bytes:
    if place is None:
        raise LabelError(NOWHERE, f"there is no image for it in {path}")
    with open(path, "rb") as file:
        return os.pread(file.fileno(), place[1], place[0])


def _dense(path: Path, place: tuple[int, int], task: Task, name: str, how: Convention) -> np.ndarray:
    return read_dense(task, name, _read(path, place), how)


def _record(path: Path, members: Members) -> dict[str, Any]:
    if "json" not in members:
        return {}
    try:
        record = json.loads(_read(path, members["json"]))
    except ValueError as error:
        return {"unreadable": str(error)}
    return record if isinstance(record, dict) else {"unreadable": "it is not an object"}


def _recognise(path: Path, record: dict[str, Any]) -> KeypointSet:
    names = set(map(str, record.get("keypoint_names") or ()))
    for name in shipped("keypoints"):
        if set((candidate := KeypointSet.load(name)).names) == names:
            return candidate
    raise UsageError(
        f"{path} has keypoints named {', '.join(sorted(names)) or 'nothing'}, which no shipped set has "
        f"({', '.join(shipped('keypoints'))}); describe them in a YAML file and give it with --set"
    )


def _pose(path: Path, key: str, members: Members, record: dict[str, Any], keypoints: KeypointSet) -> Given:
    image = _image(members)
    give = partial(Given, str(path), f"{key}.json", partial(_read, path, members.get(image or "")))
    if image is None:
        return give(refused=LabelError(NOWHERE, f"there is no image {key}.{{{','.join(IMAGE_SUFFIXES)}}} in the tar"))
    if "unreadable" in record:
        return give(refused=LabelError(BROKEN_LABEL, f"{key}.json is not JSON: {record['unreadable']}"))
    if not record.get("keypoints"):
        return give(refused=LabelError(UNLABELLED, f"{key}.json has no keypoints"))
    try:
        people = _people(record, keypoints)
        size = (int(record["height"]), int(record["width"])) if record.get("height") and record.get("width") else None
    except (KeyError, ValueError, TypeError) as error:
        return give(refused=LabelError(BROKEN_LABEL, f"the keypoints in {key}.json cannot be read: {error}"))
    return give(people=people, size=size)


def _people(record: dict[str, Any], keypoints: KeypointSet) -> tuple[GivenPerson, ...]:
    found = np.array(record["keypoints"], dtype=np.float64)
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or found.shape[2] != 3:
        raise ValueError(f"they are {found.shape} numbers, not x, y, v for each")
    names = [str(name) for name in record.get("keypoint_names") or keypoints.names]
    if sorted(names) != sorted(keypoints.names) or len(names) != found.shape[1]:
        raise ValueError(f"they are not the {len(keypoints.names)} of {keypoints.name}")
    order = [names.index(name) for name in keypoints.names]
    boxes = [(float(p["x0"]), float(p["y0"]), float(p["x1"]), float(p["y1"])) for p in record.get("persons") or ()]
    return tuple(
        GivenPerson(str(number), tuple(points[order].ravel()), _box_of(points, boxes))
        for number, points in enumerate(found)
    )


def _box_of(
    points: np.ndarray, boxes: list[tuple[float, float, float, float]]
) -> tuple[float, float, float, float] | None:
    """The smallest of the boxes that hold the most labelled keypoints; None where that is less than half of them: then
    it is somebody else's.
    """
    x, y = points[points[:, 2] > 0, :2].T

    def fit(box: tuple[float, float, float, float]) -> tuple[int, float]:
        x0, y0, x1, y1 = box
        inside = int(((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)).sum())
        return inside, -(x1 - x0) * (y1 - y0)

    best = max(boxes, key=fit, default=None)
    return best if best and 2 * fit(best)[0] >= len(x) else None
