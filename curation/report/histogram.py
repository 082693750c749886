"""Histograms of one number over all images, filled batch after batch."""

from dataclasses import dataclass

import numpy as np

from curation.report.columns import Column
from curation.report.thresholds import Line

BINS = 50


@dataclass(frozen=True)
class Histogram:
    """`decoded`, `kept`: images (bins,) between `edges` (bins + 1,), what lies beyond in the end bins."""

    column: Column
    edges: np.ndarray
    decoded: np.ndarray
    kept: np.ndarray
    missing: int  # decoded images without this number
    lines: tuple[Line, ...]


class HistogramFiller:
    """The counts so far."""

    def __init__(self, column: Column, value_range: tuple[float, float] | None, lines: list[Line]) -> None:
        self.column = column
        self.lines = tuple(line for line in lines if line.column == column.name)
        self.edges = bin_edges(column, value_range, [line.value for line in self.lines])
        self.decoded = np.zeros(BINS, np.int64)
        self.kept = np.zeros(BINS, np.int64)
        self.missing = 0

    def add(self, values: np.ndarray, decoded: np.ndarray, kept: np.ndarray) -> None:
        """`values` float (rows,) with NaN for missing; `decoded` and `kept` bool (rows,)."""
        present = ~np.isnan(values)
        self.decoded += self._count(values[present & decoded])
        self.kept += self._count(values[present & kept])
        self.missing += int((decoded & ~present).sum())

    def done(self) -> Histogram:
        return Histogram(self.column, self.edges, self.decoded, self.kept, self.missing, self.lines)

    def _count(self, values: np.ndarray) -> np.ndarray:
        return np.histogram(np.clip(values, self.edges[0], self.edges[-1]), self.edges)[0]


def bin_edges(column: Column, value_range: tuple[float, float] | None, marks: list[float]) -> np.ndarray:
    """Edges (BINS + 1,) that hold all values and all marks, evenly spaced on the column's scale."""
    low, high = value_range or (0.0, 1.0)
    low, high = min([low, *marks]), max([high, *marks])
    low = low if column.low is None else column.low
    high = high if column.high is None else column.high
    if column.scale == "log":
        low = max(low, high * 1e-4, 1e-9)
        return np.geomspace(low, high if high > low else 10 * low, BINS + 1)
    steps = np.linspace(0, 1, BINS + 1)
    return low + (high - low if high > low else 1) * (steps**2 if column.scale == "sqrt" else steps)
