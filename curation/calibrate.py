"""How good is a score, and where should its line be? Precision and recall over thresholds, from labels made by hand."""

from collections import Counter
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from curation.errors import UsageError
from curation.labelling.scores import Question, Scores, find_question, read_scores, threshold_in
from curation.recipe import Recipe, from_dict
from curation.record import load_record
from curation.report.columns import BEST_PERSON
from curation.report.thresholds import lines, moved
from manifests.store import Store

Z = 1.959964  # of a two-sided interval at 95 %
SHOWN = 15  # rows of the table
FOUND_AT = (0.0, 1.0)


@dataclass(frozen=True)
class Share:
    """`of` out of `total`, with its Wilson interval at 95 % (E. B. Wilson, JASA 22, 1927)."""

    of: int
    total: int

    @property
    def value(self) -> float:
        return self.of / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        if not self.total:
            return FOUND_AT
        n, p = self.total, self.value
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:6.3f} [{low:.3f}, {high:.3f}]"


@dataclass(frozen=True)
class Point:
    """What saying yes to every score of at least `threshold` would mean."""

    threshold: float
    precision: Share
    recall: Share


@dataclass(frozen=True)
class Calibration:
    """Every threshold that changes an answer, low to high; `now` is the recipe's own, None where it has none; `over`:
    only a score above that says yes.
    """

    question: Question
    labelled: int
    positives: int
    points: tuple[Point, ...]
    now: float | None
    over: bool = False

    @property
    def average_precision(self) -> float:
        """Area under precision over recall, as steps."""
        area, last = 0.0, 0.0
        for point in reversed(self.points):
            area += (point.recall.value - last) * point.precision.value
            last = point.recall.value
        return area

    def at_precision(self, wanted: float) -> Point:
        """The lowest threshold whose precision is at least `wanted`: it finds the most. Raises UsageError."""
        good = [point for point in self.points if point.precision.value >= wanted]
        if not good:
            best = max(self.points, key=lambda point: point.precision.value)
            raise UsageError(
                f"no threshold of {self.question.column} reaches a precision of {wanted:g}; "
                f"the best is {best.precision.value:.3f} at {best.threshold:.4g}"
            )
        return good[0]

    def at_recall(self, wanted: float) -> Point:
        """The highest threshold that still finds a share of at least `wanted`. Raises UsageError."""
        enough = [point for point in self.points if point.recall.value >= wanted]
        if not enough:
            raise UsageError(
                f"no threshold of {self.question.column} finds {wanted:g} of them; the most is "
                f"{self.points[0].recall.value:.3f}, as nobody was seen in the others"
            )
        return enough[-1]

    def table(self) -> str:
        """Thresholds spread evenly over the recall, the recipe's own marked."""
        step = max(1, len(self.points) // SHOWN)
        chosen = {*self.points[::step], self.points[-1]}
        if self.now is not None:
            chosen.add(point_at(self, self.now))
        head = f"{self.question.column}: {self.labelled} labelled, {self.positives} of them yes"
        lines_of = [
            head + f"; average precision {self.average_precision:.3f}",
            "  threshold  precision [95 %]          recall [95 %]",
        ]
        for point in sorted(chosen, key=lambda point: point.threshold):
            mark = "  ← the recipe's" if self.now is not None and point == point_at(self, self.now) else ""
            lines_of.append(f"  {point.threshold:9.4g}  {point.precision}  {point.recall}{mark}")
        return "\n".join(lines_of)

    def save_plot(self, path: Path) -> None:
        """Precision and recall over the threshold with their intervals: .png, .svg or .pdf. Raises UsageError."""
        from matplotlib.figure import Figure

        from curation.report.figures import save

        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        at = [point.threshold for point in self.points]
        for name, colour in (("precision", "#17836f"), ("recall", "#b3541e")):
            shares = [getattr(point, name) for point in self.points]
            axes.plot(at, [share.value for share in shares], color=colour, label=name)
            low, high = zip(*(share.interval for share in shares), strict=True)
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        if self.now is not None:
            axes.axvline(self.now, color="0.4", linestyle=":", label="the recipe's threshold")
        axes.set(xlabel=f"threshold of {self.question.column}", ylim=(0, 1.02))
        axes.set_title(f"{self.labelled} labelled, {self.positives} yes; bands are 95 % intervals", fontsize=9)
        axes.legend(loc="lower left", frameon=False)
        save(figure, path)


def calibrate(name: str, labels: Path, out: str) -> Calibration:
    """Judge the score that answers question `name` in the folder `out` by a CSV of labels. Raises UsageError."""
    store = Store(out)
    recipe = load_record(store).recipe
    question = find_question(name, recipe)
    truth, values = joined(read_labels(labels, question.name), read_scores(store, question))
    points = tuple(curve(truth, values))
    if question.column == BEST_PERSON and points[0].threshold <= 0:
        points = points[1:]  # a person that was not found is over no threshold
    if not points:
        raise UsageError(f"nobody was found on any of the {len(truth)} labelled images")
    over = any(line.column == question.column and line.op in {">", "<="} for line in lines(recipe))
    return Calibration(question, len(truth), int(truth.sum()), points, threshold_in(recipe, question), over)


def read_labels(path: Path, question: str) -> pd.DataFrame:
    """A CSV with the columns `label` (1 yes, 0 no) and `uid` or `uri`, and perhaps `question`, of which only this one's
    rows count; other columns are ignored. Raises UsageError."""
    try:
        table = pd.read_csv(path, dtype={"uid": str, "uri": str})
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a CSV of labels: {error}") from None
    by = next((name for name in ("uid", "uri") if name in table), None)
    if by is None or "label" not in table:
        given = ", ".join(map(str, table.columns))
        raise UsageError(f"{path} must have the columns `label` and `uid` or `uri`; it has {given}")
    if "question" in table:
        about = sorted(map(str, table["question"].dropna().unique()))
        if about and question not in about:
            raise UsageError(f"{path} holds answers about {', '.join(about)}, none about {question}; label these first")
        table = table[table["question"] == question] if about else table
    table = table.drop_duplicates(by, keep="last").dropna(subset=["label", by])
    labels = pd.to_numeric(table["label"], errors="coerce")
    if len(wrong := table["label"][~labels.isin([0, 1])]):
        raise UsageError(f"{path}: labels are 0 (no) and 1 (yes), not {wrong.iloc[0]!r}")
    return table.assign(label=labels)


def joined(labels: pd.DataFrame, scores: Scores) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Truth and score of every labelled image that has one. Raises UsageError where there are not both kinds."""
    by = "uid" if "uid" in labels else "uri"
    if by == "uri" and not _of_several(scores).isdisjoint(labels["uri"]):
        raise UsageError("the labels' `uri` is that of a tar with several images; tell them apart by a column `uid`")
    place = {name: row for row, name in enumerate(scores.uids if by == "uid" else scores.uris)}
    rows = [place.get(name, -1) for name in labels[by]]
    known = np.array([row >= 0 and np.isfinite(scores.values[row]) for row in rows], dtype=bool)
    truth = labels["label"].to_numpy() == 1
    if known.sum() == 0:
        raise UsageError(
            f"none of the {len(labels)} labelled images has this score in this folder; they are told apart by {by}"
        )
    if truth[known].all() or not truth[known].any():
        raise UsageError(f"all {known.sum()} labels say {int(truth[known][0])}: precision and recall need both kinds")
    return truth[known], scores.values[np.array(rows)[known]]


def _of_several(scores: Scores) -> set[str]:
    """The URIs under which different images lie: those of tars."""
    images = {(uri, uid) for uri, uid in zip(scores.uris, scores.uids, strict=True) if uid}
    return {uri for uri, number in Counter(uri for uri, _ in images).items() if number > 1}


def curve(truth: NDArray[np.bool_], values: NDArray[np.float64]) -> list[Point]:
    """One point for each distinct score, low to high."""
    order = np.argsort(values, kind="stable")
    truth, values = truth[order], values[order]
    firsts = np.flatnonzero(np.r_[True, values[1:] > values[:-1]])
    found = np.r_[np.cumsum(truth[::-1])[::-1], 0]
    positives = int(truth.sum())
    return [
        Point(float(values[i]), Share(int(found[i]), len(truth) - int(i)), Share(int(found[i]), positives))
        for i in firsts
    ]


def point_at(calibration: Calibration, threshold: float) -> Point:
    """The point that the recipe's line at a threshold amounts to: that of the lowest score that it says yes to."""
    over = calibration.over
    above = [p for p in calibration.points if p.threshold > threshold or (p.threshold == threshold and not over)]
    return above[0] if above else Point(threshold, Share(0, 0), Share(0, calibration.positives))


def with_threshold(recipe: Recipe, question: Question, threshold: float) -> Recipe:
    """The recipe with its line through the question's score where a score of `threshold`, too, says yes. Raises
    UsageError where a rule asks for the score in another form.
    """
    line = next((line for line in lines(recipe) if line.column == question.column), None)
    below = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
    value = threshold if (line.op if line else "<") in {"<", ">="} else below
    values = recipe.model_dump(mode="json")
    if question.column == BEST_PERSON:
        values["people"]["min_score"] = value
    if line is None and question.column != BEST_PERSON:
        for rule in recipe.parsed_rules():
            if rule.name == question.name or question.column in rule.columns:
                raise UsageError(
                    f"rule {rule.name!r}, {rule.text!r}, has no line `{question.column} < number` that could be moved; "
                    "write it so, then calibrate again"
                )
        values["rules"][question.name] = f"{question.column} < {value!r}"
    rules = {rule.name: rule for rule in recipe.parsed_rules()}
    if line is not None and "people.min_score" not in rules[line.rule].text:
        values["rules"][line.rule] = moved(rules[line.rule], line, value)
    return from_dict(values, recipe.name)
