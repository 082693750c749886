"""One image of a curated folder: every score, every rule and what it saw, the verdict, the picture."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from curation.decide import DUPLICATE
from curation.deciding import ORIGINAL
from curation.errors import UsageError
from curation.recipe import Recipe
from curation.record import load_record, other_recipe
from curation.report.cards import number_text, numbers_of, place_of
from curation.report.pictures import Located, Row, locate, read_picture
from curation.report.thresholds import lines
from manifests.scan import numbers_where, rows_at
from manifests.store import Store

LISTED = 4
"""Candidates that an error names."""
MANY = 1000
"""Matches after which the search for more ends."""
UID_PREFIX = re.compile(r"[0-9a-f]{6,32}")
PERSON, FAINT_PERSON, TEXT = "#17c3a8", "#b9c4c1", "#ffb020"


@dataclass(frozen=True)
class Ruling:
    """One rule and this image: what the rule looked at, and whether it holds."""

    name: str
    text: str
    saw: str
    passes: bool | None  # None: a lazy run did not ask


@dataclass(frozen=True)
class Inspection:
    """Everything that a run knows of one image; `copies` are other inputs with the same bytes."""

    row: Row
    rulings: tuple[Ruling, ...]
    scores: tuple[tuple[str, str], ...]
    min_score: float
    copies: tuple[str, ...]
    store: Store
    located: Located

    def text(self) -> str:
        """All of it for a terminal."""
        parts = [self._facts(), self._rules(), self._scores(), self._models()]
        return "\n\n".join("\n".join(part) for part in parts if part)

    def save_picture(self, path: str | PathLike[str]) -> Path:
        """Write the upright picture at working size with its person and text boxes: .jpg, .png or .webp.

        Raises UsageError where the picture cannot be read, or not be written under that name.
        """
        try:
            picture = read_picture(self.store, self.located, work_side=1024)
        except Exception as error:  # whatever the source and the decoder raise
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"the picture {place_of(self.row)} cannot be read ({reason})") from error
        image = Image.fromarray(picture.rgb)
        packed = picture.width / self.row["original_width"], picture.height / self.row["original_height"]
        _draw_boxes(image, self.row, self.min_score, (packed[0] / picture.scale[0], packed[1] / picture.scale[1]))
        try:
            image.save(path)
        except ValueError as error:
            raise UsageError(f"cannot save {path}: give a name that ends in .jpg, .png or .webp") from error
        return Path(path)

    def _facts(self) -> list[str]:
        row = self.row
        because = {"rejected": ", ".join(row["reasons"] or ()), "failed": row["error_message"]}
        facts = [("image", place_of(row)), ("verdict", row["verdict"])]
        facts += [("because", because[row["verdict"]])] if row["verdict"] in because else []
        if row["not_asked"]:
            facts.append(("unasked", f"{', '.join(row['not_asked'])}: it was rejected before (lazy)"))
        if row["uid"]:
            facts.append(("uid", row["uid"]))
        if row["verdict"] != "failed":
            size = f"{row['original_width']} × {row['original_height']} upright"
            facts.append(("picture", f"{row['format']}, {size}, EXIF orientation {row['exif_orientation']}"))
        if row["caption"]:
            facts.append(("caption", row["caption"]))
        if row["shard"] >= 0:
            place = f"{row['size']:,} bytes at {row['offset']:,} of shards/{row['shard']:05d}.tar"
            how = ", re-encoded" if row["transcoded"] else ""
            facts.append(("packed", f"key {row['key']}, {place}{how}"))
        facts += [("also at", place) for place in self.copies[:LISTED]]
        if len(self.copies) > LISTED:
            facts.append(("", f"and {len(self.copies) - LISTED} more"))
        return [f"{name:<9}{value}" for name, value in facts]

    def _rules(self) -> list[str]:
        name = max((len(ruling.name) for ruling in self.rulings), default=0)
        text = max((len(ruling.text) for ruling in self.rulings), default=0)
        says = {True: "passes", False: "FAILS", None: "unasked"}
        return [f"{says[one.passes]:<8}{one.name:<{name}}  {one.text:<{text}}  {one.saw}" for one in self.rulings]

    def _scores(self) -> list[str]:
        found = [f"{name:<18}{value:>10}" for name, value in self.scores]
        for number, box in enumerate(self.row["person_boxes"] or (), start=1):
            corners = " ".join(f"{box[side]:.0f}" for side in ("x0", "y0", "x1", "y1"))
            counts = "" if box["score"] > self.min_score else f", does not count: at most {self.min_score:g}"
            found.append(f"{f'person {number}':<18}{box['score']:>10.3f}  at {corners}{counts}")
        return found

    def _models(self) -> list[str]:
        return [f"{scorer:<18}{model}" for scorer, model in self.row["models"] or ()]


def inspect(out: str | PathLike[str], key: str) -> Inspection:
    """Look up one image by its sample key, its uid or six first digits of it or more, or its path's end.

    Of several inputs with the same bytes the kept one is shown, else the first. Raises UsageError where none or
    different ones fit, where `out` is no curated folder, or was decided by another recipe than it has now.
    """
    store = Store(out)
    recipe = load_record(store).recipe
    number, copies = _find(store, key)
    located = locate(store, [number])[number]
    row = located.row
    row["not_asked"] = [name for name in row["not_asked"] if name in recipe.scorers]
    if row["recipe_hash"] != recipe.hash:
        raise other_recipe(store)
    numbers = numbers_of(row, lines(recipe))
    return Inspection(
        row=row,
        rulings=() if row["verdict"] == "failed" else tuple(_rulings(row, recipe, numbers)),
        scores=tuple((name, number_text(value)) for name, value in numbers.items()),
        min_score=recipe.people.min_score,
        copies=copies,
        store=store,
        located=located,
    )


def _rulings(row: Row, recipe: Recipe, numbers: dict[str, float]) -> Iterator[Ruling]:
    for rule in recipe.parsed_rules():
        drawn = dict.fromkeys(line.column for line in lines(recipe) if line.rule == rule.name)
        columns = [*drawn] or rule.columns
        saw = ", ".join(f"{column} {_value(row, numbers, column)}" for column in columns)
        unasked = not recipe.scorers_of(rule).isdisjoint(row["not_asked"])
        yield Ruling(rule.name, rule.text, saw, None if unasked else rule.name not in row["reasons"])
    if recipe.duplicates != "off":
        saw = f"repeats uid {row['duplicate_of']}" if row["duplicate_of"] else "repeats none"
        yield Ruling(DUPLICATE, recipe.duplicates, saw, DUPLICATE not in row["reasons"])


def _value(row: Row, numbers: dict[str, float], column: str) -> str:
    if column in numbers:
        return number_text(numbers[column])
    value = row.get(ORIGINAL.get(column, column))  # of the source, as rules see it
    return "none" if value is None else str(value)


def _find(store: Store, key: str) -> tuple[int, tuple[str, ...]]:
    """Row number of the image that `key` names, and the places of its exact copies."""
    for numbers in _matches(store, key.strip()):
        if numbers:
            rows = rows_at(store, numbers)
            if len({row["uid"] or number for number, row in rows.items()}) > 1:
                raise UsageError(_ambiguous(key, list(rows.values()), len(numbers)))
            chosen = next((number for number, row in rows.items() if row["verdict"] == "kept"), numbers[0])
            return chosen, tuple(place_of(row) for number, row in rows.items() if number != chosen)
    raise UsageError(
        f"no image {key!r} in {store.root}: give a sample key (9 digits), a uid or its first 6 digits or more, "
        "or the end of a path from a folder's or file's name on"
    )


def _matches(store: Store, key: str) -> Iterator[list[int]]:
    """Rows by sample key, then by uid, then by path."""
    if not key:
        return

    def by_path(batch: pa.RecordBatch) -> pa.BooleanArray:
        joined = pc.binary_join_element_wise(batch["uri"], batch["member"], "/")
        path = pc.if_else(pc.equal(batch["member"], ""), batch["uri"], joined)
        return pc.or_(pc.equal(path, key), pc.ends_with(path, "/" + key))

    yield _first(numbers_where(store, ["key"], lambda batch: pc.equal(batch["key"], key)))
    if UID_PREFIX.fullmatch(key):
        yield _first(numbers_where(store, ["uid"], lambda batch: pc.starts_with(batch["uid"], key)))
    yield _first(numbers_where(store, ["uri", "member"], by_path))


def _first(numbers: Iterator[int]) -> list[int]:
    return [number for number, _ in zip(numbers, range(MANY), strict=False)]


def _ambiguous(key: str, rows: list[Row], count: int) -> str:
    some = ", ".join(place_of(row) + (f" (uid {row['uid'][:12]})" if row["uid"] else "") for row in rows[:LISTED])
    number = f"{MANY} or more" if count == MANY else str(count)
    more = ", …" if count > LISTED else ""
    return f"{key!r} fits {number} images: {some}{more}; give more of the path, or the uid"


def _draw_boxes(image: Image.Image, row: Row, min_score: float, scale: tuple[float, float]) -> None:
    """Text in amber, people who count in teal with their score, others in grey; scaled to the picture."""
    draw = ImageDraw.Draw(image)
    line = max(2, round(max(image.size) / 400))
    font = ImageFont.load_default(max(12, max(image.size) / 55))
    for box in row["text_boxes"] or ():
        draw.rectangle(_corners(box, scale), outline=TEXT, width=max(1, line // 2))
    for box in sorted(row["person_boxes"] or (), key=lambda box: box["score"]):
        color = PERSON if box["score"] > min_score else FAINT_PERSON
        corners = _corners(box, scale)
        draw.rectangle(corners, outline=color, width=line)
        label = f"{box['score']:.2f}"
        left, top, right, bottom = draw.textbbox((corners[0] + line, max(0, corners[1])), label, font=font)
        draw.rectangle((left - line, top - line, right + line, bottom + line), fill=color)
        draw.text((corners[0] + line, max(0, corners[1])), label, font=font, fill="black")


def _corners(box: Row, scale: tuple[float, float]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in the working picture; x1 and y1 of the box are exclusive."""
    right, bottom = box["x1"] * scale[0] - 1, box["y1"] * scale[1] - 1
    left, top = box["x0"] * scale[0], box["y0"] * scale[1]
    return left, top, max(left, right), max(top, bottom)
