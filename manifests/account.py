"""Accounting: every input is kept, rejected or failed, once."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from manifests.schema import VERDICTS


def numbered(number: int, thing: str, things: str = "", form: str = "") -> str:
    """`1 photo`, `2 photos`, `3 people` of person and people; `form` "," makes it `3,000 people`."""
    return f"{number:{form}} {thing if number == 1 else things or f'{thing}s'}"


@dataclass(frozen=True)
class Counts:
    """Inputs by verdict. `balanced` is the promise of the whole project."""

    inputs: int = 0
    kept: int = 0
    rejected: int = 0
    failed: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.inputs + other.inputs,
            self.kept + other.kept,
            self.rejected + other.rejected,
            self.failed + other.failed,
        )

    @property
    def balanced(self) -> bool:
        return self.kept + self.rejected + self.failed == self.inputs

    def __str__(self) -> str:
        return f"{self.kept} kept + {self.rejected} rejected + {self.failed} failed = {numbered(self.inputs, 'input')}"


class Unbalanced(Exception):
    """Some input has no verdict, or more than one; nothing is committed."""


def count(table: pa.Table, inputs: int) -> Counts:
    """Count a manifest table's verdicts against the number of inputs it must hold; raises Unbalanced."""
    tally = {item["values"]: item["counts"] for item in pc.value_counts(table["verdict"]).to_pylist()}
    counts = Counts(inputs, *(tally.get(verdict, 0) for verdict in VERDICTS))
    if not counts.balanced or table.num_rows != inputs:
        raise Unbalanced(
            f"{counts.kept} kept + {counts.rejected} rejected + {counts.failed} failed is not {inputs} inputs"
        )
    return counts
