import numpy as np
import pyarrow as pa
import pytest

from curation.rules import Rule, RuleError
from manifests.schema import BOXES

SETTINGS = {"people.min_score": 0.9}


def box(x1: float, y1: float, score: float) -> dict[str, float]:
    return {"x0": 0.0, "y0": 0.0, "x1": x1, "y1": y1, "score": score}


TABLE = pa.table(
    {
        "pwatermark": pa.array([0.125, 0.5, None], pa.float32()),
        "width": pa.array([400, 300, 200], pa.int32()),
        "height": pa.array([300, 500, 100], pa.int32()),
        "license": pa.array(["cc0", None, "by"]),
        "person_boxes": pa.array([[box(310, 400, 0.95), box(50, 60, 0.99)], [], None], BOXES),
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pwatermark < 0.5", [True, False, False]),
        ("pwatermark != 0.125", [False, True, False]),
        ("min(width, height) >= 300", [True, True, False]),
        ("width / height > 1 and width > 250", [True, False, False]),
        ("width > 350 or height > 450", [True, True, False]),
        ("100 <= height < 500", [True, False, True]),
        ("license == 'cc0'", [True, False, False]),
        ("license != 'cc0'", [False, False, True]),
        ("license >= 'c'", [True, False, False]),
        ("license == 'by' or width > 350", [True, False, True]),
        ("persons(score > people.min_score, short_side > 300) >= 1", [True, False, False]),
        ("persons(score > 0.9) == 2", [True, False, False]),
        ("persons() < 1", [False, True, False]),
        ("width > -1", [True, True, True]),
    ],
)
def test_rules_over_a_table_where_a_missing_value_never_passes(text: str, expected: list[bool]) -> None:
    assert Rule("r", text, SETTINGS).passes(TABLE).tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "pwatermark <",
        "pwatermark",
        "width > 1 and pwatermark",
        "-" * 5000 + "width > 1",
        "__import__('os').system('x') == 0",
        "persons(colour > 1) > 0",
        "(width > 1) == 0",
        "(width > 1) + (height > 1) >= 2",
        "max(width > 1, 0) > 0",
        "persons((score > 1) == 0) > 0",
        "people.min_age > 3",
        "x[0] > 1",
        "a is b",
    ],
)
def test_what_is_not_allowed_is_named(text: str) -> None:
    with pytest.raises(RuleError, match="'r'"):
        Rule("r", text, SETTINGS)


def test_columns_are_those_of_the_image() -> None:
    rule = Rule("r", "pwatermark < 0.5 and persons(score > 0.9) >= 1 and max(width, 3) > 2", SETTINGS)
    assert rule.columns == ["person_boxes", "pwatermark", "width"]


def test_persons_count_agrees_with_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    rows = [
        [
            dict(zip(("x0", "y0", "x1", "y1", "score"), [0.0, 0.0, *(rng.random(2) * 500), rng.random()], strict=True))
            for _ in range(n)
        ]
        for n in rng.integers(0, 6, 200)
    ]
    table = pa.table({"person_boxes": pa.array(rows, BOXES)})
    stored = table["person_boxes"].to_pylist()
    expected = [sum(min(b["x1"], b["y1"]) > 200 and b["score"] > 0.5 for b in row) >= 2 for row in stored]
    assert Rule("r", "persons(score > 0.5, short_side > 200) >= 2").passes(table).tolist() == expected
