"""After packing: an image that was dropped as the repeat of one that could then not be packed gets a second chance.

What is packed stays where it is: deciding all anew would move every image behind the first lost one. The repeats of
lost images are compared with what is kept and, in plan order, with each other; those that repeat neither are kept too,
in shards of their own behind the others.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.decide import DUPLICATE
from curation.deciding import repeats_of, uid_numbers, uids_of
from curation.duplicates import NONE
from curation.layout import manifest_file
from curation.plan import Plan
from curation.recipe import Recipe
from curation.threads import in_order
from manifests.store import Store
from shards.writer import sample_key


@dataclass(frozen=True)
class Compared:
    """Kept images and orphans of one unit. `rows` int64 of the whole plan; `uids`, `hashes`, `known` as near_duplicates
    wants them; `passes` False for an orphan that other rules reject.
    """

    rows: np.ndarray
    uids: np.ndarray
    hashes: np.ndarray
    known: np.ndarray
    orphan: np.ndarray
    passes: np.ndarray


def keep_orphans(store: Store, plan: Plan, recipe: Recipe, first_shard: int) -> int:
    """Decide anew on the repeats of lost images, give those to be kept places from `first_shard` on, and return how
    many these are. The manifest must be settled.
    """
    lost = {uid for uids in in_order(lambda unit: _lost(store, unit), plan.units) for uid in uids}
    parts = list(in_order(lambda unit: _compared(store, plan, unit, lost), plan.units))
    orphan = np.concatenate([part.orphan for part in parts])
    order = np.argsort(orphan, kind="stable")  # kept images first, so that an orphan repeats them and never they it
    rows, uids, hashes, known, passes = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("rows", "uids", "hashes", "known", "passes")
    )
    repeats = repeats_of(recipe, uids, hashes, known, passes)
    names = uids_of(store, plan, np.unique(rows[repeats[repeats != NONE]]))
    orphans = np.flatnonzero(orphan[order])
    original = {int(rows[i]): names[int(rows[repeats[i]])] if repeats[i] != NONE else "" for i in orphans}
    kept = [int(rows[i]) for i in orphans if passes[i] and repeats[i] == NONE]
    per_shard = recipe.packing.samples_per_shard
    places = {row: (first_shard + number // per_shard, number % per_shard) for number, row in enumerate(kept)}
    for unit in sorted({row // plan.unit_size for row in original}):
        _rewrite(store, plan, unit, original, places)
    return len(kept)


def _lost(store: Store, unit: int) -> list[str]:
    table = store.read_table(manifest_file(unit), ["uid", "status"])
    return table["uid"].filter(pc.equal(table["status"], "failed_to_pack")).to_pylist()


def _compared(store: Store, plan: Plan, unit: int, lost: set[str]) -> Compared:
    table = store.read_table(manifest_file(unit), ["uid", "phash", "verdict", "reasons", "duplicate_of"])
    orphan = np.array([uid in lost for uid in table["duplicate_of"].to_pylist()], bool)
    alone = np.array([reasons in ([], [DUPLICATE]) for reasons in table["reasons"].to_pylist()], bool)
    here = np.flatnonzero(orphan | pc.equal(table["verdict"], "kept").to_numpy())
    return Compared(
        here + plan.start(unit),
        uid_numbers(table["uid"])[here],
        pc.fill_null(table["phash"], 0).to_numpy()[here],
        table["phash"].is_valid().to_numpy()[here],
        orphan[here],
        alone[here],
    )


def _rewrite(store: Store, plan: Plan, unit: int, original: dict[int, str], places: dict[int, tuple[int, int]]) -> None:
    """Put the new decision on its orphans into a unit's manifest."""
    table = store.read_table(manifest_file(unit))
    rows = table.to_pylist()
    for number, row in enumerate(rows, start=plan.start(unit)):
        if number not in original:
            continue
        row["duplicate_of"] = original[number]
        row["reasons"] = [r for r in row["reasons"] if r != DUPLICATE] + [DUPLICATE] * bool(original[number])
        if number in places:
            shard, index = places[number]
            row.update(verdict="kept", shard=shard, key=sample_key(shard, index))
    store.write_table(manifest_file(unit), pa.Table.from_pylist(rows, table.schema))
