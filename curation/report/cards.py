"""What the page shows of one image: thumbnail with the people boxed, name, scores and verdict."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from curation.recipe import Recipe
from curation.report.columns import BEST_PERSON, KNOWN, LONG_SIDE, SHORT_SIDE
from curation.report.pictures import Located, Row, data_uri, locate, read_picture, thumbnail
from curation.report.tally import COMPARISONS
from curation.report.thresholds import Line, lines
from manifests.account import numbered
from manifests.store import Store

READERS = 4
"""Threads that read and decode; more would only help sources on a slow network."""
WORK_SIDE = 240


@dataclass(frozen=True)
class Box:
    """A person in pixels of the upright image. `counts` says whether its score is above people.min_score."""

    x: float
    y: float
    width: float
    height: float
    score: float
    counts: bool


@dataclass(frozen=True)
class Score:
    """One number of an image as text; `passes` is None where no rule looks at it."""

    column: str
    text: str
    passes: bool | None


@dataclass(frozen=True)
class Card:
    """One image on the page. `picture` is a data URI, "" where it could not be read, for the `problem`."""

    number: int
    uid: str
    name: str
    place: str
    width: int
    height: int
    verdict: str
    reasons: tuple[str, ...]
    scores: tuple[Score, ...]
    boxes: tuple[Box, ...]
    persons: int | None  # None where nobody was asked
    phash: int | None
    picture: str
    problem: str

    def score(self, column: str) -> str:
        """The number of that column as text, "none" where the image has none."""
        return next((score.text for score in self.scores if score.column == column), "none")

    @property
    def alt(self) -> str:
        """What a reader who does not see the picture is told."""
        return f"{self.name}, {self.width} × {self.height} pixels, {self.people}, {self.verdict}"

    @property
    def people(self) -> str:
        """How many persons score high enough to count."""
        if self.persons is None:
            return "people not counted"
        return numbered(self.persons, "person") if self.persons else "no person"


def cards(store: Store, recipe: Recipe, numbers: Iterable[int]) -> dict[int, Card]:
    """Row number → its card."""
    found = locate(store, sorted(set(numbers)))
    rules = lines(recipe)
    with ThreadPoolExecutor(READERS) as pool:
        made = pool.map(lambda at: _card(store, recipe, rules, at), found.values())
        return {card.number: card for card in made}


def numbers_of(row: Row, rules: list[Line]) -> dict[str, float]:
    """Every number of a row that is drawn or ruled on and that is there, by column."""
    sides = [side for side in (row["original_width"], row["original_height"]) if side]
    made = {
        BEST_PERSON: max((box["score"] for box in row["person_boxes"] or ()), default=None),
        SHORT_SIDE: min(sides, default=None),
        LONG_SIDE: max(sides, default=None),
    }
    names = [*(column.name for column in KNOWN), *(line.column for line in rules)]
    values = {name: made[name] if name in made else row[name] for name in names}
    if not values["largest_person_px"]:
        del values["largest_person_px"]
    return {name: float(value) for name, value in values.items() if value is not None}


def number_text(value: float) -> str:
    """Three decimals below 10, none above 100: scores, shares and pixels alike."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def name_of(row: Row) -> str:
    """The last part of the path that a person would call the file's name."""
    return (row["member"] or row["uri"]).rstrip("/").rsplit("/", 1)[-1]


def place_of(row: Row) -> str:
    """Where the image lies, in full."""
    return f"{row['uri']}/{row['member']}" if row["member"] else row["uri"]


def _card(store: Store, recipe: Recipe, rules: list[Line], at: Located) -> Card:
    row = at.row
    picture, problem = "", ""
    try:
        picture = data_uri(thumbnail(read_picture(store, at, WORK_SIDE)))
    except Exception as error:  # any source and any decoder; the page says which picture and why
        problem = f"{type(error).__name__}: {error}"
    boxes = tuple(_box(box, recipe.people.min_score) for box in row["person_boxes"] or ())
    return Card(
        number=at.number,
        uid=row["uid"] or "",
        name=name_of(row),
        place=place_of(row),
        width=row["original_width"] or 0,
        height=row["original_height"] or 0,
        verdict=row["verdict"],
        reasons=tuple(row["reasons"] or ()),
        scores=_scores(row, rules),
        boxes=boxes,
        persons=None if row["person_boxes"] is None else sum(box.counts for box in boxes),
        phash=row["phash"],
        picture=picture,
        problem=problem,
    )


def _scores(row: Row, rules: list[Line]) -> tuple[Score, ...]:
    numbers = numbers_of(row, rules).items()
    return tuple(Score(name, number_text(value), _passes(name, value, rules)) for name, value in numbers)


def _passes(column: str, value: float, rules: list[Line]) -> bool | None:
    here = [COMPARISONS[line.op](value, line.value) for line in rules if line.column == column]
    return all(here) if here else None


def _box(box: Row, min_score: float) -> Box:
    size = box["x1"] - box["x0"], box["y1"] - box["y0"]
    return Box(box["x0"], box["y0"], *size, box["score"], box["score"] > min_score)
