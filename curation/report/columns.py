"""The numbers that the page draws: what each is called, how its axis runs, its values in a batch of rows."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BEST_PERSON = "person_score"
SHORT_SIDE = "short_side"
LONG_SIDE = "long_side"
MADE_FROM = {
    BEST_PERSON: ["person_boxes.list.element.score"],
    SHORT_SIDE: ["original_width", "original_height"],
    LONG_SIDE: ["original_width", "original_height"],
}
"""Numbers that are no manifest column, and the columns each is made from."""


@dataclass(frozen=True)
class Column:
    """One number of an image and its axis, which runs over the values there are without `low` and `high`."""

    name: str
    title: str
    scale: Literal["linear", "sqrt", "log"] = "linear"
    low: float | None = None
    high: float | None = None


KNOWN = (
    Column("pwatermark", "Watermark, probability", "linear", 0, 1),
    Column("text_area", "Text, share of the image", "sqrt", 0, 1),
    Column("text_area_outside", "Text beside people, share of the image", "sqrt", 0, 1),
    Column("partistic", "Art or drawing, probability", "linear", 0, 1),
    Column("punnatural", "Unnatural, probability", "linear", 0, 1),
    Column("punsafe", "Unsafe, probability", "linear", 0, 1),
    Column("blur", "Sharpness, variance of the Laplacian", "log", 1),
    Column("exposure", "Exposure, mean luminance", "linear", 0, 1),
    Column(BEST_PERSON, "Best person box, score", "linear", 0, 1),
    Column("largest_person_px", "Largest person, short side in pixels", "log", 16),
)
"""Drawn in this order, whether a rule looks at them or not."""

SIDES = (
    Column(SHORT_SIDE, "Image, short side in pixels", "log", 16),
    Column(LONG_SIDE, "Image, long side in pixels", "log", 16),
)


def column(name: str) -> Column:
    """The column of that name; one that a table source brought along is called by its own name."""
    return next((known for known in (*KNOWN, *SIDES) if known.name == name), Column(name, name))


def stored(names: list[str]) -> list[str]:
    """What to read from the manifest for these columns."""
    return list(dict.fromkeys(source for name in names for source in MADE_FROM.get(name, [name])))


def values(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """float64 (rows,); NaN where the image has no such number, as the size of the largest person of none."""
    if name == BEST_PERSON:
        return _highest(batch["person_boxes"])
    if name in {SHORT_SIDE, LONG_SIDE}:
        fold = np.fmin if name == SHORT_SIDE else np.fmax
        return fold(_floats(batch["original_width"]), _floats(batch["original_height"]))
    numbers = _floats(batch[name])
    return np.where(numbers > 0, numbers, np.nan) if name == "largest_person_px" else numbers


def _floats(array: pa.Array) -> np.ndarray:
    """float64 (rows,); infinite numbers, which no axis holds, count as missing like null."""
    numbers = pc.fill_null(pc.cast(array, pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _highest(boxes: pa.ListArray) -> np.ndarray:
    best = np.full(len(boxes), -np.inf)
    scores = pc.struct_field(pc.list_flatten(boxes), "score").to_numpy(zero_copy_only=False)
    np.maximum.at(best, pc.list_parent_indices(boxes).to_numpy(), scores)
    return np.where(np.isfinite(best), best, np.nan)
