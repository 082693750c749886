"""Labels of any known format → labelled shards, with an account of every label that was given."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.account import numbered
from manifests.store import Store
from shards.labelled import FORMAT, INDEX, LABELS_FILE
from shards.writer import Sample, put_tar, sample_key
from training.config import Task, UsageError
from training.labels.check import Checked, Row, check
from training.labels.dense_files import Convention
from training.labels.given import Given
from training.labels.read_coco import default_images, read_coco
from training.labels.read_folders import read_folder
from training.labels.read_tars import read_tar_dense, read_tar_pose
from training.labels.sets import ClassList, KeypointSet

PHOTOS_PER_SHARD, BYTES_PER_SHARD = 1000, 500_000_000
"""A shard ends at whichever comes first; it is made in memory."""

MANIFEST = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "uri", "member", "status", "reason", "error_message", "uid")),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("labelled", pa.int64()),
        ("dropped", pa.int64()),
        ("clipped", pa.bool_()),
    ]
)
"""One row per label that was given. status: packed or refused; reason, error_message: why refused. labelled: keypoints,
or pixels of people; dropped: keypoints that lay outside the image, or the other pixels. clipped: the person's box went
beyond the image.
"""

_WRITTEN = ("shards", "manifest")
"""Folders of the output."""

AXES = "x right, y up, z towards the camera"


@dataclass(frozen=True)
class Packing:
    """What is to be packed, and how its files are to be read.

    names: a shipped keypoint set or class list, or a file that describes one; "" asks the files. images: folder of the
    photos of a COCO json; None: `images` beside it.
    """

    task: Task
    labels: tuple[Path, ...]
    out: Path
    names: str = ""
    images: Path | None = None
    how: Convention = field(default_factory=Convention)


@dataclass
class Counts:
    """What came of the labels. refused: reason → labels; examples: reason → a sentence. tally: per keypoint (labelled,
    visible), or pixels per class.
    """

    given: int = 0
    packed: int = 0
    photos: int = 0
    clipped: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    tally: np.ndarray | None = None
    photos_with: np.ndarray | None = None

    def add(self, checked: Checked) -> None:
        self.given += len(checked.accounts)
        self.packed += len(checked.rows)
        self.photos += bool(checked.rows)
        for account in checked.accounts:
            self.clipped += account["clipped"]
            if account["status"] == "refused":
                self.refused[account["reason"]] += 1
                where = f"{account['uri']} {account['member']}".strip()
                self.examples.setdefault(account["reason"], f"{where}: {account['error_message']}")
        if checked.tally is not None:
            there = (checked.tally if checked.tally.ndim == 1 else checked.tally[:, 0]) > 0
            self.tally = checked.tally + (0 if self.tally is None else self.tally)
            self.photos_with = there + (0 if self.photos_with is None else self.photos_with)

    def to_dict(self, names: KeypointSet | ClassList | None) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "given": self.given,
            "packed": self.packed,
            "refused": sum(self.refused.values()),
            "refusals": dict(sorted(self.refused.items())),
            "photos": self.photos,
            "clipped": self.clipped,
        }
        if names and self.tally is not None and self.photos_with is not None:
            tally, kind = self.tally.tolist(), "keypoints" if isinstance(names, KeypointSet) else "pixels"
            counts[kind] = dict(zip(names.names, tally, strict=True))
            counts["photos_with"] = dict(zip(names.names, self.photos_with.tolist(), strict=True))
        return counts


def pack(packing: Packing) -> Iterator[tuple[int, int]]:
    """Write shards, manifest and, last, labels.json to `packing.out`; yields (photos done, photos given). The same
    labels give the same bytes. Raises UsageError.
    """
    store = Store(packing.out)
    if store.exists(LABELS_FILE):
        raise UsageError(f"{packing.out} already holds packed labels; give another folder or delete it")
    _check_output(packing.out)
    names, given = _read_all(packing)
    for folder in _WRITTEN:
        store.remove_folder(folder)  # of a run that did not end
    counts, photos = Counts(), _checked(given, partial(check, task=packing.task, names=names))
    done = shard = 0
    while batch := _shardful(photos):
        for checked in batch:
            counts.add(checked)
        _write_shard(store, shard, packing.task, batch)
        done, shard = done + len(batch), shard + 1
        yield done, len(given)
    if not counts.packed:
        sentences = "; ".join(counts.examples.values())
        raise UsageError(f"none of the {counts.given} labels can be used: {sentences or 'there are none'}")
    store.write_json(LABELS_FILE, _meaning(packing.task, names) | {"counts": counts.to_dict(names)})


def _check_output(out: Path) -> None:
    """Shards that lie in the output may only be replaced where a run that did not end left them."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"the output {out} is a file; the last argument is the folder for the labelled shards")
    there = [name for name in _WRITTEN if any(not p.name.startswith(".tmp-") for p in (out / name).glob("*"))]
    if there and not _is_own(out / "manifest/00000.parquet"):
        raise UsageError(
            f"{out} already holds {' and '.join(there)} that were not packed from labels; give a new or empty folder"
        )


def _is_own(manifest: Path) -> bool:
    try:
        return bool(pq.read_schema(manifest).names == MANIFEST.names)
    except (OSError, pa.ArrowException):
        return False


def _meaning(task: Task, names: KeypointSet | ClassList | None) -> dict[str, Any]:
    """What labels.json says of the labels themselves."""
    head: dict[str, Any] = {"format": FORMAT, "task": task}
    if isinstance(names, KeypointSet):
        return head | {"keypoints": names.to_dict()}
    if isinstance(names, ClassList):
        return head | {"classes": names.to_dict()}
    return head | ({"unit": "m"} if task == "depth" else {"axes": AXES})


# -- reading -----------------------------------------------------------------------------------------------------------


def _read_all(packing: Packing) -> tuple[KeypointSet | ClassList | None, list[Given]]:
    if packing.task == "pose":
        return _read_pose(packing)
    classes = ClassList.load(packing.names or "sapiens28") if packing.task == "parts" else None
    given: list[Given] = []
    for path in packing.labels:
        if path.is_dir():
            given += read_folder(path, packing.task, packing.how)
        elif path.suffix == ".tar":
            given += read_tar_dense(path, packing.task, packing.how)
        else:
            raise UsageError(_unknown(path, f"a folder with images/ and {packing.task} files, or a .tar"))
    return classes, given


def _read_pose(packing: Packing) -> tuple[KeypointSet, list[Given]]:
    keypoints = KeypointSet.load(packing.names) if packing.names else None
    given: list[Given] = []
    called: dict[Path, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in packing.labels:
        path = path / "keypoints.json" if path.is_dir() else path
        if path.suffix == ".tar":
            found, photos = read_tar_pose(path, keypoints)
        elif path.suffix == ".json" and path.is_file():
            images = packing.images or default_images(path)
            if images is None or not images.is_dir():
                raise UsageError(
                    f"{images or 'images/ beside ' + str(path)} is no folder; say with --images where photos are"
                )
            found, photos = read_coco(path, images, keypoints, called[images.resolve()])
        else:
            raise UsageError(_unknown(path, "a COCO .json, a folder that `practice` wrote, or a .tar"))
        keypoints, given = found, given + photos
    assert keypoints is not None
    return keypoints, given


def _unknown(path: Path, allowed: str) -> str:
    return f"{path} {'does not exist' if not path.exists() else 'is none of the known formats'}; give {allowed}"


def _checked(given: Sequence[Given], work: partial[Checked], ahead: int = 16) -> Iterator[Checked]:
    """Checked photos in the order given; a few threads read ahead."""
    cv2.setNumThreads(1)
    waiting: deque[Future[Checked]] = deque()
    with ThreadPoolExecutor(4) as pool:
        try:
            for one in given:
                waiting.append(pool.submit(work, one))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _shardful(photos: Iterator[Checked]) -> list[Checked]:
    batch: list[Checked] = []
    size = 0
    while len(batch) < PHOTOS_PER_SHARD and size < BYTES_PER_SHARD and (photo := next(photos, None)):
        batch.append(photo)
        size += len(photo.jpeg) + len(photo.label)
    return batch


# -- writing -----------------------------------------------------------------------------------------------------------


def _write_shard(store: Store, number: int, task: Task, batch: list[Checked]) -> None:
    """Tar, index and stats of one shard, and the manifest of the labels that came with it."""
    used = [checked for checked in batch if checked.rows]
    keys = {id(checked): sample_key(number, place) for place, checked in enumerate(used)}
    accounts = [row for checked in batch for row in _accounts(checked, keys.get(id(checked), ""))]
    store.write_table(f"manifest/{number:05d}.parquet", pa.Table.from_pylist(accounts, MANIFEST))
    if not used:
        return
    samples = [
        Sample(keys[id(one)], one.jpeg, _record(task, one), one.label, f"{task}.png" if one.label else "")
        for one in used
    ]
    name = f"shards/{number:05d}"
    placed = put_tar(store, f"{name}.tar", samples)
    rows = []
    for checked, place in zip(used, placed, strict=True):
        where = {
            "key": place.key,
            "offset": place.offset,
            "size": place.size,
            "label_offset": place.label_offset,
            "label_size": place.label_size,
        }
        rows += [where | row for row in checked.rows]
    store.write_table(f"{name}.parquet", pa.Table.from_pylist(rows, INDEX))
    files = {f"{number:05d}{suffix}": f"{name}{suffix}" for suffix in (".tar", ".parquet")}
    refused = sum(account["status"] == "refused" for account in accounts)
    stats = {
        "count": len(accounts),
        "successes": len(rows),
        "failed_to_download": refused,
        "failed_to_resize": 0,
        "status_dict": {"success": len(rows), **({"refused": refused} if refused else {})},
        "bytes": sum(place.size for place in placed),
        "sizes": {short: store.size(path) for short, path in files.items()},
        "sha256": {short: store.sha256(path) for short, path in files.items()},
    }
    store.write_json(f"{name}_stats.json", stats)


def _accounts(checked: Checked, key: str) -> Iterator[Row]:
    """Manifest rows of a photo's labels; those that are packed tell the photo's key and their sample's uid."""
    for account in checked.accounts:
        number = account["sample"]
        found = {"key": key, "uid": checked.rows[number]["uid"]} if number >= 0 else {"key": "", "uid": ""}
        yield {name: value for name, value in (account | found).items() if name != "sample"}


def _record(task: Task, checked: Checked) -> Row:
    """The sample's json: what a reader without the parquet needs."""
    first = checked.rows[0]
    record: Row = {name: first[name] for name in ("width", "height", "image_id")}
    if task == "pose":
        boxes = [[round(row[side], 2) for side in ("x0", "y0", "x1", "y1")] for row in checked.rows]
        record["people"] = [
            {"uid": row["uid"], "box": box, "keypoints": row["keypoints"]}
            for row, box in zip(checked.rows, boxes, strict=True)
        ]
    if task == "depth":
        record |= {"near": first["near"], "far": first["far"]}
    return record | {"uid": first["uid"]}


def summary(labels: dict[str, Any]) -> str:
    """The counts of a labels.json as text."""
    counts = labels["counts"]
    kind = next((kind for kind in ("keypoints", "classes") if kind in labels), "")
    named = f" ({labels[kind]['name']}, {len(labels[kind][kind])} {kind})" if kind else ""
    lines = [
        f"{counts['packed']} of {counts['given']} labels for {labels['task']}{named} packed, "
        f"in {numbered(counts['photos'], 'photo')}"
        + (f"; {numbered(counts['clipped'], 'box', 'boxes')} clipped to the image" if counts["clipped"] else "")
    ]
    lines += [f"  refused {number:6d}  {reason}" for reason, number in counts["refusals"].items()]
    if "keypoints" in counts:
        lines.append(f"  {'keypoint':34} labelled  visible")
        lines += [f"  {name:34} {some:8d} {seen:8d}" for name, (some, seen) in counts["keypoints"].items()]
    if "pixels" in counts:
        total = max(sum(counts["pixels"].values()), 1)
        lines.append(f"  {'class':34}   pixels   photos")
        lines += [
            f"  {name:34} {pixels / total:8.2%} {counts['photos_with'][name]:8d}"
            for name, pixels in counts["pixels"].items()
        ]
    return "\n".join(lines)
