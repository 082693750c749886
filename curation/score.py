"""Score one unit of the plan: read, decode once, ask every scorer, commit one parquet file.

A unit is done when its `_stats.json` parses and agrees with the plan, the scorers' identities and the bytes of its
files. Columns of scorers whose identity has not changed are taken over from the file that is there.

`not_asked` of a row names the scorers that it still wants. A run ends with none of them left, a lazy one as soon as the
answers that are there reject the image.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from threading import Lock
from typing import Any

import cv2
import pyarrow as pa

from curation.batch import Batch
from curation.decide import columns_needed, judge
from curation.decode import Header, Picture, decode
from curation.embeddings import read_embeddings, write_embeddings
from curation.errors import Stopped, UsageError
from curation.layout import scores_file, scores_stats_file, sound_unit_stats
from curation.plan import Plan, read_unit
from curation.questions import SCORERS, STAGES
from curation.recipe import Recipe
from curation.scorers import Scorer, make_scorers
from curation.sources import read_bytes
from curation.sources.absent import need_source
from curation.sources.entry import IMAGE_SUFFIXES, describe, suffix
from manifests.account import Counts
from manifests.schema import IMAGE, SCORES, scores_schema
from manifests.store import Store

BATCH = 16
DEADLY = "WorkerDied: the process that worked on this image alone was killed (memory, or a crash)"
AHEAD = 2  # batches read and decoded ahead of the networks
Row = dict[str, Any]
_loading = Lock()


@dataclass(frozen=True)
class UnitJob:
    """One unit to score: where, of what, with what, failed rows too (`retry`), and which rows killed a process."""

    out: str
    unit: int
    plan: Plan
    source: str
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

    With `announce` images are taken strictly one by one and each row is announced before it is touched, -1 after all.
    """
    cv2.setNumThreads(1)
    need_source(job.source)
    store = Store(job.out)
    scorers = load_scorers(job.recipe, job.threads)
    schema = scores_schema([*job.plan.extras, *job.recipe.concept_fields])
    stats = sound_unit_stats(store, job.unit, job.plan)
    old, identities, stale = _current(store, job, scorers, stats)
    plan = read_unit(store, job.unit).to_pylist()
    rows = _start(plan, old, job, stale)
    _take_over_embeddings(store, job, rows, stats)
    questions = {*identities, *job.recipe.scorers}
    todo = _todo(plan, rows, job, questions, bool(stale), schema)
    if announce is None:
        loads = _batches(plan, todo, rows, job.threads, questions)
    else:
        loads = _one_by_one(plan, todo, rows, announce, questions)
    for loaded in loads:
        _score(loaded, rows, scorers, job.recipe, schema)
    columns = {scorer.name: scorer.columns for scorer in scorers}
    for row in rows:
        row.update({column: None for name in row["not_asked"] for column in columns.get(name, ())})
    table = pa.Table.from_pylist(rows, schema)
    identities = {name: identity for name, identity in identities.items() if name != "concepts"}
    identities |= {scorer.name: scorer.identity for scorer in scorers}
    kept = write_embeddings(store, job.unit, job.plan.start(job.unit), rows) if "embedding" in identities else {}
    commit(store, job, table, identities, kept)
    return _count(table, job.recipe)


def commit(store: Store, job: UnitJob, table: pa.Table, identities: Mapping[str, str], kept: Mapping[str, Row]) -> None:
    """The data file first, the stats that vouch for it and for the embeddings `kept` last."""
    name = scores_file(job.unit)
    store.write_table(name, table)
    statuses = table["status"].to_pylist()
    left = {question for row in table["not_asked"].to_pylist() for question in row} - {*job.recipe.scorers}
    store.write_json(
        scores_stats_file(job.unit),
        {
            "count": table.num_rows,
            "failed": sum(status != "success" for status in statuses),
            "plan_hash": job.plan.hash,
            "identities": dict(identities),
            "asking": job.recipe.asking,
            "left": sorted(left),  # asked of some images, and not by this recipe
            "bytes": store.size(name),
            "sha256": store.sha256(name),
            "embeddings": dict(kept),
        },
    )


@lru_cache(maxsize=1)
def _scorers(recipe_json: str, threads: int) -> list[Scorer]:
    return make_scorers(Recipe.model_validate_json(recipe_json), threads)


def load_scorers(recipe: Recipe, threads: int) -> list[Scorer]:
    """The recipe's scorers; networks load once per process, whose threads share them, and stay where a later recipe
    asks the same of its images and only judges the answers otherwise."""
    asking = {"scorers", "profile", "weights", "concepts", "classifiers"}
    same = Recipe.model_validate({"name": "", "rules": {}, **recipe.model_dump(include=asking)})
    with _loading:
        return _scorers(same.model_dump_json(), threads)


def _current(
    store: Store, job: UnitJob, scorers: list[Scorer], stats: Row | None
) -> tuple[pa.Table | None, dict[str, str], list[Scorer]]:
    """The committed table, if any, the identities behind its columns, and the scorers that must be asked (again)."""
    if stats is None:
        return None, {}, scorers
    identities = stats["identities"]
    stale = [scorer for scorer in scorers if identities.get(scorer.name) != scorer.identity]
    return store.read_table(scores_file(job.unit)), identities, stale


def _start(plan: list[Row], old: pa.Table | None, job: UnitJob, stale: list[Scorer]) -> list[Row]:
    """The rows as they are known; `not_asked` of a good one holds what there is to ask of it."""
    rows = old.to_pylist() if old is not None else [_blank(entry) for entry in plan]
    again = {scorer.name for scorer in stale}
    for index, (row, entry) in enumerate(zip(rows, plan, strict=True)):
        if row["status"] == "success":
            row["not_asked"] = [name for name in SCORERS if name in {*row["not_asked"], *again}]
        if entry["plan_error"] and row["status"] != "success":  # `retry` may have read it since
            row.update(_failure("read", entry["plan_error"]))
        elif index in job.deadly:
            row.update(_failure("decode", DEADLY))
    return rows


def _take_over_embeddings(store: Store, job: UnitJob, rows: list[Row], stats: Row | None) -> None:
    """Put what an earlier run embedded into the rows; a scorer that is asked again overwrites it."""
    for row in rows:
        row["embedding"] = None
    if stats is not None and stats["embeddings"]:
        vectors, metadata = read_embeddings(store, job.unit)
        for number, vector in zip(metadata["row"].to_pylist(), vectors, strict=True):
            rows[number - job.plan.start(job.unit)]["embedding"] = vector


def _todo(
    plan: list[Row], rows: list[Row], job: UnitJob, questions: set[str], any_stale: bool, schema: pa.Schema
) -> list[int]:
    """Rows to work on: new ones, good ones that must be asked more, and failed ones on `retry` or for a new scorer.

    What is read for the first time wants all `questions` that others of the unit were asked, by whatever recipe.

    Never an archive or a folder that cannot be listed, which is no image, nor what killed a process.
    """
    wanted = {""} | ({"failed_to_score"} if any_stale else set())
    if job.retry:
        wanted |= {"failed_to_read", "failed_to_decode", "failed_to_score"}
    hopeless = {index for index, entry in enumerate(plan) if entry["plan_error"] and not _is_image(entry["uri"])}
    hopeless |= set(job.deadly)
    again = {index for index, row in enumerate(rows) if row["status"] in wanted} - hopeless
    for index in again:
        rows[index]["not_asked"] = [name for name in SCORERS if name in questions]
    settled = _rejected(rows, job.recipe, schema) if job.recipe.lazy else [False] * len(rows)
    missing = [not set(row["not_asked"]).isdisjoint(job.recipe.scorers) for row in rows]
    return [
        index
        for index, row in enumerate(rows)
        if index in again or (row["status"] == "success" and missing[index] and not settled[index])
    ]


def _is_image(uri: str) -> bool:
    return suffix(uri) in IMAGE_SUFFIXES


def _rejected(rows: list[Row], recipe: Recipe, schema: pa.Schema) -> list[bool]:
    """Whether the answers that are there suffice to reject each row."""
    fields = [schema.field(name) for name in columns_needed(recipe)]
    judged = judge(pa.Table.from_pylist(rows, pa.schema(fields)), recipe)
    return (~judged.failed & ~judged.passes & ~judged.unasked).tolist()


def _blank(entry: Row) -> Row:
    row: Row = {field.name: None for field in (*IMAGE, *SCORES)}
    extra = {k: v for k, v in entry.items() if k not in {"member_offset", "bytes", "version", "plan_error", "unit"}}
    return {**row, **extra, "status": "", "not_asked": []}


def _failure(stage: str, message: str) -> Row:
    scores = {field.name: None for field in SCORES}
    return {"status": f"failed_to_{stage}", "error_message": message, **scores, "not_asked": []}


def _forget_another_picture(row: Row, loaded: Loaded, questions: set[str]) -> None:
    """Other bytes lie under the name now: what was answered about the earlier ones is not about them."""
    if row["status"] == "success" and loaded.picture is not None and row["sha256"] != loaded.row["sha256"]:
        row.update({field.name: None for field in SCORES} | {"embedding": None})
        row["not_asked"] = [name for name in SCORERS if name in questions]


def _batches(
    plan: list[Row], todo: list[int], rows: list[Row], threads: int, questions: set[str]
) -> Iterator[list[Loaded]]:
    """Decoded images in order, `BATCH` at a time with the same questions, read ahead by threads; failed ones are
    written into `rows`."""
    remote = any("://" in plan[index]["uri"] for index in todo)
    waiting: deque[Future[Loaded]] = deque()
    batch: list[Loaded] = []
    with ThreadPoolExecutor(16 if remote else max(2, threads)) as pool:
        queue = iter(todo)
        for index in queue:
            waiting.append(pool.submit(_load, index, plan[index]))
            if len(waiting) >= BATCH * (AHEAD + 1):
                break
        while waiting:
            loaded = waiting.popleft().result()
            if (upcoming := next(queue, None)) is not None:
                waiting.append(pool.submit(_load, upcoming, plan[upcoming]))
            _forget_another_picture(rows[loaded.index], loaded, questions)
            ask = rows[loaded.index]["not_asked"]
            rows[loaded.index].update(loaded.row)
            if loaded.picture is None:
                continue
            if batch and (len(batch) == BATCH or rows[batch[0].index]["not_asked"] != ask):
                yield batch
                batch = []
            batch.append(loaded)
    if batch:
        yield batch


def _one_by_one(
    plan: list[Row], todo: list[int], rows: list[Row], announce: Callable[[int], None], questions: set[str]
) -> Iterator[list[Loaded]]:
    for index in todo:
        announce(index)
        loaded = _load(index, plan[index])
        _forget_another_picture(rows[index], loaded, questions)
        rows[index].update(loaded.row)
        if loaded.picture is not None:
            yield [loaded]
    announce(-1)


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


def _score(loaded: list[Loaded], rows: list[Row], scorers: list[Scorer], recipe: Recipe, schema: pa.Schema) -> None:
    """Ask a batch what it wants: all at once, or stage after stage as long as no rule rejects an image."""
    wanted = [scorer for scorer in scorers if scorer.name in rows[loaded[0].index]["not_asked"]]
    if not recipe.lazy:
        _ask_all(loaded, rows, wanted)
        return
    for stage in lazy_stages(recipe):
        if asked := [scorer for scorer in wanted if scorer.name in stage]:
            settled = _rejected([rows[item.index] for item in loaded], recipe, schema)
            loaded = [item for item, is_settled in zip(loaded, settled, strict=True) if not is_settled]
            if not loaded:
                return
            _ask_all(loaded, rows, asked)
            loaded = [item for item in loaded if rows[item.index]["status"] == "success"]


def lazy_stages(recipe: Recipe) -> list[tuple[str, ...]]:
    """The profile's stages, those last on which no rule depends. Text depends on people, whom it leaves out."""
    read = {name for rule in recipe.parsed_rules() for name in recipe.scorers_of(rule)}
    with_text = any("text" in stage and not read.isdisjoint(stage) for stage in STAGES[recipe.profile])
    deciding = read | ({"people"} if with_text else set())
    return sorted(STAGES[recipe.profile], key=deciding.isdisjoint)


def _ask_all(loaded: list[Loaded], rows: list[Row], asked: list[Scorer]) -> None:
    """Ask a batch; where that raises, ask its images one by one so that only the guilty one fails."""
    names = frozenset(scorer.name for scorer in asked)
    scored = {field.name: [rows[item.index][field.name] for item in loaded] for field in SCORES}
    pictures = [item.picture for item in loaded if item.picture is not None]
    batch = Batch([item.data for item in loaded], pictures, scored, names)
    try:
        _ask(batch, asked)
    except (UsageError, Stopped, OSError):
        raise  # of weights, a GPU, or the cache of networks and its disk: no image's fault, whose bytes are read by now
    except Exception as error:
        if len(loaded) == 1:
            rows[loaded[0].index].update(_failure("score", describe(error)))
            return
        for item in loaded:
            _ask_all([item], rows, asked)
        return
    for position, item in enumerate(loaded):
        row = rows[item.index]
        row.update({name: values[position] for name, values in batch.scored.items()})
        row["not_asked"] = [name for name in row["not_asked"] if name not in names]


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
