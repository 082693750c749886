"""Shards whose samples carry labels, as `sapiens-train pack` writes them.

A row of the index is one training sample: a person of a photo for keypoints (several rows then point at the same
image), a whole photo for dense labels. `labels.json` beside the shards says what the labels are.
"""

import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fsspec
import pyarrow as pa

from shards.cache import ShardCache, ShardError, local_path
from shards.index import ShardSet, open_shards

LABELS_FILE = "labels.json"
FORMAT = 1

INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("uid", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label_offset", pa.int64()),
        ("label_size", pa.int64()),
        *((name, pa.float32()) for name in ("x0", "y0", "x1", "y1")),
        ("keypoints", pa.list_(pa.float32())),
        ("area", pa.float32()),
        ("near", pa.float32()),
        ("far", pa.float32()),
        ("image_id", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""Columns of a labelled shard's parquet. offset, size: the image's bytes in the tar; label_offset, label_size: the
label's, -1 where there is none. x0 … y1: the person, or the region that is labelled, in pixels of the upright image,
x1 and y1 exclusive. keypoints: x, y, v for each, pixel centres at whole numbers. area: in pixels, NaN where unknown.
near, far: what the smallest and largest value of a depth PNG stand for. image_id: 48 bits of the image's sha256, the
same for all the people of a photo. `labels.json` has format, task, counts and, for pose, `keypoints` (a
KeypointSet), for parts `classes` (a ClassList), for depth its unit, for normals their axes.
"""


@dataclass(frozen=True)
class LabelledSample:
    """One training sample. key: of its image; uid: its own. image: the encoded photo. label: the encoded dense label,
    b"" for keypoints. box: x0, y0, x1, y1 in pixels. row: the index row, with the columns of INDEX.
    """

    key: str
    uid: str
    image: bytes
    label: bytes
    box: tuple[float, float, float, float]
    row: dict[str, Any]


class LabelledShards:
    """Shards, and the `labels.json` that tells what is labelled."""

    def __init__(self, shards: ShardSet, labels: dict[str, Any]) -> None:
        self.shards, self.labels = shards, labels
        self.hold(64)

    def hold(self, shards: int) -> None:
        """Keep the rows of as many shards as one window has."""
        self._rows = lru_cache(maxsize=shards)(self._read_rows)

    @property
    def task(self) -> str:
        return str(self.labels["task"])

    def read(self, number: int, row: int) -> LabelledSample:
        """Sample `row` of shard `number`; raises ShardError."""
        found: dict[str, Any] = self._rows(number).slice(row, 1).to_pylist()[0]
        label = b""
        if found["label_size"] >= 0:
            label = self.shards.read_range(number, found["label_offset"], found["label_size"])
        box = (found["x0"], found["y0"], found["x1"], found["y1"])
        return LabelledSample(found["key"], found["uid"], self.shards.read(number, row), label, box, found)

    def _read_rows(self, number: int) -> pa.Table:
        shard = self.shards.shards[number]
        try:
            table = self.shards.read_index(number)
        except (OSError, pa.ArrowException) as error:
            raise ShardError(f"the index {shard.index_url} cannot be read ({error}); pack the labels again") from error
        if missing := [name for name in INDEX.names if name not in table.column_names]:
            raise ShardError(
                f"{shard.index_url} lacks {', '.join(missing)}: its shard holds photos without labels; "
                "make labelled shards with `sapiens-train pack`"
            )
        return table.select(INDEX.names)


def open_labelled(sources: str | Sequence[str], cache: ShardCache | None = None) -> LabelledShards:
    """The labelled shards of one or several sources, as `open_shards` takes them; all must have the same task and
    the same names. Raises ShardError.
    """
    sources = [sources] if isinstance(sources, str) else list(sources)
    labels = [_read_labels(source) for source in sources]
    for source, other in zip(sources[1:], labels[1:], strict=True):
        if other["task"] != labels[0]["task"]:
            raise ShardError(
                f"{sources[0]} has labels for {labels[0]['task']} and {source} for {other['task']}; "
                "give shards of one task"
            )
        if _meaning(other) != _meaning(labels[0]):
            raise ShardError(
                f"{sources[0]} and {source} are both for {other['task']}, and what they label differs: "
                f"{_describe(labels[0])} and {_describe(other)}; pack them again with one set of names"
            )
    return LabelledShards(open_shards(sources, cache), labels[0])


def _meaning(labels: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in labels.items() if key != "counts"}


def _describe(labels: dict[str, Any]) -> str:
    for kind in ("keypoints", "classes"):
        if kind in labels:
            return f"{labels[kind]['name']} with {len(labels[kind][kind])} {kind}"
    return json.dumps(_meaning(labels))


def _read_labels(source: str) -> dict[str, Any]:
    """The labels.json of a folder, of the folder that holds named tars, or of the one above it."""
    bare = source.rstrip("/")
    folder = posixpath.dirname(bare) or "." if bare.endswith(".tar") else bare
    places = [f"{folder}/{LABELS_FILE}", f"{posixpath.dirname(folder) or '.'}/{LABELS_FILE}"]
    if "{" in folder or "*" in folder:
        raise ShardError(f"{source}: name one folder of labelled shards at a time; braces may be in the tars' names")
    for place in places:
        try:
            with fsspec.open(str(local_path(place) or place), "rb") as file:
                labels = json.load(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, ImportError) as error:  # ImportError: of a file system that is not installed
            raise ShardError(f"{place} cannot be read ({error}); pack the labels again") from error
        if not isinstance(labels, dict) or labels.get("format") != FORMAT or "task" not in labels:
            raise ShardError(f"{place} is not of format {FORMAT} of this program; pack the labels again")
        return labels
    raise ShardError(
        f"{source} has no {LABELS_FILE}, so it holds no labels; make labelled shards with `sapiens-train pack`"
    )
