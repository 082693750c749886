"""Pack kept images into shards: one task writes one shard, in plan order, and commits its stats last."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.decode import decode, encode_jpeg, open_image, rgb_profile
from curation.jpeg import strip_metadata, with_profile
from curation.layout import manifest_file, shard_stats, shard_stats_file, table_file, tar_file
from curation.plan import Plan, read_unit
from curation.questions import COLUMNS
from curation.recipe import Packing, Recipe
from curation.sources import read_bytes
from curation.sources.absent import need_source
from curation.sources.entry import describe
from manifests.store import Store, content_hash
from shards.writer import Sample, put_tar

Row = dict[str, Any]
RECORD = ("key", "uid", "sha256", "uri", "member", "caption", "width", "height", "original_width", "original_height")
NUMBERS = ("pwatermark", "text_area", "text_area_outside", "partistic", "punnatural", "punsafe", "blur", "exposure")


@dataclass(frozen=True)
class ShardJob:
    """One shard to write, the units of the manifest that hold its images, what those came from, and which killed a
    process."""

    out: str
    shard: int
    units: tuple[int, ...]
    plan: Plan
    source: str
    recipe: Recipe
    deadly: tuple[int, ...] = ()


@dataclass(frozen=True)
class Packed:
    """How many images a shard holds and how many could not be read again."""

    shard: int
    packed: int
    failed: int
    fresh: bool = True  # written now, not found committed


class WorkerDied(RuntimeError):
    """The process that worked on this image was killed."""


class SourceChanged(ValueError):
    """The file is not the one that was scored."""


def pack_shard(job: ShardJob, announce: Callable[[int], None] | None = None) -> Packed:
    """Write the shard's tar and parquet, or find that they are there already. A shard that lacks images is written
    anew: they may be there again. Each image is announced before it is touched, -1 after all."""
    cv2.setNumThreads(1)
    need_source(job.source)
    store = Store(job.out)
    table, offsets = _members(store, job)
    models = table["models"][0].as_py()  # whose answers stand in the samples too
    told = ("key", "uid", "uri", "member", "caption")  # which stand in them as well
    rows_hash = content_hash([*(table[name].to_pylist() for name in told), models])
    stats = shard_stats(store, job.shard)
    if stats and _is_done(store, job, stats, rows_hash):
        return Packed(job.shard, stats["successes"], 0, fresh=False)
    return _write(store, job, table, offsets, rows_hash, announce or (lambda number: None))


def pack_image(data: bytes, row: Row, packing: Packing) -> tuple[bytes, int, int, bool]:
    """Source bytes → (JPEG bytes, width, height, transcoded).

    A JPEG that is upright and small enough keeps its picture data bit for bit, less private metadata; anything else
    is decoded upright, shrunk if the recipe says so, and encoded, with the colour profile that it had.
    """
    width, height = row["original_width"], row["original_height"]
    limit = packing.max_short_side
    fits = limit is None or min(width, height) <= limit
    if row["format"] == "JPEG" and row["exif_orientation"] == 1 and fits and _plain_colours(data):
        return strip_metadata(data), width, height, False
    rgb = decode(data, work_side=None).rgb
    if not fits and limit is not None:
        ratio = limit / min(width, height)
        width, height = max(limit, round(width * ratio)), max(limit, round(height * ratio))
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    jpeg = encode_jpeg(np.ascontiguousarray(rgb), packing.quality)
    profile = rgb_profile(data)
    return with_profile(jpeg, profile) if profile else jpeg, width, height, True


def _members(store: Store, job: ShardJob) -> tuple[pa.Table, list[tuple[int, int]]]:
    """The manifest rows of the shard's images in plan order, and where each lies in its source file."""
    tables: list[pa.Table] = []
    places: list[tuple[int, int]] = []
    for unit in job.units:
        table = store.read_table(manifest_file(unit))
        chosen = np.nonzero(pc.equal(table["shard"], job.shard).to_numpy())[0]
        plan = read_unit(store, unit).select(["member_offset", "bytes"]).take(chosen)
        tables.append(table.take(chosen))
        places.extend(zip(plan["member_offset"].to_pylist(), plan["bytes"].to_pylist(), strict=True))
    return pa.concat_tables(tables), places


def _is_done(store: Store, job: ShardJob, stats: Row, rows_hash: str) -> bool:
    """Whether the shard is this run's, lacks no image, and its table, which is read next, holds what was written."""
    wanted = {"rows_hash": rows_hash, "plan_hash": job.plan.hash, "recipe_hash": job.recipe.hash}
    if stats["failed"] or any(stats.get(name) != value for name, value in wanted.items()):
        return False
    table = table_file(job.shard)
    return store.sha256(table) == stats["sha256"][table.rsplit("/", 1)[-1]]


def _write(
    store: Store,
    job: ShardJob,
    table: pa.Table,
    places: list[tuple[int, int]],
    rows_hash: str,
    announce: Callable[[int], None],
) -> Packed:
    start = time.time()
    rows: list[Row] = table.to_pylist()
    failed: dict[str, str] = {}

    def samples() -> Iterator[Sample]:
        for number, (row, (offset, size)) in enumerate(zip(rows, places, strict=True)):
            announce(number)
            try:
                if number in job.deadly:
                    raise WorkerDied("the process that packed this image alone was killed (memory, or a crash)")
                yield _sample(row, offset, size, job.recipe)
            except Exception as error:
                failed[row["key"]] = describe(error)
        announce(-1)

    placed = put_tar(store, tar_file(job.shard), samples())
    where = {place.key: place for place in placed}
    good = [row for row in rows if row["key"] in where]
    for row in good:
        row["offset"], row["size"] = where[row["key"]].offset, where[row["key"]].size
    store.write_table(table_file(job.shard), pa.Table.from_pylist(good, table.schema))
    files = {name.rsplit("/", 1)[-1]: name for name in (tar_file(job.shard), table_file(job.shard))}
    end = time.time()
    stats = {
        "count": len(rows),
        "successes": len(good),
        "failed_to_download": len(failed),
        "failed_to_resize": 0,
        "duration": end - start,
        "start_time": start,
        "end_time": end,
        "status_dict": {"success": len(good), **({"failed_to_pack": len(failed)} if failed else {})},
        "bytes": sum(place.size for place in placed),
        "sizes": {short: store.size(name) for short, name in files.items()},
        "sha256": {short: store.sha256(name) for short, name in files.items()},
        "failed": failed,
        "rows_hash": rows_hash,
        "recipe_hash": job.recipe.hash,
        "plan_hash": job.plan.hash,
    }
    store.write_json(shard_stats_file(job.shard), stats)
    return Packed(job.shard, len(good), len(failed))


def _sample(row: Row, offset: int, size: int, recipe: Recipe) -> Sample:
    """Read the source again, check that it is what was scored, and make the sample; updates the row's size."""
    data = read_bytes(row["uri"], offset, size if row["member"] else -1)
    if sha256(data).hexdigest() != row["sha256"]:
        raise SourceChanged("its bytes are not those that were scored; put them back and run `sapiens-curate retry`")
    jpeg, row["width"], row["height"], row["transcoded"] = pack_image(data, row, recipe.packing)
    asked = {column for name in recipe.scorers for column in COLUMNS[name]}
    record = {name: row[name] for name in RECORD} | {name: row[name] for name in NUMBERS if name in asked}
    record["transcoded"] = row["transcoded"]
    if "person_boxes" in asked:
        record["num_persons"] = row["num_persons"]
        record["person_boxes"] = [list(box.values()) for box in row["person_boxes"]]
    return Sample(row["key"], jpeg, record)


def _plain_colours(data: bytes) -> bool:
    return open_image(data)[1].mode in {"RGB", "L"}
