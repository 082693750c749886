"""The one pass over the manifest, against plain Python over all rows at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.errors import UsageError
from curation.recipe import Recipe, load_recipe
from curation.report import tally as tally_module
from curation.report.columns import KNOWN, SIDES, Column
from curation.report.histogram import BINS, bin_edges
from curation.report.picks import Smallest, spread
from curation.report.tally import tally
from manifests import scan
from manifests.store import Store
from tests.curation.made_run import RECIPE, failed_row, row, write_run


def random_rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    rows = []
    for number in range(count):
        if rng.random() < 0.1:
            kind = ["DamagedImage: at byte 7: ends", "EmptyFile: the file has 0 bytes"][int(rng.integers(2))]
            rows.append(failed_row(f"/{number}.jpg", "failed_to_decode", kind))
            continue
        watermark, art, score, side = (float(np.float32(value)) for value in rng.random(4))
        box = {"x0": 0.0, "y0": 0.0, "x1": 1000 * side, "y1": 2000.0, "score": score}
        person = score > 0.9 and 1000 * side > 300
        fails = {"watermark": watermark >= 0.5, "art": art >= 0.5, "person": not person}
        reasons = [name for name, failed in fails.items() if failed]
        values = {"pwatermark": watermark, "partistic": art, "person_boxes": [box], "num_persons": int(score > 0.9)}
        verdict = "rejected" if reasons else "kept"
        px = 1000 * side if score > 0.9 else 0.0
        rows.append(row(f"/{number}.jpg", verdict=verdict, reasons=reasons, largest_person_px=px, **values))
    return rows


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "BATCH_ROWS", 37)


@pytest.mark.usefixtures("small_batches")
def test_counts_equal_those_over_all_rows(tmp_path: Path) -> None:
    rows = random_rows(800)
    counts = tally(Store(write_run(tmp_path, rows, files=3)), Recipe(**RECIPE))
    judged = [one for one in rows if one["verdict"] != "failed"]
    assert counts.inputs == counts.kept + counts.rejected + counts.failed == 800
    assert counts.failed == 800 - len(judged)
    left = judged
    for rule in counts.rules:
        left = [one for one in left if rule.name not in one["reasons"]]
        assert rule.fails == sum(rule.name in one["reasons"] for one in judged)
        assert rule.fails_alone == sum(one["reasons"] == [rule.name] for one in judged)
        assert rule.left == len(left)
    assert counts.rules[-1].left == counts.kept > 0
    kinds = {failure.kind: failure.count for failure in counts.failures}
    assert set(kinds) == {"DamagedImage", "EmptyFile"}
    assert sum(kinds.values()) == counts.failed


@pytest.mark.usefixtures("small_batches")
def test_only_axes_without_limits_ask_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(tally_module, "value_range", lambda store, source: asked.append(source))
    write_run(tmp_path, [row("/a.jpg")])
    tally_module._Counting(Store(str(tmp_path)), load_recipe("humans300m"))
    assert set(asked) == {"blur", "largest_person_px"}


def test_histograms_hold_every_image_once(tmp_path: Path) -> None:
    rows = random_rows(500)
    counts = tally(Store(write_run(tmp_path, rows)), Recipe(**RECIPE))
    by_name = {histogram.column.name: histogram for histogram in counts.histograms}
    for histogram in by_name.values():
        assert histogram.decoded.sum() + histogram.missing == counts.decoded
        assert (histogram.kept <= histogram.decoded).all()
    watermark = by_name["pwatermark"]
    values = [one["pwatermark"] for one in rows if one["verdict"] != "failed"]
    np.testing.assert_array_equal(watermark.decoded, np.histogram(values, watermark.edges)[0])
    assert [line.text for line in watermark.lines] == ["pwatermark < 0.5"]
    assert by_name["person_score"].missing == 0
    assert "punsafe" not in by_name  # nobody asked for it


@pytest.mark.usefixtures("small_batches")
def test_borders_are_the_nearest_images_and_of_the_dropped_those_that_only_this_rule_drops(tmp_path: Path) -> None:
    rows = random_rows(800)
    counts = tally(Store(write_run(tmp_path, rows, files=2)), Recipe(**RECIPE))
    border = next(border for border in counts.borders if border.line.column == "pwatermark")
    kept = sorted((0.5 - one["pwatermark"], n) for n, one in enumerate(rows) if one["verdict"] == "kept")
    assert list(border.kept) == [number for _, number in kept[: len(border.kept)]]
    dropped = sorted(
        (len(one["reasons"]) > 1, one["pwatermark"] - 0.5, number)
        for number, one in enumerate(rows)
        if "watermark" in one["reasons"]
    )
    assert list(border.dropped) == [number for *_, number in dropped[: len(border.dropped)]]
    assert len(border.kept) == len(border.dropped) == 6


def test_a_manifest_decided_by_other_rules_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, [row("/a.jpg", verdict="rejected", reasons=["colour"])], files=1)
    with pytest.raises(UsageError, match=r"'colour'.*decide"):
        tally(Store(tmp_path), Recipe(**RECIPE))


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_smallest_is_the_head_of_the_sorted_whole(batch: int) -> None:
    rng = np.random.default_rng(2)
    ranks = rng.integers(0, 40, 1000).astype(float)  # many ties
    rows = np.arange(1000)
    pick = Smallest(12)
    for start in range(0, 1000, batch):
        pick.add(rows[start : start + batch], ranks[start : start + batch])
    assert pick.rows.tolist() == sorted(range(1000), key=lambda number: (ranks[number], number))[:12]


def test_spread_rows_lie_all_over_the_run() -> None:
    pick = Smallest(20)
    pick.add(np.arange(100_000), spread(np.arange(100_000)))
    gaps = np.diff([0, *sorted(pick.rows.tolist()), 100_000])
    assert gaps.max() < 3 * 100_000 / 20


@pytest.mark.parametrize("known", [*KNOWN, Column("stars", "Stars"), *SIDES], ids=lambda known: known.name)
@pytest.mark.parametrize("found", [None, (0.0, 0.0), (-3.0, 5.0), (0.2, 0.2), (1.0, 3e9)])
@pytest.mark.parametrize("marks", [[], [0.02], [-1.0, 400.0]])
def test_axes_always_run_upwards(known: Column, found: tuple[float, float] | None, marks: list[float]) -> None:
    edges = bin_edges(known, found, marks)
    assert len(edges) == BINS + 1
    assert (np.diff(edges) > 0).all()


def test_numbers_that_are_missing_or_infinite_count_as_missing(tmp_path: Path) -> None:
    rows = [row("/a.jpg"), row("/b.jpg", blur=None), row("/c.jpg", blur=float("inf")), row("/d.jpg", blur=float("nan"))]
    counts = tally(Store(write_run(tmp_path, rows)), Recipe(**RECIPE))
    blur = next(histogram for histogram in counts.histograms if histogram.column.name == "blur")
    assert (blur.decoded.sum(), blur.missing) == (1, 3)
