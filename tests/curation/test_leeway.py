"""What other limits on people would keep, beside verdicts worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from curation.leeway import leeway, leeway_text
from curation.recipe import load_recipe
from curation.record import load_record
from manifests.store import Store
from tests.curation.made_run import rejected, row, write_run


def person(score: float, short_side: float) -> dict[str, Any]:
    return {"x0": 0.0, "y0": 0.0, "x1": short_side, "y1": 600.0, "score": score}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Kept 1; for people alone 4 of whom two are small and two unsure; for other reasons, or not asked all, 2."""
    alone = [[person(0.95, 160)], [person(0.95, 60)], [person(0.6, 400)], [person(0.6, 160), person(0.2, 900)]]
    rows = [
        row("kept.jpg"),
        *(rejected(Path(f"{n}.jpg"), "person", person_boxes=boxes) for n, boxes in enumerate(alone)),
        rejected(Path("marked.jpg"), "watermark", "person", person_boxes=[person(0.6, 400)]),
        rejected(Path("lazy.jpg"), "person", person_boxes=[person(0.6, 400)], not_asked=["watermark"]),
    ]
    return write_run(tmp_path / "a run", rows)


def test_only_images_that_fail_nothing_else_are_counted(out: Path) -> None:
    found = leeway(Store(out), load_record(Store(out)).recipe)
    assert found is not None
    assert (found.alone, found.scores, found.sides) == (4, (0.9, 0.7, 0.5, 0.3), (300, 200, 150, 100))
    assert found.kept.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [2, 2, 4, 4], [2, 2, 4, 4]]


def test_the_table_names_a_command_that_can_be_pasted(out: Path) -> None:
    said = leeway_text(Store(out))
    assert said.startswith("4 rejected for people alone")
    assert "score > 0.5            2        2        4        4" in said
    assert f"decide '{out}' --set people.min_score=0.5 --set people.min_short_side=150 && " in said
    assert said.endswith(f" && sapiens-curate pack '{out}' && sapiens-curate report '{out}'")


def test_nothing_is_said_where_most_is_kept_or_people_are_not_asked_for(tmp_path: Path) -> None:
    assert leeway_text(Store(write_run(tmp_path / "kept", [row("a.jpg"), row("b.jpg")]))) == ""
    recipe = {"name": "plain", "scorers": ["quality"], "rules": {"blur": "blur > 300"}}
    other = write_run(tmp_path / "other", [rejected(Path("a.jpg"), "blur")], recipe=recipe)
    assert leeway_text(Store(other)) == ""


def test_the_command_names_other_limits_than_the_recipes(tmp_path: Path) -> None:
    recipe = load_recipe("humans300m", ["people.min_score=0.4", "people.min_short_side=60"]).model_dump(mode="json")
    unsure = [rejected(Path(f"{n}.jpg"), "person", person_boxes=[person(0.35, 400)]) for n in range(2)]
    said = leeway_text(Store(write_run(tmp_path / "out", [row("kept.jpg"), *unsure], recipe=recipe)))
    assert "--set people.min_score=0.3 --set people.min_short_side=60" in said
