"""The figures: drawn with matplotlib, saved as PNG or SVG, or put into a page in the page's own colours."""

import io
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from curation.errors import UsageError
from curation.report.histogram import Histogram
from manifests.people import HUMANS_300M, LABELS, PeoplePerImage

INKS = {
    "ink": "#23211f",
    "muted": "#6f6a64",
    "line": "#d9d4cc",
    "bar": "#c8c2b8",
    "kept": "#1b7a6e",
    "mark": "#b4470f",
}
"""Colours by role; in a page each becomes the CSS variable of that name, which follows light and dark."""
AS_TEXT: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "figure"}
CSS_PIXELS_PER_POINT = 4 / 3


def people_figure(people: PeoplePerImage) -> Figure:
    """Share of kept images by persons per image, beside Humans-300M's (arXiv 2408.12569, Fig. 2)."""
    first = 0 if people.kept[0] else 1
    here = [100 * share for share in people.kept_shares[first:]]
    paper = [100 * (share or 0) for share in HUMANS_300M[first:]]
    figure, axes = _axes(5.2, 2.4)
    places = np.arange(len(here))
    for bars in (
        axes.bar(places - 0.2, here, 0.36, color=INKS["kept"], label="kept here"),
        axes.bar(places + 0.2, paper, 0.36, color=INKS["bar"], label="Humans-300M (Sapiens, Fig. 2)"),
    ):
        texts = [f"{bar.get_height():.0f} %" if bar.get_height() else "" for bar in bars]
        axes.bar_label(bars, texts, padding=2, color=INKS["ink"])
    axes.set_xticks(places, LABELS[first:])
    axes.set_xlabel("persons in the image", color=INKS["muted"])
    axes.yaxis.set_major_locator(NullLocator())
    axes.set_ylim(0, 1.15 * max([*here, *paper]))
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, frameon=False, labelcolor=INKS["muted"])
    return figure


def histogram_figure(histogram: Histogram) -> Figure:
    """All decoded images in grey, kept ones in front, a line where a rule decides; square roots of counts."""
    figure, axes = _axes(4.6, 1.7)
    left, widths = histogram.edges[:-1], np.diff(histogram.edges)
    for counts, ink in ((histogram.decoded, "bar"), (histogram.kept, "kept")):
        axes.bar(left, counts, widths, align="edge", color=INKS[ink], linewidth=0)
    axes.set_xscale(**X_SCALES[histogram.column.scale])
    axes.set_xlim(histogram.edges[0], histogram.edges[-1])
    ticks = _x_ticks(histogram)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    top = max(1, int(histogram.decoded.max()))
    axes.set_yscale("function", functions=(_root, np.square))
    axes.set_ylim(0, 1.3 * top)
    axes.set_yticks([top], [f"{top:,}"])
    for line in histogram.lines:
        _mark(axes, line.value, f"{line.op} {line.value:g}")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write .svg, .png or .pdf, as the name says. Raises UsageError where it says something else."""
    if path.suffix not in {".svg", ".png", ".pdf"}:
        raise UsageError(f"cannot draw {path}: give a name that ends in .svg, .png or .pdf")
    with mpl.rc_context(AS_TEXT):
        figure.savefig(path, dpi=200, facecolor="white", bbox_inches="tight")


def inline_svg(figure: Figure, title: str) -> Markup:
    """An `<svg>` element for a page: text stays text, colours are CSS variables, no ids that could clash."""
    buffer = io.StringIO()
    with mpl.rc_context(AS_TEXT):
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.02, metadata=no_metadata
        )
    text = buffer.getvalue()
    view_box = re.search(r'viewBox="([^"]*)"', text)
    assert view_box
    width = float(view_box[1].split()[2]) * CSS_PIXELS_PER_POINT
    body = text[text.index(">", view_box.end()) + 1 :]
    for part in (r"<defs>.*?</defs>", r' id="[^"]*"', r' clip-path="[^"]*"'):  # nothing here needs clipping
        body = re.sub(part, "", body, flags=re.DOTALL)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    for ink, color in INKS.items():
        body = body.replace(color, f"var(--{ink})")
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="{view_box[1]}" style="width: {width:.0f}px">'
    return Markup(head + body)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INKS["line"])
    axes.tick_params(left=False, bottom=False, colors=INKS["muted"])
    return figure, axes


def _mark(axes: Axes, value: float, text: str) -> None:
    """A dashed line at `value`, at the axis' end where it lies beyond, with its text where there is room."""
    first, last = axes.get_xlim()
    value = min(max(value, first), last)  # 0 is a thousand decades away on a log axis
    axes.axvline(value, ymax=0.97, color=INKS["mark"], linewidth=1.2, dashes=(3, 2))
    low, high = axes.transData.transform([(axes.get_xlim()[0], 0), (axes.get_xlim()[1], 0)])[:, 0]
    here = axes.transData.transform((value, 0))[0]
    to_the_left = here > (low + high) / 2
    axes.annotate(
        text,
        (value, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if to_the_left else 4, 0),
        textcoords="offset points",
        ha="right" if to_the_left else "left",
        va="top",
        color=INKS["mark"],
    )


def _x_ticks(histogram: Histogram) -> list[float]:
    low, high = histogram.edges[0], histogram.edges[-1]
    match histogram.column.scale:
        case "sqrt":
            return [low + (high - low) * part for part in (0, 0.02, 0.1, 0.25, 0.5, 1)]
        case "log":
            steps = [step * 10.0**power for power in range(-6, 9) for step in (1, 3)]
            return [step for step in steps if low <= step <= high]
        case _:
            return [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))


X_SCALES: dict[str, dict[str, Any]] = {
    "linear": {"value": "linear"},
    "sqrt": {"value": "function", "functions": (_root, np.square)},
    "log": {"value": "log"},
}
