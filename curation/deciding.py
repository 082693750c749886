"""The decide stage over a whole run: gather what the rules need, find duplicates, write the manifest."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.decide import DUPLICATE, Judged, columns_needed, judge, verdict_columns
from curation.duplicates import NONE, exact_duplicates, near_duplicates
from curation.errors import UsageError
from curation.layout import manifest_file, scores_file
from curation.plan import Plan
from curation.recipe import Recipe
from curation.threads import in_order
from manifests.account import Counts, count, numbered
from manifests.schema import manifest_schema
from manifests.store import Store, content_hash
from shards.writer import sample_key

ORIGINAL = {"width": "original_width", "height": "original_height"}


@dataclass(frozen=True)
class Outcome:
    """Verdicts of all inputs in plan order: bool `failed`, `kept`; int64 `repeats`, the row of the kept image or -1."""

    failed: np.ndarray
    kept: np.ndarray
    repeats: np.ndarray

    @property
    def counts(self) -> Counts:
        kept, failed = int(self.kept.sum()), int(self.failed.sum())
        return Counts(len(self.kept), kept, len(self.kept) - kept - failed, failed)


@dataclass(frozen=True)
class Flips:
    """What another recipe would change: images gained and lost, and by which rules (each that an image fails)."""

    gained: int = 0
    lost: int = 0
    gained_by: Counter[str] = field(default_factory=Counter)
    lost_by: Counter[str] = field(default_factory=Counter)


def resolve(store: Store, plan: Plan, recipe: Recipe, file: Callable[[int], str] = scores_file) -> Outcome:
    """Judge every input and find duplicates, reading only the columns that the recipe asks about. Raises UsageError
    where a lazy run has not asked enough for these rules.

    Memory: up to about 170 bytes an input with near duplicates, whatever the number of columns.
    """
    columns = list(dict.fromkeys([*columns_needed(recipe), *ORIGINAL.values(), "uid", "phash"]))

    def read(unit: int) -> tuple[Judged, np.ndarray, np.ndarray, np.ndarray]:
        table = as_scored(store.read_table(file(unit), columns))
        hashes = table["phash"]
        known = hashes.is_valid().to_numpy()
        return judge(table, recipe), uid_numbers(table["uid"]), pc.fill_null(hashes, 0).to_numpy(), known

    parts = list(in_order(read, plan.units))
    if unasked := sum(int(judged.unasked.sum()) for judged, *_ in parts):
        raise UsageError(
            f"{numbered(unasked, 'image was', 'images were')} asked only until a rule said no (lazy), and these rules "
            f"do not: ask what is missing with `sapiens-curate score {store.root}` and the same recipe, then decide"
        )
    failed = np.concatenate([judged.failed for judged, *_ in parts])
    passes = np.concatenate([judged.passes for judged, *_ in parts])
    uids = np.concatenate([uids for _, uids, _, _ in parts])
    hashes = np.concatenate([hashes for _, _, hashes, _ in parts])
    known = np.concatenate([known for *_, known in parts])
    repeats = repeats_of(recipe, uids, hashes, known, passes)
    repeats[failed] = NONE
    return Outcome(failed, passes & (repeats == NONE), repeats)


def repeats_of(
    recipe: Recipe, uids: np.ndarray, hashes: np.ndarray, known: np.ndarray, passes: np.ndarray
) -> np.ndarray:
    """Per image the index of the kept one that it repeats by the recipe, or -1; see `near_duplicates`."""
    if recipe.duplicates == "off":
        return np.full(len(passes), NONE)
    if recipe.duplicates == "exact":
        return exact_duplicates(uids, passes)
    return near_duplicates(uids, hashes, known, passes, recipe.near_distance)


def write_manifest(store: Store, plan: Plan, recipe: Recipe, outcome: Outcome, models: dict[str, str]) -> Counts:
    """Write one manifest file per unit, every input in it once; raises Unbalanced where one is missing."""
    schema = manifest_schema([*plan.extras, *recipe.concept_fields])
    positions = np.where(outcome.kept, np.cumsum(outcome.kept) - 1, NONE)
    names = uids_of(store, plan, np.unique(outcome.repeats[outcome.repeats != NONE]))

    def write(unit: int) -> Counts:
        rows = slice(plan.start(unit), plan.start(unit + 1))
        table = store.read_table(scores_file(unit))
        duplicate_of = pa.array([names.get(row, "") for row in outcome.repeats[rows].tolist()], pa.string())
        decided = verdict_columns(table, judge(table, recipe), duplicate_of, recipe)
        decided |= _places(positions[rows], recipe.packing.samples_per_shard)
        decided["recipe_hash"] = pa.array([recipe.hash] * table.num_rows)
        decided["models"] = pa.array([list(models.items())] * table.num_rows, schema.field("models").type)
        columns = {name: decided[name] if name in decided else table[name] for name in schema.names}
        manifest = pa.table(columns, schema=schema)
        counts = count(manifest, plan.size(unit))
        store.write_table(manifest_file(unit), manifest)
        return counts

    return sum(in_order(write, plan.units), Counts())


def manifest_hash(store: Store) -> str:
    """Changes when any file of the manifest does."""
    names = store.names("manifest", ".parquet")
    return content_hash(list(zip(names, in_order(lambda n: store.sha256(names[n]), len(names)), strict=True)))


def compare(store: Store, plan: Plan, recipe: Recipe) -> tuple[Outcome, Flips]:
    """What `recipe` would change in the manifest that is there; nothing is written."""
    outcome = resolve(store, plan, recipe, manifest_file)
    columns = list(dict.fromkeys([*columns_needed(recipe), *ORIGINAL.values(), "verdict", "reasons"]))

    def flips(unit: int) -> Flips:
        table = as_scored(store.read_table(manifest_file(unit), columns))
        rows = slice(plan.start(unit), plan.start(unit + 1))
        was = pc.equal(table["verdict"], "kept").to_numpy()
        now = outcome.kept[rows]
        gained, lost = ~was & now, was & ~now
        if not (gained.any() or lost.any()):
            return Flips()
        gained_by = Counter(
            name for reasons in table["reasons"].filter(pa.array(gained)).to_pylist() for name in reasons
        )
        fails = judge(table, recipe).fails | {DUPLICATE: outcome.repeats[rows] != NONE}
        lost_by = Counter({name: int((fail & lost).sum()) for name, fail in fails.items() if (fail & lost).any()})
        return Flips(int(gained.sum()), int(lost.sum()), gained_by, lost_by)

    total = Flips()
    for one in in_order(flips, plan.units):
        total = Flips(
            total.gained + one.gained,
            total.lost + one.lost,
            total.gained_by + one.gained_by,
            total.lost_by + one.lost_by,
        )
    return outcome, total


def as_scored(table: pa.Table) -> pa.Table:
    """The table with the source's `width` and `height`, of which rules speak; a manifest's are those of the shard."""
    return pa.table({name: table[ORIGINAL.get(name, name)] for name in table.schema.names})


def uids_of(store: Store, plan: Plan, rows: np.ndarray) -> dict[int, str]:
    """uid of some rows, in ascending order, reading only the units that hold them."""
    found: dict[int, str] = {}
    units, firsts = np.unique(rows // plan.unit_size, return_index=True)
    for unit, own in zip(units.tolist(), np.split(rows, firsts[1:]), strict=False):  # no rows: one empty part
        uids = store.read_table(scores_file(unit), ["uid"])["uid"].take(own - plan.start(unit))
        found |= dict(zip(own.tolist(), uids.to_pylist(), strict=True))
    return found


def uid_numbers(uids: pa.ChunkedArray) -> np.ndarray:
    """32 hex digits → uint64 (n, 2); zeros where there is none."""
    text = pa.concat_arrays(pc.fill_null(uids, "0" * 32).chunks)
    digits = np.frombuffer(text.buffers()[2], np.uint8)[: 32 * len(text)].reshape(-1, 32)
    nibbles = np.where(digits >= 97, digits - 87, digits - 48).astype(np.uint8)
    return ((nibbles[:, ::2] << 4) | nibbles[:, 1::2]).view(">u8").astype(np.uint64)


def _places(positions: np.ndarray, per_shard: int) -> dict[str, pa.Array]:
    """Position among the kept (-1 for none) → `key` and `shard`; offsets are known once it is packed."""
    kept = positions != NONE
    shards = np.where(kept, positions // per_shard, NONE)
    keys = [
        sample_key(shard, position % per_shard) if shard != NONE else ""
        for shard, position in zip(shards.tolist(), positions.tolist(), strict=True)
    ]
    nowhere = pa.array(np.full(len(kept), NONE), pa.int64())
    return {
        "key": pa.array(keys, pa.string()),
        "shard": pa.array(shards, pa.int32()),
        "offset": nowhere,
        "size": nowhere,
        "transcoded": pa.array(np.zeros(len(kept), bool)),
    }
