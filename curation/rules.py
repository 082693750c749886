"""The small language of a recipe's rules: comparisons of columns, evaluated over whole tables at once.

    pwatermark < 0.5
    min(width, height) >= 384 and blur > 20
    persons(score > people.min_score, short_side > 300) >= 1
    license == 'cc0'

Columns are the manifest's, extra columns of a table source included; dotted names are the recipe's own settings.
A missing value never passes. Nothing is executed: the text is parsed and only the forms above are known.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Settings = Mapping[str, float]
COMPARE: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
FOLDS = {"min": np.minimum, "max": np.maximum}
PERSON_FIELDS = ("score", "width", "height", "short_side", "long_side", "area")
FORMS = (
    "comparisons (< <= > >= == !=) of columns, numbers, quoted text, + - * /, min(), max() "
    "and persons(condition, …), joined by `and` or `or`"
)


class RuleError(ValueError):
    """A rule that cannot be read, with the part that is wrong and what is allowed."""


@dataclass(frozen=True)
class Rule:
    """A parsed rule; `passes` evaluates it."""

    name: str
    text: str
    settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self._check_condition(self._tree, inside_persons=False)
        except RecursionError:
            raise RuleError(f"rule {self.name!r} is nested too deeply") from None

    @property
    def columns(self) -> list[str]:
        """Manifest columns the rule reads."""
        found: list[str] = []
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call) and _name(node.func) == "persons":
                found.append("person_boxes")
        inside = {id(n) for call in self._persons() for arg in call.args for n in ast.walk(arg)}
        calls = {id(node.func) for node in ast.walk(self._tree) if isinstance(node, ast.Call)}
        owners = {id(node.value) for node in ast.walk(self._tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Name) and not {id(node)} & (inside | calls | owners):
                found.append(node.id)
        return list(dict.fromkeys(found))

    def passes(self, table: pa.Table) -> np.ndarray:
        """bool (rows,): True where the rule holds. Raises RuleError where a column is of a type it cannot compare."""
        try:
            return np.asarray(_evaluate(self._tree, table, self.settings), dtype=bool)
        except (TypeError, ArithmeticError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            types = ", ".join(f"{name} is {table.schema.field(name).type}" for name in self.columns)
            raise RuleError(f"rule {self.name!r}: {self.text!r} cannot be worked out ({types}): {error}") from None

    @cached_property
    def _tree(self) -> ast.expr:
        try:
            return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise RuleError(
                f"rule {self.name!r}: {self.text!r} cannot be read ({error.msg}); allowed are {FORMS}"
            ) from None

    def _persons(self) -> list[ast.Call]:
        calls = (node for node in ast.walk(self._tree) if isinstance(node, ast.Call))
        return [call for call in calls if _name(call.func) == "persons"]

    def _check_condition(self, node: ast.expr, inside_persons: bool) -> None:
        """A rule, and what `and` and `or` join, must be comparisons: a bare column has no yes or no."""
        match node:
            case ast.BoolOp(values=values):
                for part in values:
                    self._check_condition(part, inside_persons)
            case ast.Compare():
                self._check(node, inside_persons)
            case _:
                raise RuleError(f"rule {self.name!r}: {ast.unparse(node)!r} is no comparison; allowed are {FORMS}")

    def _check(self, node: ast.expr, inside_persons: bool) -> None:
        match node:
            case ast.Compare(left=left, comparators=right) if all(type(op) in COMPARE for op in node.ops):
                parts = [left, *right]
            case ast.BinOp(left=left, right=right, op=op) if type(op) in ARITHMETIC:
                parts = [left, right]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                parts = [operand]
            case ast.Call(func=ast.Name(id="persons"), keywords=[]) if not inside_persons:
                for part in node.args:
                    self._check_condition(part, inside_persons=True)
                return
            case ast.Call(func=ast.Name(id="min" | "max"), args=[_, _, *_], keywords=[]):
                parts = node.args
            case ast.Name(id=name):
                if inside_persons and name not in PERSON_FIELDS:
                    raise RuleError(f"rule {self.name!r}: a person has no {name!r}; it has {', '.join(PERSON_FIELDS)}")
                return
            case ast.Attribute():
                if _dotted(node) not in self.settings:
                    known = ", ".join(self.settings) or "none"
                    raise RuleError(f"rule {self.name!r}: there is no setting {_dotted(node)!r}; settings are {known}")
                return
            case ast.Constant(value=bool() | int() | float() | str()):
                return
            case _:
                raise RuleError(f"rule {self.name!r}: {ast.unparse(node)!r} is not allowed; allowed are {FORMS}")
        for part in parts:
            if isinstance(part, ast.Compare):  # a missing value would be a no there, and `== 0` make it a yes
                raise RuleError(f"rule {self.name!r}: {ast.unparse(part)!r} is no value; allowed are {FORMS}")
            self._check(part, inside_persons)


def _evaluate(node: ast.expr, values: pa.Table | Mapping[str, np.ndarray], settings: Settings) -> Any:
    match node:
        case ast.BoolOp(op=op, values=parts):
            fold = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return fold.reduce(np.broadcast_arrays(*(_evaluate(part, values, settings) for part in parts)))
        case ast.Compare(left=left, ops=ops, comparators=rest):
            sides = [_evaluate(side, values, settings) for side in (left, *rest)]
            pairs = zip(sides[:-1], ops, sides[1:], strict=True)
            return np.logical_and.reduce(np.broadcast_arrays(*(_compare(type(op), a, b) for a, op, b in pairs)))
        case ast.BinOp(left=left, op=op, right=right):
            with np.errstate(divide="ignore", invalid="ignore"):
                return ARITHMETIC[type(op)](_evaluate(left, values, settings), _evaluate(right, values, settings))
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, values, settings)
        case ast.Call(func=ast.Name(id="persons"), args=conditions):
            assert isinstance(values, pa.Table)
            return count_persons(values["person_boxes"], conditions, settings)
        case ast.Call(func=ast.Name(id=name), args=args):
            return FOLDS[name].reduce(np.broadcast_arrays(*(_evaluate(a, values, settings) for a in args)))
        case ast.Name(id=name):
            return _column(values[name]) if isinstance(values, pa.Table) else values[name]
        case ast.Attribute():
            return settings[_dotted(node)]
        case ast.Constant(value=value):
            return value
    raise AssertionError(f"unchecked node {ast.dump(node)}")


def _compare(op: type[ast.cmpop], left: Any, right: Any) -> np.ndarray:
    if _is_text(left) != _is_text(right):
        raise TypeError("text is compared with a number; quote text, and only text")
    if _is_text(left):
        return _compare_text(op, left, right)
    result = np.asarray(COMPARE[op][1](left, right))
    if op is ast.NotEq:  # NaN differs from everything, yet a missing value never passes
        for side in (left, right):
            if isinstance(side, np.ndarray):
                result = result & (side == side)  # noqa: PLR0124
    return result.astype(bool)


def _compare_text(op: type[ast.cmpop], left: Any, right: Any) -> np.ndarray:
    """False where text is missing, which has no order."""
    left, right = np.broadcast_arrays(np.asarray(left, object), np.asarray(right, object))
    present = (left == left) & (right == right)  # noqa: PLR0124
    result = np.zeros(left.shape, bool)
    result[present] = COMPARE[op][1](left[present], right[present])
    return result


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype == object)


def _column(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers as float64 with NaN for missing, text as objects with NaN for missing."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array([np.nan if value is None else value for value in column.to_pylist()], dtype=object)
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()


@dataclass(frozen=True)
class FlatBoxes:
    """The boxes of many rows end to end: row number of each, and its sides and score in pixels and 0..1."""

    rows: int
    row: np.ndarray
    score: np.ndarray
    width: np.ndarray
    height: np.ndarray

    @property
    def short_side(self) -> np.ndarray:
        return np.minimum(self.width, self.height)


def flatten_boxes(column: pa.ChunkedArray) -> FlatBoxes:
    """Arrow list<struct> of boxes → flat arrays."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = pc.list_flatten(array)
    x0, y0, x1, y1, score = (flat.field(i).to_numpy(zero_copy_only=False) for i in range(5))
    return FlatBoxes(len(array), pc.list_parent_indices(array).to_numpy(), score, x1 - x0, y1 - y0)


def count_persons(column: pa.ChunkedArray, conditions: list[ast.expr], settings: Settings) -> np.ndarray:
    """How many boxes of each row meet all conditions; NaN where the row has no answer."""
    boxes = flatten_boxes(column)
    sides = {
        "score": boxes.score,
        "width": boxes.width,
        "height": boxes.height,
        "short_side": boxes.short_side,
        "long_side": np.maximum(boxes.width, boxes.height),
        "area": boxes.width * boxes.height,
    }
    meets = np.ones(len(boxes.row), dtype=bool)
    for condition in conditions:
        meets &= _evaluate(condition, sides, settings)
    counts = np.bincount(boxes.row[meets], minlength=boxes.rows).astype(np.float64)
    counts[column.is_null().to_numpy()] = np.nan
    return counts


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _dotted(node: ast.expr) -> str:
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else _name(node)
