"""Precision, recall and their intervals; the line for a wanted precision; the recipe that gets it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from curation.calibrate import Calibration, Share, calibrate, curve, point_at, with_threshold
from curation.errors import UsageError
from curation.labelling.scores import QUESTIONS
from curation.recipe import load_recipe
from manifests.schema import BOXES
from tests.curation.made_run import row, write_run


def test_the_interval_is_wilsons() -> None:
    low, high = Share(9, 10).interval  # Wilson (1927); checked by hand: (0.9 + 0.19207 ± …) / 1.38415
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-3)
    assert Share(0, 0).interval == (0.0, 1.0)


def test_points_count_what_a_threshold_would_say() -> None:
    truth = np.array([0, 1, 0, 1, 1], bool)
    values = np.array([0.1, 0.4, 0.4, 0.8, 0.9])
    points = curve(truth, values)
    assert [point.threshold for point in points] == [0.1, 0.4, 0.8, 0.9]
    assert [(p.precision.of, p.precision.total, p.recall.of) for p in points] == [
        (3, 5, 3),
        (3, 4, 3),
        (2, 2, 2),
        (1, 1, 1),
    ]


def test_a_csv_judges_a_run(made_run: Path, tmp_path: Path) -> None:
    found = calibrate("watermark", labels_of(made_run, tmp_path, above=0.3), str(made_run))
    assert found.at_precision(1.0).threshold == pytest.approx(0.3, abs=0.031)
    assert found.at_recall(1.0).recall.value == 1
    assert found.average_precision == pytest.approx(1)
    assert found.now == 0.5
    assert "← the recipe's" in found.table()
    found.save_plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    with pytest.raises(UsageError, match=r"a name that ends in \.svg, \.png or \.pdf"):
        found.save_plot(tmp_path / "plot.txt")


def test_of_a_csv_about_several_questions_the_answers_to_this_one_count(made_run: Path, tmp_path: Path) -> None:
    labels = labels_of(made_run, tmp_path, above=0.3)
    alone = calibrate("watermark", labels, str(made_run))
    marks = pd.read_csv(labels).assign(question="watermark")
    pd.concat([marks, marks.assign(question="people", label=1 - marks["label"])]).to_csv(labels)
    assert calibrate("watermark", labels, str(made_run)) == alone
    with pytest.raises(UsageError, match=r"holds answers about people, watermark, none about text; label these first"):
        calibrate("text", labels, str(made_run))


def test_people_are_judged_by_their_best_box(made_run: Path, tmp_path: Path) -> None:
    table = pd.read_parquet(made_run / "manifest")
    table = table[table["verdict"] != "failed"]
    labels = tmp_path / "people.csv"
    pd.DataFrame({"uri": table["uri"], "label": (table["person_boxes"].map(len) > 0).astype(int)}).to_csv(labels)
    found = calibrate("people", labels, str(made_run))
    assert found.at_recall(1.0).precision.value == 1


def test_the_line_goes_into_the_recipe() -> None:
    recipe = load_recipe("humans300m")
    assert with_threshold(recipe, QUESTIONS["watermark"], 0.25).rules["watermark"] == "pwatermark < 0.25"
    assert with_threshold(recipe, QUESTIONS["people"], 0.7).people.min_score == pytest.approx(0.7)
    safe = load_recipe("humans300m", ["scorers=[people, watermark, text, style, quality, fingerprint, safety]"])
    assert with_threshold(safe, QUESTIONS["safety"], 0.4).rules["safety"] == "punsafe < 0.4"


def test_the_line_that_is_written_says_yes_to_the_score_it_was_found_at() -> None:
    score = pa.array([0.1 + 0.2], pa.float32())
    found = score[0].as_py()
    marked = with_threshold(load_recipe("humans300m"), QUESTIONS["watermark"], found)
    assert not marked.parsed_rules()[0].passes(pa.table({"pwatermark": score})).any()
    box = {"x0": 0.0, "y0": 0.0, "x1": 400.0, "y1": 400.0, "score": found}
    table = pa.table({"person_boxes": pa.array([[box]], BOXES)})
    for text in ("persons(score > people.min_score) >= 1", "persons(score > 0.9) >= 1"):
        recipe = with_threshold(load_recipe("humans300m", [f"rules.person={text}"]), QUESTIONS["people"], found)
        assert recipe.parsed_rules()[-1].passes(table).all()


@pytest.mark.parametrize("op", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_ties_are_judged_as_the_line_judges_them(op: str, threshold: float) -> None:
    """Scores of exactly 0 are common: no writing at all. What a line is said to say is what it says."""
    values = np.array([0.0, 0.0, 0.0, 0.25, 0.25, 0.5, 0.75], np.float32)
    truth = np.array([0, 0, 1, 1, 0, 1, 1], bool)
    recipe = load_recipe("humans300m", [f"rules.text=text_area_outside {op} {threshold}"])
    table = pa.table({"text_area_outside": values})
    over = op in {">", "<="}
    said = Calibration(QUESTIONS["text"], 7, 4, tuple(curve(truth, values.astype(float))), threshold, over)
    (rule,) = (rule for rule in recipe.parsed_rules() if rule.name == "text")
    yes = rule.passes(table) if op.startswith(">") else ~np.asarray(rule.passes(table))
    point = point_at(said, threshold)
    assert (point.precision.total, point.precision.of) == (int(np.sum(yes)), int(truth[np.asarray(yes)].sum()))
    (moved,) = (r for r in with_threshold(recipe, QUESTIONS["text"], threshold).parsed_rules() if r.name == "text")
    yes = moved.passes(table) if op.startswith(">") else ~np.asarray(moved.passes(table))
    assert (np.asarray(yes) == (values >= threshold)).all()


def test_people_who_were_not_found_are_over_no_threshold(tmp_path: Path) -> None:
    run = tmp_path / "run"
    box = {"x0": 0.0, "y0": 0.0, "x1": 400.0, "y1": 400.0, "score": 0.6}
    write_run(run, [row(f"/{n}.jpg", person_boxes=[box] if n < 4 else []) for n in range(8)])
    labels = tmp_path / "people.csv"
    pd.DataFrame({"uri": [f"/{n}.jpg" for n in range(8)], "label": [1, 1, 1, 1, 1, 0, 0, 0]}).to_csv(labels)
    found = calibrate("people", labels, str(run))
    assert found.at_recall(0.8).recall.value == pytest.approx(0.8)
    with pytest.raises(UsageError, match=r"finds 0\.95 of them; the most is 0\.800"):
        found.at_recall(0.95)


def test_the_rest_of_a_rule_stays_when_its_line_moves() -> None:
    recipe = load_recipe("humans300m", ["rules.watermark=width > 500 and pwatermark < 0.3 and format == 'JPEG'"])
    rule = with_threshold(recipe, QUESTIONS["watermark"], 0.25).rules["watermark"]
    assert rule == "width > 500 and pwatermark < 0.25 and (format == 'JPEG')"


@pytest.mark.parametrize(
    "rule", ["marks=0.3 > pwatermark", "watermark=0.3 > pwatermark and blur > 20", "watermark=0 <= pwatermark < 0.3"]
)
def test_a_rule_without_a_line_that_could_move_is_neither_overwritten_nor_doubled(rule: str) -> None:
    recipe = load_recipe("humans300m", ["rules.watermark=off", f"rules.{rule}"])
    with pytest.raises(UsageError, match="has no line `pwatermark < number` that could be moved"):
        with_threshold(recipe, QUESTIONS["watermark"], 0.6)


def test_labels_by_the_uri_of_a_tar_are_refused(tmp_path: Path) -> None:
    rows = [row("x.tar", member=f"{n}.jpg", pwatermark=n / 10) for n in range(3)]
    out = write_run(tmp_path / "out", rows)
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"uri": [row["uri"] for row in rows], "label": [0, 1, 1]}).to_csv(labels)
    with pytest.raises(UsageError, match="of a tar with several images; tell them apart by a column `uid`"):
        calibrate("watermark", labels, str(out))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "must have the columns `label` and `uid` or `uri`; it has a, b"),
        ("uid,label\nx,2\n", r"labels are 0 \(no\) and 1 \(yes\), not .*2"),
        ("uid,label\nx,1\ny,skip\n", "labels are 0 .* not 'skip'"),
        ("uid,label\nx,1\n", "none of the 1 labelled images has this score in this folder"),
    ],
)
def test_labels_that_cannot_be_used_are_explained(made_run: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        calibrate("watermark", tmp_path / "labels.csv", str(made_run))


def test_a_precision_out_of_reach_is_said(made_run: Path, tmp_path: Path) -> None:
    labels = labels_of(made_run, tmp_path, above=0.3)
    table = pd.read_csv(labels)
    table["label"] = 1 - table["label"]
    table.to_csv(labels)
    with pytest.raises(UsageError, match=r"no threshold of pwatermark reaches a precision of 0\.99; the best is"):
        calibrate("watermark", labels, str(made_run)).at_precision(0.99)


def labels_of(run: Path, folder: Path, above: float) -> Path:
    """A CSV that calls every image marked whose score is at least `above`."""
    table = pd.read_parquet(run / "manifest").dropna(subset=["pwatermark"])
    labels = folder / "labels.csv"
    pd.DataFrame({"uri": table["uri"], "label": (table["pwatermark"] >= above).astype(int)}).to_csv(labels)
    return labels
