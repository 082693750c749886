"""Figures as files and as part of a page."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from curation.errors import UsageError
from curation.report.columns import KNOWN, column
from curation.report.figures import histogram_figure, inline_svg, people_figure, save
from curation.report.histogram import HistogramFiller
from curation.report.thresholds import Line
from manifests.people import PeoplePerImage

PEOPLE = PeoplePerImage((0, 30, 10, 10, 50), (90, 40, 20, 10, 60), 0, (100, 150, 200, 300, 400))


def filled(name: str, values: np.ndarray, line: float):
    filler = HistogramFiller(column(name), (float(values.min()), float(values.max())), [Line("rule", name, "<", line)])
    everything = np.ones(len(values), bool)
    filler.add(values, everything, values < line)
    return filler.done()


def words(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]


def test_people_figure_shows_both_shares() -> None:
    found = words(inline_svg(people_figure(PEOPLE), "People"))
    for text in ("30 %", "10 %", "50 %", "17 %", "14 %", "13 %", "56 %", "≥ 4"):
        assert text in found
    assert "0" not in found  # the recipe keeps no image without a person


def test_an_image_without_people_gets_its_bar_where_a_recipe_keeps_it() -> None:
    people = PeoplePerImage((50, 30, 10, 5, 5), (90, 40, 20, 10, 60), 0, ())
    assert "0" in words(inline_svg(people_figure(people), "People"))


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_histogram_figure_draws_the_line_where_it_is(known) -> None:
    values = np.random.default_rng(0).uniform(0.01, 0.99 if known.high == 1 else 900, 500)
    svg = inline_svg(histogram_figure(filled(known.name, values, 0.3 if known.high == 1 else 300)), known.title)
    assert f"< {0.3 if known.high == 1 else 300}" in words(svg)


@pytest.mark.parametrize(("name", "line"), [("largest_person_px", 0.0), ("blur", 0.0), ("pwatermark", 2.0)])
def test_a_line_beyond_the_axis_does_not_stretch_the_figure(name: str, line: float) -> None:
    """0 is a thousand decades away on a log axis."""
    values = np.random.default_rng(0).uniform(0.01, 0.99 if name == "pwatermark" else 900, 500)
    wide, plain = (inline_svg(histogram_figure(filled(name, values, at)), name) for at in (line, 0.5))
    width, usual = (float(re.findall(r'viewBox="0 0 ([0-9.]+)', svg)[0]) for svg in (wide, plain))
    assert width < 1.2 * usual


def test_inline_svg_follows_the_page() -> None:
    svg = inline_svg(histogram_figure(filled("pwatermark", np.linspace(0, 1, 100), 0.5)), 'a "title" <b>')
    assert 'aria-label="a &#34;title&#34; &lt;b&gt;"' in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)  # every colour is a variable of the page
    assert " id=" not in svg
    assert "url(" not in svg


def test_figures_are_saved_as_their_name_says(tmp_path: Path) -> None:
    save(people_figure(PEOPLE), tmp_path / "people.png")
    with Image.open(tmp_path / "people.png") as image:
        assert image.width > 800
    save(people_figure(PEOPLE), tmp_path / "people.svg")
    assert "<svg" in (tmp_path / "people.svg").read_text()
    with pytest.raises(UsageError, match=r"\.svg, \.png or \.pdf"):
        save(people_figure(PEOPLE), tmp_path / "people.doc")
