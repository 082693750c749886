"""What OUT holds: manifest.parquet, a row per input of all runs into it, and the files that the rows name.

A run replaces the rows of its own inputs and leaves those of others alone. A replaced row's files that the new one does
not have are deleted once the manifest tells of the new row; until they are gone, it still names them.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa

from manifests import lock
from manifests.schema import BOXES
from manifests.store import Store
from training.config import UsageError
from training.predict.inputs import Names, place_of

MANIFEST, RECORD = "manifest.parquet", "run.json"
ENDINGS = frozenset(
    "panel.jpg overlay.jpg keypoints.json people.png parts.png depth.npy depth.png normals.npy normals.png "
    "panel.mp4 jsonl".split()
)
"""NAME.ending: all that a run may write about a photo or a video."""


@dataclass(frozen=True)
class Row:
    """One input in manifest.parquet. status: success, partial (a video that ended early) or failed. num_persons: of a
    video the most in one frame. dropped_boxes: given or found, with nothing of the image inside. depth_near, depth_far:
    what 1 and 65535 in depth.png stand for.
    """

    name: str
    uri: str
    member: str
    kind: str
    status: str = "failed"
    error_message: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    num_persons: int = 0
    person_boxes: tuple[dict[str, float], ...] = ()
    dropped_boxes: int = 0
    depth_near: float = float("nan")
    depth_far: float = float("nan")
    files: tuple[str, ...] = ()


SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("name", "uri", "member", "kind", "status", "error_message")),
        *(pa.field(name, pa.int32()) for name in ("width", "height")),
        pa.field("frames", pa.int64()),
        pa.field("num_persons", pa.int32()),
        pa.field("person_boxes", BOXES),
        pa.field("dropped_boxes", pa.int32()),
        *(pa.field(name, pa.float32()) for name in ("depth_near", "depth_far")),
        pa.field("files", pa.list_(pa.string())),
    ]
)
"""Of manifest.parquet, which can be given as --boxes to another run."""


def check_output(out: Path) -> None:
    """UsageError where `out` is no place for results."""
    if out.is_file():
        raise UsageError(f"the output {out} is a file; the last argument is the folder for the results")
    if not out.is_dir() or all(path.name.startswith(".") for path in out.iterdir()):
        return
    record = Store(out).read_json(RECORD)
    if not isinstance(record, dict) or "conventions" not in record:  # a curated folder has a run.json of its own
        raise UsageError(
            f"the output {out} is not empty and holds no earlier results; the last argument is the folder for the "
            "results: give a new or empty one"
        )


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep other processes from writing results into `out`, which is made. UsageError where one does."""
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.held(out / ".lock"))
        except lock.InUse as holder:
            raise UsageError(f"{holder} writes results into {out}; wait for it, or give another folder") from None
        yield


def read_rows(out: Path) -> list[Row]:
    """What the manifest of `out` holds; nothing where there is none."""
    if not (out / MANIFEST).is_file():
        return []
    rows = Store(out).read_table(MANIFEST).to_pylist()
    return [Row(**row | {"person_boxes": tuple(row["person_boxes"]), "files": tuple(row["files"])}) for row in rows]


def names_of(rows: Sequence[Row]) -> Names:
    """The names that the inputs of these rows keep."""
    names: Names = {}
    for row in rows:
        names.setdefault(place_of(row.uri, row.member), []).append(row.name)
    return names


def write_rows(out: Path, earlier: Sequence[Row], new: Sequence[Row]) -> None:
    """Put `new` rows into the manifest, in the place of earlier ones of the same name, and delete what only those name,
    and what a killed run, which writes no rows, left of the same inputs; though nothing outside `out`.
    """
    rows = {row.name: row for row in earlier} | {row.name: row for row in new}
    made = {file for row in rows.values() for file in row.files}
    stale = {row.name: tuple(file for file in row.files if file not in made) for row in earlier}
    if any(stale.values()):
        _write(out, [replace(row, files=row.files + stale.get(row.name, ())) for row in rows.values()])
    unnamed = {f"{row.name}.{ending}" for row in new for ending in ENDINGS} - made
    for file in unnamed.union(*stale.values()):
        if (out / file).resolve().is_relative_to(out.resolve()):
            (out / file).unlink(missing_ok=True)
    _write(out, list(rows.values()))


def write_files(out: Path, files: dict[str, bytes]) -> None:
    """Files by name, each of which appears whole, and all of them only once all are written; none where one fails."""
    besides = {name: (out / name).with_name(f".tmp-{os.path.basename(name)}") for name in files}
    try:
        for name, content in files.items():
            besides[name].parent.mkdir(parents=True, exist_ok=True)
            besides[name].write_bytes(content)
    except OSError:
        for beside in besides.values():  # room for the manifest, where the disk is full
            beside.unlink(missing_ok=True)
        raise
    for name, beside in besides.items():
        os.replace(beside, out / name)


def _write(out: Path, rows: Sequence[Row]) -> None:
    Store(out).write_table(MANIFEST, pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA))
