"""Score one unit of the plan: read, decode once, ask every scorer, commit one parquet file.

A unit is done when its `_stats.json` parses and agrees with the plan, the scorers' identities and the size of the
parquet file. Columns of scorers whose identity has not changed are taken over from the file that is there.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import cv2
import pyarrow as pa

from curation.batch import Batch
from curation.decide import judge
from curation.decode import Header, Picture, decode
from curation.layout import scores_file, scores_stats_file, unit_stats
from curation.plan import Plan, read_unit
from curation.recipe import Recipe
from curation.scorers import Scorer, make_scorers
from curation.sources import read_bytes
from curation.sources.entry import describe
from manifests.account import Counts
from manifests.schema import IMAGE, SCORES, scores_schema
from manifests.store import Store

BATCH = 16
AHEAD = 2  # batches read and decoded ahead of the networks
Row = dict[str, Any]


@dataclass(frozen=True)
class UnitJob:
    """One unit to score: where, with what, failed rows too (`retry`), and which rows killed a process before."""

    out: str
    unit: int
    plan: Plan
    recipe: Recipe
    threads: int
    retry: bool = False
    deadly: tuple[int, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A decoded input, or the row that says why there is none."""

    index: int
    data: bytes
    picture: Picture | None
    row: Row


def score_unit(job: UnitJob, announce: Callable[[int], None] | None = None) -> Counts:
    """Bring the unit's score file up to date. Returns its counts under the recipe, duplicates not yet looked at.

    With `announce` images are taken strictly one by one and each row is announced before it is touched.
    """
    cv2.setNumThreads(1)
    store = Store(job.out)
    scorers = load_scorers(job.recipe, job.threads)
    old, identities, stale = _current(store, job, scorers)
    if old is not None and not stale and not job.retry and not job.deadly:
        return _count(old, job.recipe)
    plan = read_unit(store, job.unit).to_pylist()
    rows = _start(plan, old, job)
    todo = _todo(rows, bool(stale), job.retry)
    for index, ask in ((index, scorers if rows[index]["status"] != "success" else stale) for index in todo):
        rows[index]["_ask"] = tuple(scorer.name for scorer in ask)
    loads = _batches(plan, todo, rows) if announce is None else _one_by_one(plan, todo, rows, announce)
    for loaded in loads:
        _score(loaded, rows, scorers)
    for row in rows:
        row.pop("_ask", None)
    table = pa.Table.from_pylist(rows, scores_schema([*job.plan.extras, *job.recipe.concept_fields]))
    identities = {name: identity for name, identity in identities.items() if name != "concepts"}
    commit(store, job, table, identities | {scorer.name: scorer.identity for scorer in scorers})
    return _count(table, job.recipe)


def commit(store: Store, job: UnitJob, table: pa.Table, identities: Mapping[str, str]) -> None:
    """The data file first, the stats that vouch for it last."""
    name = scores_file(job.unit)
    store.write_table(name, table)
    statuses = table["status"].to_pylist()
    store.write_json(
        scores_stats_file(job.unit),
        {
            "count": table.num_rows,
            "failed": sum(status != "success" for status in statuses),
            "plan_hash": job.plan.hash,
            "identities": dict(identities),
            "bytes": store.size(name),
            "sha256": store.sha256(name),
        },
    )


@lru_cache(maxsize=1)
def _scorers(recipe_json: str, threads: int) -> list[Scorer]:
    return make_scorers(Recipe.model_validate_json(recipe_json), threads)


def load_scorers(recipe: Recipe, threads: int) -> list[Scorer]:
    """The recipe's scorers; networks load once per process."""
    return _scorers(recipe.model_dump_json(), threads)


def _current(store: Store, job: UnitJob, scorers: list[Scorer]) -> tuple[pa.Table | None, dict[str, str], list[Scorer]]:
    """The committed table, if any, the identities behind its columns, and the scorers that must be asked (again)."""
    stats = unit_stats(store, job.unit, job.plan)
    if stats is None:
        return None, {}, scorers
    identities = stats["identities"]
    stale = [scorer for scorer in scorers if identities.get(scorer.name) != scorer.identity]
    return store.read_table(scores_file(job.unit)), identities, stale


def _start(plan: list[Row], old: pa.Table | None, job: UnitJob) -> list[Row]:
    rows = old.to_pylist() if old is not None else [_blank(entry) for entry in plan]
    for index, (row, entry) in enumerate(zip(rows, plan, strict=True)):
        if entry["plan_error"]:
            row.update(_failure("read", entry["plan_error"]))
        elif index in job.deadly:
            message = "WorkerDied: the process that worked on this image alone was killed (memory, or a crash)"
            row.update(_failure("decode", message))
    return rows


def _todo(rows: list[Row], any_stale: bool, retry: bool) -> list[int]:
    """Rows to work on: new ones, all good ones when a scorer is stale, and failed ones on `retry`."""
    wanted = {""} | ({"success", "failed_to_score"} if any_stale else set())
    if retry:
        wanted |= {"failed_to_read", "failed_to_decode", "failed_to_score"}
    return [index for index, row in enumerate(rows) if row["status"] in wanted]


def _blank(entry: Row) -> Row:
    row: Row = {field.name: None for field in (*IMAGE, *SCORES)}
    extra = {k: v for k, v in entry.items() if k not in {"member_offset", "bytes", "version", "plan_error", "unit"}}
    return {**row, **extra, "status": ""}


def _failure(stage: str, message: str) -> Row:
    scores = {field.name: None for field in SCORES}
    return {"status": f"failed_to_{stage}", "error_message": message, **scores}


def _batches(plan: list[Row], todo: list[int], rows: list[Row]) -> Iterator[list[Loaded]]:
    """Decoded images in order, `BATCH` at a time with the same questions, read ahead by threads; failed ones are
    written into `rows`."""
    remote = any("://" in plan[index]["uri"] for index in todo)
    waiting: deque[Future[Loaded]] = deque()
    batch: list[Loaded] = []
    with ThreadPoolExecutor(16 if remote else 2) as pool:
        queue = iter(todo)
        for index in queue:
            waiting.append(pool.submit(_load, index, plan[index]))
            if len(waiting) >= BATCH * (AHEAD + 1):
                break
        while waiting:
            loaded = waiting.popleft().result()
            if (upcoming := next(queue, None)) is not None:
                waiting.append(pool.submit(_load, upcoming, plan[upcoming]))
            ask = rows[loaded.index]["_ask"]
            rows[loaded.index].update(loaded.row)
            if loaded.picture is None:
                continue
            if batch and (len(batch) == BATCH or rows[batch[0].index]["_ask"] != ask):
                yield batch
                batch = []
            batch.append(loaded)
    if batch:
        yield batch


def _one_by_one(
    plan: list[Row], todo: list[int], rows: list[Row], announce: Callable[[int], None]
) -> Iterator[list[Loaded]]:
    for index in todo:
        announce(index)
        loaded = _load(index, plan[index])
        rows[index].update(loaded.row)
        if loaded.picture is not None:
            yield [loaded]


def _load(index: int, entry: Row) -> Loaded:
    """Read and decode one input. Every exception becomes its row."""
    try:
        data = read_bytes(entry["uri"], entry["member_offset"], entry["bytes"] if entry["member"] else -1)
    except Exception as error:
        return Loaded(index, b"", None, _failure("read", describe(error)))
    digest = sha256(data).hexdigest()
    known: Row = {"sha256": digest, "uid": digest[:32]}
    try:
        picture = decode(data)
    except Exception as error:
        return Loaded(index, b"", None, known | _failure("decode", describe(error)))
    return Loaded(index, data, picture, known | _facts(picture.width, picture.height, picture.header))


def _facts(width: int, height: int, header: Header) -> Row:
    return {
        "status": "success",
        "error_message": "",
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "exif_orientation": header.orientation,
        "format": header.format,
    }


def _score(loaded: list[Loaded], rows: list[Row], scorers: list[Scorer]) -> None:
    """Ask a batch; where that raises, ask its images one by one so that only the guilty one fails."""
    ask = rows[loaded[0].index]["_ask"]
    asked = [scorer for scorer in scorers if scorer.name in ask]
    scored = {field.name: [rows[item.index][field.name] for item in loaded] for field in SCORES}
    pictures = [item.picture for item in loaded if item.picture is not None]
    batch = Batch([item.data for item in loaded], pictures, scored)
    try:
        _ask(batch, asked)
    except Exception as error:
        if len(loaded) == 1:
            rows[loaded[0].index].update(_failure("score", describe(error)))
            return
        for item in loaded:
            _score([item], rows, scorers)
        return
    for position, item in enumerate(loaded):
        rows[item.index].update({name: values[position] for name, values in batch.scored.items()})


def _ask(batch: Batch, scorers: list[Scorer]) -> None:
    for scorer in scorers:
        columns = scorer.score(batch)
        if set(columns) != set(scorer.columns) or any(len(values) != len(batch) for values in columns.values()):
            raise ValueError(f"scorer {scorer.name} must give one value per image for {', '.join(scorer.columns)}")
        batch.scored.update(columns)


def _count(table: pa.Table, recipe: Recipe) -> Counts:
    judged = judge(table, recipe)
    kept, failed = int(judged.passes.sum()), int(judged.failed.sum())
    return Counts(table.num_rows, kept, table.num_rows - kept - failed, failed)
