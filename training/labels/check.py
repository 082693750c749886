"""From a label as it was found to what is stored, or to the sentence that says why not. Pure, one photo at a time."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import simplejpeg

from shards.crop import BrokenImage, Encoded
from training.config import Task
from training.labels.decode import depth_to_png, normals_to_png, parts_to_png
from training.labels.given import (
    BROKEN_IMAGE,
    BROKEN_LABEL,
    CROWD,
    EMPTY,
    OUTSIDE,
    SIZE,
    UNKNOWN_CLASS,
    UNLABELLED,
    Given,
    GivenPerson,
    LabelError,
)
from training.labels.sets import IGNORE, ClassList, KeypointSet

_JPEG_QUALITY = 95

Row = dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """A photo ready for its shard. jpeg: b"" where nothing of it is used. label: its dense label as PNG. rows: its
    samples, columns of shards.labelled.INDEX less what the place in the tar decides. accounts: manifest rows, one per
    label that was given; their `sample` is the row's number, -1 where it was refused. tally: what was labelled: per
    keypoint (labelled, visible), or pixels per class.
    """

    jpeg: bytes
    label: bytes
    rows: tuple[Row, ...]
    accounts: tuple[Row, ...]
    tally: np.ndarray | None = None


@dataclass(frozen=True)
class _Photo:
    jpeg: bytes
    height: int
    width: int
    digest: str = field(repr=False)


def check(given: Given, task: Task, names: KeypointSet | ClassList | None) -> Checked:
    """Read and check one photo and its labels; a bad one becomes a refusal, not an error."""
    try:
        if given.refused:
            raise given.refused
        photo = _read_photo(given)
        if isinstance(names, KeypointSet):
            return _check_people(given, photo, names)
        return _check_dense(given, photo, task, names)
    except LabelError as error:
        people = given.people or (GivenPerson("", ()),)
        return Checked(b"", b"", (), tuple(_refusal(given, person.member, error) for person in people))


def _read_photo(given: Given) -> _Photo:
    try:
        data = given.image()
        encoded = Encoded(data)
        pixels = encoded.decode(*((0.1, 0.1) if encoded.is_upright_jpeg else (1.0, 1.0)))
    except (BrokenImage, OSError) as error:
        raise LabelError(BROKEN_IMAGE, f"the image cannot be read: {error}") from error
    if given.size and given.size != (encoded.height, encoded.width):
        rows, columns = given.size
        raise LabelError(
            SIZE,
            f"the label is for an image of {columns} x {rows} px and this one has {encoded.width} x {encoded.height}",
        )
    if not encoded.is_upright_jpeg:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), _JPEG_QUALITY, colorsubsampling="444")
    return _Photo(data, encoded.height, encoded.width, sha256(data).hexdigest())


def _refusal(given: Given, member: str, error: LabelError, photo: _Photo | None = None) -> Row:
    told = {"status": "refused", "reason": error.reason, "error_message": _text(str(error))}
    return _account(given, member, photo) | told


def _account(given: Given, member: str, photo: _Photo | None) -> Row:
    return {
        "uri": _text(given.uri),
        "member": _text(f"{given.member}#{member}" if given.member and member else given.member or member),
        "status": "packed",
        "reason": "",
        "error_message": "",
        "width": photo.width if photo else 0,
        "height": photo.height if photo else 0,
        "labelled": 0,
        "dropped": 0,
        "clipped": False,
        "sample": -1,
    }


def _text(name: str) -> str:
    """A name as tables hold it: bytes that are not UTF-8, and halves of characters, escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _uid(photo: _Photo, label: bytes, number: int) -> str:
    return sha256(f"{photo.digest} {number} ".encode() + label).hexdigest()[:32]


# -- keypoints ---------------------------------------------------------------------------------------------------------


def _check_people(given: Given, photo: _Photo, names: KeypointSet) -> Checked:
    rows: list[Row] = []
    accounts: list[Row] = []
    tally = np.zeros((len(names.names), 2), np.int64)
    for person in given.people:
        try:
            keypoints, dropped = _keypoints(person, photo, names)
            box, clipped = _person_box(person, keypoints, photo)
        except LabelError as error:
            accounts.append(_refusal(given, person.member, error, photo))
            continue
        labelled = int((keypoints[:, 2] > 0).sum())
        accounts.append(
            _account(given, person.member, photo)
            | {"labelled": labelled, "dropped": dropped, "clipped": clipped, "sample": len(rows)}
        )
        tally += np.stack([keypoints[:, 2] > 0, keypoints[:, 2] > 1], axis=1)
        flat = keypoints.astype(np.float32).ravel()
        uid = _uid(photo, flat.tobytes(), len(rows))
        rows.append(_row(photo, uid, box) | {"keypoints": flat.tolist(), "area": person.area})
    return Checked(photo.jpeg if rows else b"", b"", tuple(rows), tuple(accounts), tally)


def _keypoints(person: GivenPerson, photo: _Photo, names: KeypointSet) -> tuple[np.ndarray, int]:
    """(K, 3) x, y, v and how many were dropped: a keypoint outside the image or not a number counts as unlabelled."""
    if person.refused:
        raise person.refused
    if person.crowd:
        raise LabelError(CROWD, "it stands for a crowd (iscrowd)")
    if not person.keypoints:
        raise LabelError(UNLABELLED, "it has no keypoints")
    if len(person.keypoints) != 3 * len(names.names):
        raise LabelError(
            BROKEN_LABEL,
            f"it has {len(person.keypoints)} numbers where the {len(names.names)} keypoints of {names.name} "
            f"need {3 * len(names.names)}",
        )
    found = np.array(person.keypoints, np.float64).reshape(-1, 3)
    found[~np.isfinite(found[:, 2]), 2] = 0
    x, y = found[:, 0], found[:, 1]
    # a pixel reaches half a pixel around its centre, and many tools round up to the width itself
    inside = (x >= -0.5) & (x <= photo.width) & (y >= -0.5) & (y <= photo.height)
    given = found[:, 2] > 0
    found[~(given & inside)] = 0
    if not given.any():
        raise LabelError(UNLABELLED, "none of its keypoints is labelled")
    if not (given & inside).any():
        raise LabelError(OUTSIDE, "all its keypoints lie outside the image")
    return found, int((given & ~inside).sum())


def _person_box(
    person: GivenPerson, keypoints: np.ndarray, photo: _Photo
) -> tuple[tuple[float, float, float, float], bool]:
    """The part of the box that lies in the image, and whether that is less than all of it. Without a box it is that
    of the keypoints and a tenth of their extent on each side.
    """
    box = person.box
    if box is None:
        seen = keypoints[keypoints[:, 2] > 0, :2]
        low, high = seen.min(axis=0), seen.max(axis=0)
        if not (high - low).any():
            raise LabelError(EMPTY, "it has no box, and keypoints at one place alone do not tell its size")
        margin = np.maximum(0.1 * (high - low), 2)
        x0, y0, x1, y1 = (float(v) for v in (*(low - margin), *(high + margin)))
    else:
        x0, y0, x1, y1 = box
    if not np.isfinite((x0, y0, x1, y1)).all() or x1 <= x0 or y1 <= y0:
        raise LabelError(EMPTY, f"its box {_numbers(x0, y0, x1, y1)} is empty")
    inside = max(x0, 0.0), max(y0, 0.0), min(x1, float(photo.width)), min(y1, float(photo.height))
    if inside[2] - inside[0] < 1 or inside[3] - inside[1] < 1:
        raise LabelError(
            OUTSIDE, f"its box {_numbers(x0, y0, x1, y1)} lies outside the image of {photo.width} x {photo.height} px"
        )
    return inside, box is not None and inside != (x0, y0, x1, y1)


def _numbers(*values: float) -> str:
    return ", ".join(f"{value:g}" for value in values)


# -- dense labels ------------------------------------------------------------------------------------------------------


def _check_dense(given: Given, photo: _Photo, task: Task, classes: ClassList | None) -> Checked:
    if given.dense is None:
        raise LabelError(UNLABELLED, "it has no label")
    pixels = given.dense()
    if pixels.shape[:2] != (photo.height, photo.width):
        rows, columns = pixels.shape[:2]
        raise LabelError(SIZE, f"the label has {columns} x {rows} px and the image {photo.width} x {photo.height}")
    near = far = float("nan")
    tally = None
    if classes is not None:
        pixels = _class_ids(pixels, classes)
        if (pixels == IGNORE).all():
            raise LabelError(EMPTY, "no pixel has a class")
        region, label = (pixels > 0) & (pixels != IGNORE), parts_to_png(pixels)
        tally = np.bincount(pixels.ravel(), minlength=IGNORE + 1)[: len(classes.names)]
    else:
        region = np.isfinite(pixels) if pixels.ndim == 2 else np.isfinite(pixels).all(axis=2)
        if not region.any():
            raise LabelError(EMPTY, f"no pixel has {'a depth' if task == 'depth' else 'a normal'}")
        if task == "depth":
            label, near, far = depth_to_png(pixels)
        else:
            label = normals_to_png(pixels)
    row = _row(photo, _uid(photo, label, 0), _region_box(region)) | {"near": near, "far": far}
    labelled = int(region.sum())
    account = _account(given, "", photo) | {"labelled": labelled, "dropped": region.size - labelled, "sample": 0}
    return Checked(photo.jpeg, label, (row,), (account,), tally)


def _class_ids(values: np.ndarray, classes: ClassList) -> np.ndarray:
    """The files' numbers as 0 … C-1; 255 stays "ignore" unless it is a class's number."""
    table = np.full(256, -1, np.int16)
    table[IGNORE] = IGNORE
    table[list(classes.values)] = np.arange(len(classes.names))
    ids = table[values]
    if (ids < 0).any():
        strange = ", ".join(str(value) for value in np.unique(values[ids < 0])[:8])
        known = f"0 to {max(classes.values)}" if classes.values == tuple(range(len(classes.values))) else classes.values
        raise LabelError(UNKNOWN_CLASS, f"it has the class {strange}; {classes.name} has {known}, and 255 to ignore")
    return ids.astype(np.uint8)


def _region_box(region: np.ndarray) -> tuple[float, float, float, float]:
    """The box around a region, the whole image where it is empty."""
    if not region.any():
        return 0.0, 0.0, float(region.shape[1]), float(region.shape[0])
    rows, columns = np.nonzero(region.any(axis=1))[0], np.nonzero(region.any(axis=0))[0]
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _row(photo: _Photo, uid: str, box: tuple[float, float, float, float]) -> Row:
    return {
        "uid": uid,
        **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
        "keypoints": [],
        "area": float("nan"),
        "near": float("nan"),
        "far": float("nan"),
        "image_id": int(photo.digest[:12], 16),
        "width": photo.width,
        "height": photo.height,
    }
