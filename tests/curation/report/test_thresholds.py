"""Rules as lines through the scores."""

import pytest

from curation.recipe import Recipe
from curation.report.thresholds import lines


def recipe(rule: str) -> Recipe:
    scorers = ("people", "watermark", "text", "style", "quality")
    return Recipe(name="r", scorers=scorers, rules={"rule": rule}, people={"min_score": 0.9, "min_short_side": 300})


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("pwatermark < 0.5", ["pwatermark < 0.5"]),
        ("exposure > 0.06 and exposure < 0.94", ["exposure > 0.06", "exposure < 0.94"]),
        ("min(width, height) >= 384", ["short_side >= 384"]),
        ("width >= 512", ["original_width >= 512"]),
        ("stars > -2", ["stars > -2"]),
        (
            "persons(score > people.min_score, short_side > people.min_short_side) >= 1",
            ["person_score > 0.9", "largest_person_px > 300"],
        ),
        ("license == 'cc0'", []),
        ("partistic < punnatural", []),
        ("persons(area > 9) >= 1", []),
        ("persons(score > 0.5) == 0", []),
        ("persons(score > 0.5) <= 1", []),
    ],
)
def test_lines_of_a_rule(rule: str, expected: list[str]) -> None:
    assert [line.text for line in lines(recipe(rule))] == expected


def test_lines_know_their_rule() -> None:
    both = Recipe(name="r", scorers=("style",), rules={"art": "partistic < 0.5", "odd": "punnatural < 0.4"})
    assert [(line.rule, line.value) for line in lines(both)] == [("art", 0.5), ("odd", 0.4)]
