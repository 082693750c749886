"""bf16 changes scores a little, and no verdict of the demo's photos."""

from functools import partial
from pathlib import Path

import pytest

from curation import score, scorers
from curation.builtin import Builtin
from curation.demo import make_photos
from curation.recipe import load_recipe
from curation.report.cards import numbers_of
from curation.report.columns import BEST_PERSON
from curation.report.thresholds import lines
from curation.run import Workplace, curate
from manifests.scan import rows_at
from manifests.store import Store

SETTINGS = ["duplicates=near", "people.min_short_side=150", "people.min_score=0.45"]  # the demo's
TOLERANCE = {"pwatermark": 0.03, "partistic": 0.05, "punnatural": 0.05, "text_area_outside": 0.02, BEST_PERSON: 0.03}


def test_verdicts_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, recipe = make_photos(tmp_path / "photos"), load_recipe("humans300m", SETTINGS)
    runs = []
    for precision in ("auto", "fp32"):
        monkeypatch.setattr(scorers, "Builtin", partial(Builtin, precision=precision))
        score._scorers.cache_clear()
        counts = curate(str(photos), str(tmp_path / precision), recipe, place=Workplace(0))
        runs.append(rows_at(Store(tmp_path / precision), range(counts.inputs)))
    score._scorers.cache_clear()
    for quick, exact in zip(runs[0].values(), runs[1].values(), strict=True):
        if exact["verdict"] == "failed":
            assert quick["verdict"] == "failed"
            continue
        found, wanted = (numbers_of(row, lines(recipe)) for row in (quick, exact))
        for column, tolerance in TOLERANCE.items():
            assert found.get(column, 0.0) == pytest.approx(wanted.get(column, 0.0), abs=tolerance), exact["uri"]
        assert quick["verdict"] == exact["verdict"], exact["uri"]
