"""One pass over a manifest: every count on the page, and the rows whose pictures will stand on it.

Memory does not grow with the number of rows: batches of 65,536, counters, and a few row numbers a gallery.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.decide import DUPLICATE, partly_asked
from curation.errors import UsageError
from curation.recipe import Recipe
from curation.record import other_recipe
from curation.report.columns import KNOWN, column, stored, values
from curation.report.histogram import Histogram, HistogramFiller
from curation.report.picks import Smallest, spread
from curation.report.thresholds import Line, lines
from curation.rules import COMPARE
from manifests.scan import batches, value_range
from manifests.store import Store

COMPARISONS = {symbol: compare for symbol, compare in COMPARE.values()}
PICTURES = 260
"""How many thumbnails a page holds at most, unless the recipe has over a hundred rules."""
FAILED_OF_A_KIND = 10
KINDS_OF_FAILURE = 30


@dataclass(frozen=True)
class RuleCount:
    """How one rule fared. `left` images remain after it and all rules before it. An image that was not asked
    everything counts for the rules that it is known to fail, and for none as the only one."""

    name: str
    text: str
    fails: int
    fails_alone: int
    left: int


@dataclass(frozen=True)
class Failure:
    """Inputs that failed alike: in the same stage, with the same class of error; `rows` are the first."""

    status: str
    kind: str
    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Border:
    """The rows nearest to a line: kept ones on its right side, rejected ones on its wrong side."""

    line: Line
    kept: tuple[int, ...]
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class Tally:
    """What the page says of a whole manifest."""

    inputs: int
    kept: int
    rejected: int
    failed: int
    unasked: int  # rejected before a lazy run had asked everything: what they say to later rules is not known
    rules: tuple[RuleCount, ...]
    histograms: tuple[Histogram, ...]
    failures: tuple[Failure, ...]
    other_failures: int  # of kinds beyond the KINDS_OF_FAILURE most frequent
    kept_rows: tuple[int, ...]
    rejected_rows: Mapping[str, tuple[int, ...]]  # by reason
    borders: tuple[Border, ...]

    @property
    def decoded(self) -> int:
        return self.kept + self.rejected


def tally(store: Store, recipe: Recipe) -> Tally:
    """Count everything. Raises UsageError where the manifest was decided by another recipe."""
    for batch in batches(store, ["recipe_hash"]):
        if pc.any(pc.not_equal(batch["recipe_hash"], recipe.hash)).as_py():
            raise other_recipe(store)
    counting = _Counting(store, recipe)
    for batch in batches(store, counting.columns):
        counting.add(batch)
    return counting.done()


class _Counting:
    def __init__(self, store: Store, recipe: Recipe) -> None:
        self.rules = {**recipe.rules}
        if recipe.duplicates != "off":  # decided after the rules
            self.rules[DUPLICATE] = recipe.duplicates
        self.lines = lines(recipe)
        self.scorers = recipe.scorers
        self.names = list(dict.fromkeys([*(known.name for known in KNOWN), *(line.column for line in self.lines)]))
        self.histograms = {name: HistogramFiller(column(name), _range(store, name), self.lines) for name in self.names}
        self.columns = ["verdict", "reasons", "not_asked", "status", "error_message", *stored(self.names)]
        self.row = 0
        self.verdicts: Counter[str] = Counter()
        self.unasked = 0
        self.fails = np.zeros(len(self.rules), np.int64)
        self.alone = np.zeros(len(self.rules), np.int64)
        self.first = np.zeros(len(self.rules), np.int64)
        self.failures: Counter[tuple[str, str]] = Counter()
        self.failed_rows: dict[tuple[str, str], list[int]] = {}
        galleries = 3 + len(self.rules) + len(self.lines)  # kept ones count twice, and so do duplicates
        each = max(2, min(12, PICTURES // galleries))
        self.kept_pick = Smallest(2 * each)
        self.rejected_picks = {name: Smallest(each) for name in self.rules}
        self.near_kept = [Smallest(each // 2) for _ in self.lines]
        self.near_dropped = [Smallest(each // 2) for _ in self.lines]

    def add(self, batch: pa.RecordBatch) -> None:
        rows = np.arange(self.row, self.row + batch.num_rows)
        self.row += batch.num_rows
        verdict = batch["verdict"].to_numpy(zero_copy_only=False)
        kept, rejected = verdict == "kept", verdict == "rejected"
        self.verdicts.update(kept=int(kept.sum()), rejected=int(rejected.sum()))
        failing = self._failing(batch["reasons"]) & rejected
        partly = partly_asked(batch["not_asked"], self.scorers)
        self.unasked += int(partly.sum())
        self._add_rules(failing, ~partly)
        self._add_failures(batch, rows, ~kept & ~rejected)
        self._pick(rows, kept, failing)
        for name, histogram in self.histograms.items():
            numbers = values(batch, name)
            histogram.add(numbers, kept | rejected, kept)
            self._pick_borders(name, numbers, rows, kept, failing)

    def _failing(self, reasons: pa.ListArray) -> np.ndarray:
        """bool (rules, rows): which rules each image failed."""
        failing = np.zeros((len(self.rules), len(reasons)), bool)
        flat = pc.list_flatten(reasons)
        codes = pc.index_in(flat, value_set=pa.array(list(self.rules), pa.string()))
        if codes.null_count:
            unknown = flat.filter(pc.is_null(codes))[0].as_py()
            raise UsageError(
                f"the manifest rejects images for {unknown!r}, which the recipe in run.json does not have; "
                "run `sapiens-curate decide` again"
            )
        failing[codes.to_numpy(), pc.list_parent_indices(reasons).to_numpy()] = True
        return failing

    def _add_rules(self, failing: np.ndarray, wholly_asked: np.ndarray) -> None:
        failed_by = failing.sum(axis=0)
        self.fails += failing.sum(axis=1)
        self.alone += (failing & (failed_by == 1) & wholly_asked).sum(axis=1)
        if self.rules:
            self.first += np.bincount(failing.argmax(axis=0)[failed_by > 0], minlength=len(self.rules))

    def _add_failures(self, batch: pa.RecordBatch, rows: np.ndarray, failed: np.ndarray) -> None:
        if not failed.any():
            return
        some = batch.filter(pa.array(failed))
        kinds = pc.replace_substring_regex(some["error_message"], r"(?s):.*", "")
        pairs = zip(some["status"].to_pylist(), kinds.to_pylist(), strict=True)
        for row, kind in zip(rows[failed].tolist(), pairs, strict=True):
            self.failures[kind] += 1
            first = self.failed_rows.setdefault(kind, [])
            if len(first) < FAILED_OF_A_KIND:
                first.append(row)

    def _pick(self, rows: np.ndarray, kept: np.ndarray, failing: np.ndarray) -> None:
        self.kept_pick.add(rows[kept], spread(rows[kept]))
        for pick, fails in zip(self.rejected_picks.values(), failing, strict=True):
            pick.add(rows[fails], spread(rows[fails]))

    def _pick_borders(
        self, name: str, numbers: np.ndarray, rows: np.ndarray, kept: np.ndarray, failing: np.ndarray
    ) -> None:
        """Nearest first; among the dropped, those that no other rule drops come before all others."""
        order = list(self.rules)
        for line, near_kept, near_dropped in zip(self.lines, self.near_kept, self.near_dropped, strict=True):
            if line.column != name:
                continue
            right = COMPARISONS[line.op](numbers, line.value)
            distance = np.abs(numbers - line.value)
            chosen = kept & right
            near_kept.add(rows[chosen], distance[chosen])
            dropped = failing[order.index(line.rule)] & ~right & ~np.isnan(numbers)
            crowded = (failing.sum(axis=0) > 1) * 1e12
            near_dropped.add(rows[dropped], (distance + crowded)[dropped])

    def done(self) -> Tally:
        kept, rejected = self.verdicts["kept"], self.verdicts["rejected"]
        left = (kept + rejected - np.cumsum(self.first)).tolist()
        counts = zip(self.rules.items(), self.fails.tolist(), self.alone.tolist(), left, strict=True)
        common = self.failures.most_common()
        failures = [Failure(*kind, count, tuple(self.failed_rows[kind])) for kind, count in common]
        picked = zip(self.lines, self.near_kept, self.near_dropped, strict=True)
        return Tally(
            inputs=self.row,
            kept=kept,
            rejected=rejected,
            failed=self.row - kept - rejected,
            unasked=self.unasked,
            rules=tuple(RuleCount(name, text, *numbers) for (name, text), *numbers in counts),
            histograms=tuple(filled for h in self.histograms.values() if (filled := h.done()).decoded.any()),
            failures=tuple(failures[:KINDS_OF_FAILURE]),
            other_failures=sum(failure.count for failure in failures[KINDS_OF_FAILURE:]),
            kept_rows=_in_order(self.kept_pick),
            rejected_rows={name: _in_order(pick) for name, pick in self.rejected_picks.items()},
            borders=tuple(Border(line, _nearest(kept), _nearest(dropped)) for line, kept, dropped in picked),
        )


def _in_order(pick: Smallest) -> tuple[int, ...]:
    return tuple(sorted(pick.rows.tolist()))


def _nearest(pick: Smallest) -> tuple[int, ...]:
    return tuple(pick.rows.tolist())


def _range(store: Store, name: str) -> tuple[float, float] | None:
    axis = column(name)
    if axis.low is not None and axis.high is not None:
        return None  # and no file need be asked
    ranges = [found for source in stored([name]) if (found := value_range(store, source))]
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None
