"""What other limits on people would keep: the first question of whoever finds that little of their photos was kept."""

import shlex
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.decide import partly_asked
from curation.deciding import ORIGINAL, as_scored
from curation.recipe import Recipe
from curation.record import load_record
from curation.rules import Rule
from manifests.scan import batches
from manifests.store import Store

LOWER_SCORES = (0.7, 0.5, 0.3)
LOWER_SIDES = (200, 150, 100)


@dataclass(frozen=True)
class Leeway:
    """Images that would be kept with other limits on people, duplicates aside: kept[i, j] (int64) with
    people.min_score = scores[i] and people.min_short_side = sides[j]. The first of each are the recipe's own.

    alone: images rejected by rules on people and by no other.
    """

    scores: tuple[float, ...]
    sides: tuple[float, ...]
    kept: np.ndarray
    alone: int


def leeway(store: Store, recipe: Recipe) -> Leeway | None:
    """One pass over the manifest; None where no rule refers to the recipe's limits on people."""
    rules = [rule for rule in recipe.parsed_rules() if "people." in rule.text]
    if not rules:
        return None
    people = recipe.people
    scores = (people.min_score, *(score for score in LOWER_SCORES if score < people.min_score))
    sides = (people.min_short_side, *(side for side in LOWER_SIDES if side < people.min_short_side))
    kept, alone = np.zeros((len(scores), len(sides)), np.int64), 0
    columns = list(dict.fromkeys(column for rule in rules for column in rule.columns))
    columns = list(dict.fromkeys([*columns, *ORIGINAL.values()]))
    for batch in batches(store, ["verdict", "reasons", "not_asked", *columns]):
        asked = ~partly_asked(batch["not_asked"], recipe.scorers)
        rejected = asked & _by_people_alone(batch, {rule.name for rule in rules})
        alone += int(rejected.sum())
        here = rejected | pc.equal(batch["verdict"], "kept").to_numpy(zero_copy_only=False)
        table = as_scored(pa.table(batch.select(columns).filter(pa.array(here))))
        for i, score in enumerate(scores):
            for j, side in enumerate(sides):
                kept[i, j] += _passing(table, rules, score, side)
    return Leeway(scores, sides, kept, alone)


def _by_people_alone(batch: pa.RecordBatch, names: set[str]) -> np.ndarray:
    """bool (rows,): rejected by these rules and no other."""
    reasons = batch["reasons"]
    others = ~np.isin(pc.list_flatten(reasons).to_numpy(zero_copy_only=False), list(names))
    by_others = np.zeros(len(batch), bool)
    by_others[pc.list_parent_indices(reasons).to_numpy()[others]] = True
    rejected = pc.equal(batch["verdict"], "rejected").to_numpy(zero_copy_only=False)
    return np.asarray(rejected & ~by_others)


def _passing(table: pa.Table, rules: list[Rule], score: float, side: float) -> int:
    limits = {"people.min_score": score, "people.min_short_side": float(side)}
    passes = [replace(rule, settings={**rule.settings, **limits}).passes(table) for rule in rules]
    return int(np.logical_and.reduce(passes).sum())


def leeway_text(store: Store) -> str:
    """A small table and how to use it, where people's limits alone reject more than is kept; else nothing."""
    found = leeway(store, load_record(store).recipe)
    if found is None or found.alone <= found.kept[0, 0] or found.kept.size == 1:
        return ""
    lines = [
        f"{found.alone:,} rejected for people alone; other limits would keep, duplicates aside:",
        "  short side > " + "".join(f"{side:>9g}" for side in found.sides) + " px",
    ]
    for score, row in zip(found.scores, found.kept.tolist(), strict=True):
        lines.append(f"  score > {score:<7g}" + "".join(f"{count:>9,}" for count in row))
    out = shlex.quote(store.root)
    score, side = ((limits[1:][-2:] or limits)[0] for limits in (found.scores, found.sides))  # looser, not the loosest
    change = f"--set people.min_score={score:g} --set people.min_short_side={side:g}"
    then = " && ".join(f"sapiens-curate {step}" for step in (f"decide {out} {change}", f"pack {out}", f"report {out}"))
    return "\n".join([*lines, f"  such as: {then}"])
