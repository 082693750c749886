"""Which pictures the page groups under which heading, and the one line under each."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curation.decide import DUPLICATE
from curation.recipe import Recipe
from curation.report.cards import Card, cards
from curation.report.tally import Border, RuleCount, Tally
from curation.report.thresholds import Line, lines
from manifests.account import numbered
from manifests.scan import numbers_where, rows_at
from manifests.store import Store


@dataclass(frozen=True)
class Shown:
    """A card and the line under its picture."""

    card: Card
    note: str


@dataclass(frozen=True)
class Edge:
    """The images nearest to one line of one rule, on either side of it."""

    line: Line
    kept: tuple[Shown, ...]
    dropped: tuple[Shown, ...]


@dataclass(frozen=True)
class Rejected:
    """Some of the images that one rule rejects."""

    rule: RuleCount
    columns: tuple[str, ...]  # whose values the lines under the pictures give, in this order
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Pair:
    """An image left out and the kept one that it repeats."""

    repeat: Card
    original: Card

    @property
    def difference(self) -> str:
        """How far apart the two are."""
        if self.repeat.uid == self.original.uid:
            return "same bytes"
        if self.repeat.phash is None or self.original.phash is None:
            return "left out"
        return numbered((self.repeat.phash ^ self.original.phash).bit_count(), "bit differs", "bits differ")


@dataclass(frozen=True)
class Galleries:
    """Every picture on the page. `edges` go by column."""

    kept: tuple[Shown, ...]
    rejected: tuple[Rejected, ...]
    edges: Mapping[str, tuple[Edge, ...]]
    pairs: tuple[Pair, ...]


def galleries(store: Store, recipe: Recipe, counts: Tally) -> Galleries:
    """Read and shrink the pictures of the rows that `counts` picked."""
    repeats = originals(store, counts.rejected_rows.get(DUPLICATE, ()))
    numbers = {*counts.kept_rows, *repeats, *repeats.values()}
    numbers.update(*counts.rejected_rows.values(), *((*b.kept, *b.dropped) for b in counts.borders))
    made = cards(store, recipe, numbers)
    rules = [rule for rule in counts.rules if rule.fails and rule.name != DUPLICATE]
    return Galleries(
        kept=tuple(Shown(made[number], made[number].people) for number in counts.kept_rows),
        rejected=tuple(_rejected(rule, counts, made, recipe) for rule in rules),
        edges=_edges(counts, made),
        pairs=tuple(Pair(made[number], made[original]) for number, original in repeats.items()),
    )


def originals(store: Store, numbers: tuple[int, ...]) -> dict[int, int]:
    """Row number of a repeat → that of the kept image with the uid it names; repeats of one that could not be read
    again when it was packed are left out."""
    if not numbers:
        return {}
    named = {number: row["duplicate_of"] for number, row in rows_at(store, numbers).items()}
    uids = pa.array(sorted(set(named.values())), pa.string())

    def is_original(batch: pa.RecordBatch) -> pa.BooleanArray:
        return pc.and_(pc.equal(batch["verdict"], "kept"), pc.is_in(batch["uid"], value_set=uids))

    kept = rows_at(store, list(numbers_where(store, ["uid", "verdict"], is_original)))
    by_uid = {row["uid"]: number for number, row in kept.items()}
    return {number: by_uid[uid] for number, uid in named.items() if uid in by_uid}


def _rejected(rule: RuleCount, counts: Tally, made: dict[int, Card], recipe: Recipe) -> Rejected:
    columns = list(dict.fromkeys(line.column for line in lines(recipe) if line.rule == rule.name))
    some = [made[number] for number in counts.rejected_rows[rule.name]]
    return Rejected(rule, tuple(columns), tuple(Shown(card, _values(card, columns)) for card in some))


def _edges(counts: Tally, made: dict[int, Card]) -> dict[str, tuple[Edge, ...]]:
    edges: dict[str, tuple[Edge, ...]] = {}
    for border in counts.borders:
        edges[border.line.column] = (*edges.get(border.line.column, ()), _edge(border, made))
    return edges


def _edge(border: Border, made: dict[int, Card]) -> Edge:
    kept, dropped = (
        tuple(Shown(made[number], made[number].score(border.line.column)) for number in side)
        for side in (border.kept, border.dropped)
    )
    return Edge(border.line, kept, dropped)


def _values(card: Card, columns: list[str]) -> str:
    return " · ".join(card.score(column) for column in columns)
