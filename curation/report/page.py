"""`report.html`: one file, without script or outside request, that shows what a run did to which pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from curation.recipe import to_yaml
from curation.record import RUN_FILE, load_record
from curation.report.cards import place_of
from curation.report.columns import Column
from curation.report.figures import histogram_figure, inline_svg, people_figure
from curation.report.galleries import Edge, Galleries, galleries
from curation.report.histogram import Histogram
from curation.report.tally import Failure, Tally, tally
from manifests.account import numbered
from manifests.people import HUMANS_300M, LABELS, people_per_image
from manifests.scan import rows_at
from manifests.store import Store

NAME = "report.html"
MESSAGE = 300
"""Characters of an error message that are shown."""


@dataclass(frozen=True)
class Section:
    """One column of scores: its histogram, what is at each line through it, and how many images lack it."""

    column: Column
    figure: Markup
    missing: int
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class FailedInput:
    """One input without an answer."""

    place: str
    message: str


@dataclass(frozen=True)
class FailedKind:
    """Inputs that failed alike, and the first of them."""

    kind: Failure
    inputs: tuple[FailedInput, ...]


def write_report(out: str | PathLike[str]) -> Path:
    """Write the page beside the manifest of a curated folder, whole or not at all, and return where it is.

    The page holds a bounded number of pictures and takes at most about 6 MB, whatever the number of rows.
    """
    store = Store(out)
    store.write_bytes(NAME, render(store).encode())
    return Path(store.full(NAME))


def render(store: Store) -> str:
    """The page as HTML text. Everything that came from the photos is escaped."""
    record = load_record(store)
    recipe = record.recipe
    counts = tally(store, recipe)
    pictures = galleries(store, recipe, counts)
    people = people_per_image(store)
    environment = Environment(
        loader=PackageLoader("curation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": _count,
        "numbered": partial(numbered, form=","),
        "percent": _percent,
        "duration": _duration,
    }
    return environment.get_template("page.html").render(
        run=record,
        versions=store.read_json(RUN_FILE)["versions"],
        recipe=recipe,
        recipe_text=to_yaml(recipe),
        counts=counts,
        people=people,
        people_rows=list(zip(LABELS, people.kept, people.decoded, HUMANS_300M, strict=True)),
        people_figure=inline_svg(people_figure(people), "Share of kept images by persons per image"),
        sections=list(_sections(counts, pictures)),
        pictures=pictures,
        failures=list(_failures(store, counts)),
    )


def _sections(counts: Tally, pictures: Galleries) -> Iterator[Section]:
    """Columns with a line through them first."""
    for histogram in sorted(counts.histograms, key=lambda h: not h.lines):
        title = f"Histogram: {histogram.column.title}. {_spoken(histogram)}"
        figure = inline_svg(histogram_figure(histogram), title)
        edges = pictures.edges.get(histogram.column.name, ())
        yield Section(histogram.column, figure, histogram.missing, edges)


def _spoken(histogram: Histogram) -> str:
    return " ".join(f"The rule {line.rule} wants {line.text}." for line in histogram.lines)


def _failures(store: Store, counts: Tally) -> Iterator[FailedKind]:
    rows = rows_at(store, [number for failure in counts.failures for number in failure.rows])
    for failure in counts.failures:
        inputs = (rows[number] for number in failure.rows)
        listed = (FailedInput(place_of(row), _message(row["error_message"])) for row in inputs)
        yield FailedKind(failure, tuple(listed))


def _message(text: str) -> str:
    """The text after the class of the error, which the heading gives."""
    return text.partition(": ")[2][:MESSAGE]


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(part: int, whole: int) -> str:
    """A share that says 0 % and 100 % only where it is."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if 99.9 < share < 100 else f"{share:.1f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
