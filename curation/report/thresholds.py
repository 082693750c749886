"""The lines that a recipe's rules draw through the scores: `pwatermark < 0.5` is a line at 0.5."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from curation.recipe import Recipe
from curation.report.columns import BEST_PERSON, LONG_SIDE, SHORT_SIDE
from curation.rules import COMPARE, Rule

PERSON_COLUMNS = {"score": BEST_PERSON, "short_side": "largest_person_px"}
IMAGE_COLUMNS = {"width": "original_width", "height": "original_height"}
IMAGE_SIDES = {"min(width, height)": SHORT_SIDE, "max(width, height)": LONG_SIDE}


@dataclass(frozen=True)
class Line:
    """An image is on the right side of this line of `rule` where `column op value` holds."""

    rule: str
    column: str
    op: str
    value: float

    @property
    def text(self) -> str:
        return f"{self.column} {self.op} {self.value:g}"


def lines(recipe: Recipe) -> list[Line]:
    """Every comparison of one number of an image with a constant, in recipe order."""
    return [line for rule in recipe.parsed_rules() for _, line in _lines(ast.parse(rule.text, mode="eval"), rule)]


def moved(rule: Rule, line: Line, value: float) -> str:
    """The text of a rule with one of its lines drawn at another value."""
    tree = ast.parse(rule.text, mode="eval")
    comparison = next(node for node, found in _lines(tree, rule) if found == line)
    comparison.comparators = [ast.Constant(value)]
    return ast.unparse(tree)


def _lines(tree: ast.Expression, rule: Rule) -> Iterator[tuple[ast.Compare, Line]]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "persons")
    inside = {id(node) for call in calls for node in ast.walk(call)}
    wanted = _where_more_people_pass(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARE:
            if id(node) in inside and id(node) not in wanted:
                continue
            column = _person_column(node.left) if id(node) in inside else _image_column(node.left)
            value = _number(node.comparators[0], rule)
            if column and value is not None:
                yield node, Line(rule.name, column, COMPARE[type(node.ops[0])][0], value)


def _where_more_people_pass(tree: ast.Expression) -> set[int]:
    """What stands left of a > or >=: persons(…) >= 1 asks for such a person. In persons(…) == 0 or <= 1 nobody's score
    draws a line between images.
    """
    return {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.Compare) and len(outer.ops) == 1 and isinstance(outer.ops[0], ast.Gt | ast.GtE)
        for inner in ast.walk(outer.left)
    }


def _person_column(left: ast.expr) -> str | None:
    return PERSON_COLUMNS.get(ast.unparse(left))


def _image_column(left: ast.expr) -> str | None:
    if isinstance(left, ast.Name):
        return IMAGE_COLUMNS.get(left.id, left.id)
    return IMAGE_SIDES.get(ast.unparse(left))


def _number(right: ast.expr, rule: Rule) -> float | None:
    if isinstance(right, ast.Attribute):
        return rule.settings.get(ast.unparse(right))
    try:
        value = ast.literal_eval(right)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
