"""Scores → verdicts. Pure: the same scores and the same recipe give the same verdicts, and no image is opened."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.recipe import Recipe
from curation.rules import flatten_boxes

DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Judged:
    """Verdicts of some rows before duplicates are looked at; arrays of length rows.

    `fails[name]` is True where that rule does not hold; `passes` where every rule holds; `failed` where there is
    nothing to judge because reading, decoding or scoring failed. A rule about what an image was not asked neither
    holds nor fails; `unasked` is True where no other rule fails either, so that there is no verdict.
    """

    failed: np.ndarray
    passes: np.ndarray
    fails: dict[str, np.ndarray]
    unasked: np.ndarray


def columns_needed(recipe: Recipe) -> list[str]:
    """What `judge` reads of a score table."""
    rules = [column for rule in recipe.parsed_rules() for column in rule.columns]
    return list(dict.fromkeys(["status", "not_asked", *rules]))


def judge(table: pa.Table, recipe: Recipe) -> Judged:
    """Apply every rule to every row: all that fail are kept, not only the first."""
    failed = pc.not_equal(table["status"], "success").to_numpy()
    missing = not_asked(table["not_asked"], recipe.scorers)
    fails = {
        rule.name: ~rule.passes(table) & ~failed & ~_any([missing[name] for name in recipe.scorers_of(rule)], failed)
        for rule in recipe.parsed_rules()
    }
    left = ~failed & ~_any(list(fails.values()), failed)
    unasked = left & _any(list(missing.values()), failed)
    return Judged(failed, left & ~unasked, fails, unasked)


def not_asked(column: pa.ChunkedArray | pa.Array, scorers: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Scorer → bool (rows,), True for the images that it was not asked about."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    names, rows = pc.list_flatten(array), pc.list_parent_indices(array).to_numpy()
    found = {scorer: np.zeros(len(array), bool) for scorer in scorers}
    for scorer in scorers if len(names) else ():
        found[scorer][rows[pc.equal(names, scorer).to_numpy(zero_copy_only=False)]] = True
    return found


def partly_asked(column: pa.ChunkedArray | pa.Array, scorers: tuple[str, ...]) -> np.ndarray:
    """bool (rows,): images that one of these scorers at least was not asked about."""
    return _any(list(not_asked(column, scorers).values()), np.zeros(len(column), bool))


def _any(masks: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    return np.logical_or.reduce(masks) if masks else np.zeros_like(like)


def verdict_columns(table: pa.Table, judged: Judged, duplicate_of: pa.Array, recipe: Recipe) -> dict[str, pa.Array]:
    """The columns `verdict, reasons, duplicate_of, num_persons, largest_person_px` of a manifest.

    `duplicate_of` holds the uid of the kept image each row repeats, "" for none.
    """
    duplicate = pc.not_equal(duplicate_of, "").to_numpy(zero_copy_only=False)
    kept = judged.passes & ~duplicate
    return {
        "verdict": verdicts(judged.failed, kept),
        "reasons": _reasons(judged.fails | {DUPLICATE: duplicate}, len(kept)),
        "duplicate_of": pa.array(duplicate_of, pa.string()),
        **person_columns(table, recipe),
    }


def verdicts(failed: np.ndarray, kept: np.ndarray) -> pa.Array:
    """Two bool arrays → kept | rejected | failed."""
    return pc.if_else(pa.array(failed), "failed", pc.if_else(pa.array(kept), "kept", "rejected"))


def person_columns(table: pa.Table, recipe: Recipe) -> dict[str, pa.Array]:
    """`num_persons` with score > people.min_score and the short side of the largest of them, in pixels.

    Null where the detector was not asked or the image failed.
    """
    boxes = flatten_boxes(table["person_boxes"])
    sure = boxes.score > recipe.people.min_score
    rows = boxes.row[sure]
    counts = np.bincount(rows, minlength=boxes.rows).astype(np.int32)
    largest = np.zeros(boxes.rows, np.float32)
    np.maximum.at(largest, rows, boxes.short_side[sure])
    missing = table["person_boxes"].is_null().to_numpy()
    return {
        "num_persons": pa.array(counts, pa.int32(), mask=missing),
        "largest_person_px": pa.array(largest, pa.float32(), mask=missing),
    }


def _reasons(fails: dict[str, np.ndarray], rows: int) -> pa.Array:
    """Per row the names of the rules that fail, in recipe order, as Arrow list<string>."""
    names = np.array(list(fails))
    matrix = np.stack(list(fails.values()), axis=1)
    offsets = np.concatenate([[0], np.cumsum(matrix.sum(axis=1))]).astype(np.int32)
    flat = names[np.nonzero(matrix)[1]]
    assert len(offsets) == rows + 1
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat.tolist(), pa.string()))
