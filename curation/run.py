"""The run, stage after stage: plan → score → decide → pack → verify → report. Each may be run alone and again.

What a stage finds done it takes by its sha256 where that is a table. Tars are taken by their size, since hashing all of
them takes as long as reading the whole set: `verify`, with which a run ends, does that.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow.compute as pc
from rich.console import Console

from curation import embeddings
from curation.careful import pack_carefully, score_carefully
from curation.deciding import Flips, Outcome, compare, manifest_hash, resolve, write_manifest
from curation.errors import DISK_FULL, Stopped, UsageError
from curation.layout import manifest_file, scored_state, scores_stats_file, shard_stats, sound_unit_stats, unit_stats
from curation.lock import locked
from curation.orphans import keep_orphans
from curation.pack import ShardJob, pack_shard
from curation.plan import PLAN_FILE, Plan, make_plan, read_plan
from curation.pool import Pool, open_pool, survived
from curation.progress import Meter, meter
from curation.recipe import Recipe, load_recipe
from curation.record import RUN_FILE, Record, load_record
from curation.score import UnitJob, score_unit
from curation.settle import WIDS_FILE, drop_shards_from, settle_manifest, wids_index
from curation.sources.absent import need_source
from curation.sources.read import local_uri
from curation.threads import ASKERS, in_order
from manifests.account import Counts, numbered
from manifests.store import Store
from shards.writer import SHARDS

ABREAST = 4  # units that the worker of a GPU works on at a time
GIB = 1 << 30


@dataclass(frozen=True)
class Workplace:
    """Where the work is done: `workers` local processes (None: one per core, or what `suited_to` says; 0: this one),
    each on `abreast` units at a time, or a Dask `scheduler`."""

    workers: int | None = None
    scheduler: str | None = None
    abreast: int = 1

    @property
    def processes(self) -> int:
        return cores() if self.workers is None else self.workers

    @property
    def threads(self) -> int:
        """Threads for each unit that is worked on: all of them together use every core once."""
        return max(1, cores() // (max(1, self.processes) * self.abreast)) if self.scheduler is None else 1

    def suited_to(self, recipe: Recipe) -> "Workplace":
        """For the networks of the profile `full`, unless a number was asked for.

        On GPUs one process for each, on several units at a time, so that the GPU need not wait for the decoding or the
        boxes of any one of them. On a CPU as many as its memory holds, which share the cores evenly.
        """
        if recipe.profile != "full" or self.scheduler is not None or self.workers == 0:
            return self
        import torch

        if torch.cuda.is_available():
            return Workplace(torch.cuda.device_count() if self.workers is None else self.workers, abreast=ABREAST)
        if self.workers is not None:
            return self
        from curation import winograd

        each = 3.5 * GIB if winograd.is_quicker_here() else 2 * GIB  # up to 3.2 and 1.5 GB were seen of a worker
        threads = math.ceil(cores() / max(1, memory() // each))
        return Workplace(max(1, cores() // threads))


def curate(
    source: str,
    out: str,
    recipe: Recipe | str = "humans300m",
    *,
    place: Workplace | None = None,
    console: Console | None = None,
) -> Counts:
    """Curate `source` into `out`: what `sapiens-curate run` does. Continues where an interrupted run stopped.

    Raises UsageError for what the caller can mend, Stopped where the same call continues later.
    """
    from curation.report.page import write_report  # draws with matplotlib, which takes seconds to import

    console = console or Console(quiet=True)
    wanted = load_recipe(recipe) if isinstance(recipe, str) else recipe
    store = Store(out)
    with stages(store, console, place or Workplace()) as stage:
        record = stage.plan(source, wanted)
        if record.recipe.hash != wanted.hash:
            raise UsageError(_other_recipe(out, record.recipe, wanted))
        stage.score(record)
        stage.decide(record)
        stage.pack(record)
    console.print(f"report: {write_report(store.root)}")
    return record.counts


@contextmanager
def stages(store: Store, console: Console, place: Workplace) -> Iterator["Stages"]:
    """The stages over one locked output folder; workers start when the first stage needs them."""
    try:
        with locked(store), ExitStack() as stack:
            store.sweep(".")
            yield Stages(store, console, place, stack)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise Stopped(f"the disk of {store.root} is full; nothing committed is lost: free some space") from None
        raise


class Stages:
    """Each stage of a run on one folder. A stage that finds its work done does nothing."""

    def __init__(self, store: Store, console: Console, place: Workplace, stack: ExitStack) -> None:
        self.store, self.console, self.place, self._stack = store, console, place, stack

    def plan(self, source: str, recipe: Recipe) -> Record:
        """List the source once and freeze the list, or take up the list that is there."""
        if self.store.exists(RUN_FILE) and self.store.exists(PLAN_FILE):
            record = load_record(self.store)
            if _absolute(source) != record.source:
                raise UsageError(
                    f"{self.store.root} was made from {record.source}, not from {source}; give that, or another folder"
                )
            plan = read_plan(self.store)
            if plan.hash != record.plan_hash:
                raise UsageError(f"{self.store.root}/{PLAN_FILE} is not the plan of this run; start in another folder")
            if not self.store.names("scores", "_stats.json"):  # nothing was asked yet, by whatever recipe
                recipe.check_columns(list(plan.extras))
                record.recipe = recipe
                record.save(self.store)
            return record
        self._refuse_foreign_files()
        start = time.monotonic()
        plan, passed_over = make_plan(source, self.store, recipe.check_columns)
        record = Record(_absolute(source), plan.hash, plan.inputs, recipe, dict(passed_over))
        record.time("plan", time.monotonic() - start, plan.inputs)
        record.save(self.store)
        kinds = passed_over.most_common()
        others = ", ".join(f"{n} {kind}" for kind, n in kinds[:8])
        others += f", {sum(n for _, n in kinds[8:])} of other kinds" * (len(kinds) > 8)
        told = f"; passed over as no images: {others}" if others else ""
        self.console.print(f"plan: {numbered(plan.inputs, 'image')}{told}")
        return record

    def score(self, record: Record, retry: bool = False) -> None:
        """Ask every image every question that is not answered yet; with `retry`, failed images again."""
        plan = read_plan(self.store)
        record.recipe.check_columns(list(plan.extras))
        for folder in ("scores", *embeddings.FOLDERS):
            self.store.sweep(folder)
        models = _identities(record.recipe)
        units = self._sound_units(plan)
        there = set(self.store.names("scores", "_stats.json"))  # one listing instead of a question for each unit
        unsound = [n for n, stats in enumerate(units) if stats is None and scores_stats_file(n) in there]
        if altered := sum(bool(unit_stats(self.store, unit, plan)) for unit in unsound):
            self.console.print(f"scores of {altered} unit(s) are not as they were written; scored anew")
        self.place = self.place.suited_to(record.recipe)
        jobs = [
            UnitJob(self.store.anywhere, unit, plan, record.source, record.recipe, self.place.threads, retry)
            for unit, stats in enumerate(units)
            if _to_score(stats, record.recipe, models, retry)
        ]
        asked = {job.unit: _asked(job, units[job.unit], record.recipe, models) for job in jobs}
        inputs = sum(asked.values())
        if jobs:
            need_source(record.source)
            lazily = ", lazily" if record.recipe.lazy else ""
            self.console.print(
                f"scoring with profile {record.recipe.profile!r}{lazily}: {', '.join(record.recipe.scorers)}"
            )
            pool = self._pool
            with meter("score", inputs, self.console) as shown:
                for outcome in survived(pool, score_unit, score_carefully, jobs, self.console):
                    shown.add(asked[outcome.job.unit], outcome.result())
            record.time("score", shown.seconds, inputs)
        record.models |= models
        if record.decided != self._state(plan, record.recipe):
            record.decided = record.packed = ""  # scores or recipe are not those that the manifest was decided by
        record.save(self.store)

    def decide(self, record: Record) -> None:
        """Give every input its verdict and write the manifest, unless recipe and scores are those of the last time."""
        plan = read_plan(self.store)
        record.recipe.check_columns(list(plan.extras))
        state = self._state(plan, record.recipe)
        if record.decided == state and self._is_packed(record, state):
            return
        if record.decided == state and record.manifest and not self._manifest_is_sound(record):
            self.console.print("the manifest is not as it was written; decided anew")
        units = self._sound_units(plan)
        by = {name: record.models.get(name) for name in record.recipe.scorers}.items()
        if mixed := sum(not by <= stats["identities"].items() for stats in units if stats):
            raise UsageError(
                f"{mixed} of {plan.units} units were scored by other networks than the rest, as a stopped run leaves "
                f"them; run `sapiens-curate score {self.store.root}`"
            )
        if altered := sum(stats is None for stats in units):
            raise UsageError(
                f"scores of {altered} unit(s) are not as they were written; run `sapiens-curate score "
                f"{self.store.root}`"
            )
        self.store.sweep("manifest")
        start = time.monotonic()
        outcome = resolve(self.store, plan, record.recipe)
        per_shard = record.recipe.packing.samples_per_shard
        if outcome.counts.kept > SHARDS * per_shard:
            setting = f"packing.samples_per_shard={-(-outcome.counts.kept // SHARDS)}"
            raise UsageError(
                f"{outcome.counts.kept} images are kept, and {SHARDS} shards of {per_shard} do not hold them; run "
                f"`sapiens-curate decide {self.store.root} --set {setting}` (or more, up to 10000), then `pack`"
            )
        record.packed = ""
        record.counts = write_manifest(self.store, plan, record.recipe, outcome, record.models)
        record.shards = -(-record.counts.kept // per_shard)
        record.decided, record.manifest = state, manifest_hash(self.store)
        record.time("decide", time.monotonic() - start, plan.inputs)
        record.save(self.store)
        self.console.print(f"decided by {record.recipe.name}: {record.counts}")

    def pack(self, record: Record) -> None:
        """Write the kept images into shards and their places into the manifest."""
        plan = read_plan(self.store)
        if not record.decided:
            raise UsageError(
                f"{self.store.root} is not decided by its present recipe and scores; run `sapiens-curate decide "
                f"{self.store.root}`"
            )
        if self._is_packed(record, record.decided):
            return
        need_source(record.source)
        if record.packed or not self._manifest_is_sound(record):  # it holds places, or after a crash some of them
            self.decide(record)
        self.store.sweep("shards")
        drop_shards_from(self.store, record.shards)
        jobs, pool = list(self._shard_jobs(record, plan)), self._pool
        with meter("pack", record.counts.kept, self.console) as shown:
            lost = self._pack(pool, jobs, shown)
        record.counts = settle_manifest(self.store, plan)
        while lost and (orphans := keep_orphans(self.store, plan, record.recipe, record.shards)):
            jobs = [job for job in self._shard_jobs(record, plan) if job.shard >= record.shards]
            record.shards += len(jobs)
            with meter(f"pack {numbered(orphans, 'repeat')} of lost images", orphans, self.console) as again:
                lost = self._pack(pool, jobs, again)
            record.counts = settle_manifest(self.store, plan)
        stats = self._shard_stats(record)
        assert all(stats), f"shards {[n for n, one in enumerate(stats) if not one]} are not committed"
        self.store.write_json(WIDS_FILE, wids_index([one for one in stats if one]))
        record.packed, record.manifest = record.decided, manifest_hash(self.store)
        record.time("pack", shown.seconds, shown.done - shown.found)
        record.save(self.store)

    def _refuse_foreign_files(self) -> None:
        """A folder without a whole run is taken only when nothing in it has a name that a run writes."""
        names = [RUN_FILE, WIDS_FILE, "scores", "embeddings", "manifest", "shards"]
        if foreign := [name for name in names if self.store.exists(name)]:
            raise UsageError(
                f"{self.store.root} holds {', '.join(foreign)} but no whole run of sapiens-curate; nothing there is "
                "overwritten: choose another folder"
            )

    @cached_property
    def _pool(self) -> Pool:
        """The workers, started when first needed and kept to the end."""
        pool = self._stack.enter_context(open_pool(self.place.processes, self.place.scheduler, self.place.abreast))
        if pool.dashboard:
            together = self.place.abreast * self.place.threads
            abreast = f" of {together} threads" if together > 1 else ""
            workers = numbered(pool.workers // self.place.abreast, "Dask worker")
            self.console.print(f"{workers}{abreast}, dashboard {pool.dashboard}")
        return pool

    def _sound_units(self, plan: Plan) -> list[dict[str, Any] | None]:
        """The stats of every unit; None for one to be scored."""
        return list(in_order(lambda unit: sound_unit_stats(self.store, unit, plan), plan.units))

    def _pack(self, pool: Pool, jobs: list[ShardJob], shown: Meter) -> int:
        """Write shards; the number of images that could not be read again."""
        lost = 0
        for outcome in survived(pool, pack_shard, pack_carefully, jobs, self.console):
            packed = outcome.result()
            shown.add(packed.packed + packed.failed, fresh=packed.fresh)
            lost += packed.failed
        return lost

    def _state(self, plan: Plan, recipe: Recipe) -> str:
        """Changes when the recipe, the plan or any score file does."""
        units = list(in_order(lambda unit: unit_stats(self.store, unit, plan), plan.units, ASKERS))
        if missing := [unit for unit, stats in enumerate(units) if stats is None]:
            raise UsageError(
                f"{len(missing)} of {plan.units} units are not scored yet; run `sapiens-curate score {self.store.root}`"
            )
        return scored_state(recipe, plan, [stats for stats in units if stats])

    def _is_packed(self, record: Record, state: str) -> bool:
        if record.packed != state or not self._manifest_is_sound(record):
            return False
        stats = self._shard_stats(record)
        if any(one and one.get("recipe_hash") != record.recipe.hash for one in stats):
            return False
        return all(stats) and self.store.read_json(WIDS_FILE) == wids_index([one for one in stats if one])

    def _shard_stats(self, record: Record) -> list[dict[str, Any] | None]:
        return list(in_order(lambda shard: shard_stats(self.store, shard), record.shards, ASKERS))

    def _manifest_is_sound(self, record: Record) -> bool:
        return record.manifest == manifest_hash(self.store)

    def _shard_jobs(self, record: Record, plan: Plan) -> Iterator[ShardJob]:
        """The shards and the units each draws from; kept images are in plan order, so those are neighbours."""

        def drawn_by(unit: int) -> list[int]:
            return pc.unique(self.store.read_table(manifest_file(unit), ["shard"])["shard"]).to_pylist()

        units: dict[int, list[int]] = {}
        for unit, shards in enumerate(in_order(drawn_by, plan.units, ASKERS)):
            for shard in shards:
                if shard >= 0:
                    units.setdefault(shard, []).append(unit)
        for shard, members in sorted(units.items()):
            yield ShardJob(self.store.anywhere, shard, tuple(members), plan, record.source, record.recipe)


def redecide(out: str, recipe: Recipe) -> tuple[Outcome, Flips]:
    """What another recipe would change, without writing. Raises UsageError where its scores are missing."""
    store = Store(out)
    plan, record = read_plan(store), load_record(store)
    check_scored(record, recipe)
    recipe.check_columns(list(plan.extras))
    if not record.decided or len(store.names("manifest", ".parquet")) != plan.units:
        raise UsageError(f"{out} has no manifest of its scores to compare; run `sapiens-curate decide {out}` first")
    return compare(store, plan, recipe)


def check_scored(record: Record, recipe: Recipe) -> None:
    """UsageError where a recipe asks a question that this run has not put to its images, or puts it to other networks
    than those that answered.
    """
    from curation.scorers import NOBODY

    missing = [name for name in recipe.scorers if name not in record.models]
    if "text" in recipe.scorers and "text" not in missing:  # another question where nobody looks for people
        alone = record.models["text"].endswith(NOBODY)
        missing += ["text"] * (alone == ("people" in recipe.scorers))
    if not missing and recipe.networks != record.recipe.networks:
        missing = [name for name, identity in _identities(recipe).items() if record.models[name] != identity]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not scored in this run by the recipe's networks; "
            "run `sapiens-curate score` with that recipe first"
        )


def _to_score(stats: dict[str, Any] | None, recipe: Recipe, models: dict[str, str], retry: bool) -> bool:
    if stats is None or any(stats["identities"].get(name) != identity for name, identity in models.items()):
        return True
    if stats["asking"] not in {"everything", recipe.asking}:  # a lazy run that other rules stopped
        return True
    if not set(recipe.scorers).isdisjoint(stats.get("left", ())):  # images that a recipe with fewer questions read
        return True
    return retry and stats["failed"] > 0


def _identities(recipe: Recipe) -> dict[str, str]:
    """Scorer → the networks that answer it."""
    from curation.scorers import make_scorers

    return {scorer.name: scorer.identity for scorer in make_scorers(recipe, 1)}


def cores() -> int:
    """Processors this process may use, by its affinity and by the quota of its container."""
    from dask.system import cpu_count

    return int(cpu_count())


def memory() -> int:
    """Bytes that this process may use: the machine's, or the quota of its container."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)


def _other_recipe(out: str, made_with: Recipe, wanted: Recipe) -> str:
    if made_with.hash == wanted.model_copy(update={"lazy": made_with.lazy}).hash:
        if made_with.lazy:
            return (
                f"{out} was made with --lazy; give it again, or ask what is missing with "
                f"`sapiens-curate score {out} --set lazy=false` first"
            )
        return f"{out} was made without --lazy, so that every image was asked everything; leave it out"
    return (
        f"{out} was made with another recipe ({made_with.name}, {made_with.hash}); "
        f"to decide anew give --recipe and --set to `sapiens-curate decide {out}`, or take another folder"
    )


def _asked(job: UnitJob, stats: dict[str, Any] | None, recipe: Recipe, models: dict[str, str]) -> int:
    """Images that a job works on: only those that failed, where that alone is why it is done."""
    if stats is not None and not _to_score(stats, recipe, models, retry=False):
        return int(stats["failed"])
    return job.plan.size(job.unit)


def _absolute(source: str) -> str:
    return source if "://" in source else local_uri(os.path.abspath(os.path.expanduser(source)))
