"""Measure whole runs on held-out pictures: python -m curation.builtin.measure_run DATA [--write PAGE]

Curates every tar of DATA/dev with the recipe humans300m as `sapiens-curate run` does, then compares what it keeps with
the labels: as shipped, and with people.min_score and people.min_short_side changed. With --write the tables replace
what stands between the two `run` comments of docs/measured/models.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from curation.builtin.measure import share
from curation.builtin.training.collection import Boxes, Picture, read_collection
from curation.builtin.training.people_labels import people_in
from curation.decide import judge
from curation.recipe import load_recipe
from curation.run import Workplace, curate

RECIPE = "humans300m"
SHIPPED: tuple[float, int] = (0.9, 300)
SETTINGS = (SHIPPED, (0.5, 300), (0.9, 100), (0.5, 100))  # people.min_score, people.min_short_side in pixels
NOT_PHOTOS = ("art", "generated", "text")
BEGIN, END = "<!-- run -->", "<!-- end of run -->"


@dataclass(frozen=True)
class Judgement:
    """One picture under one setting: what should happen, what did, and the rules that it failed."""

    source: str
    should: bool
    kept: bool
    reasons: tuple[str, ...]


def main() -> None:
    args = _arguments()
    pictures = {(p.source, p.key): p for p in read_collection(args.data, "dev")}
    with tempfile.TemporaryDirectory() as folder:
        curate(f"{args.data}/dev/*.tar", folder, RECIPE, place=Workplace(args.workers))
        runs = {setting: judgements(Path(folder), pictures, *setting) for setting in SETTINGS}
    tables = "\n\n".join([settings_table(runs), *(kinds_table(s, runs[s]) for s in ((0.9, 100), (0.5, 100)))])
    print(tables)
    if args.write:
        page = args.write.read_text()
        head, rest = page.split(BEGIN)
        args.write.write_text(f"{head}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}")


def judgements(folder: Path, pictures: dict[tuple[str, str], Picture], score: float, side: int) -> list[Judgement]:
    """Every picture whose label says what should happen, judged anew from the scores in `folder`'s manifest."""
    table = pq.read_table(folder / "manifest")
    recipe = load_recipe(RECIPE, [f"people.min_score={score}", f"people.min_short_side={side}"])
    judged = judge(table, recipe)
    found = []
    names = zip(table["uri"].to_pylist(), table["member"].to_pylist(), table["duplicate_of"].to_pylist(), strict=True)
    for i, (uri, member, duplicate_of) in enumerate(names):
        picture = pictures[Path(uri).stem.rsplit("-", 1)[0], Path(member).stem]
        should = should_be_kept(picture, side)
        if should is not None and not duplicate_of:
            reasons = tuple(name for name, fails in judged.fails.items() if fails[i])
            found.append(Judgement(picture.source, should, bool(judged.passes[i]), reasons))
    return found


def should_be_kept(picture: Picture, side: int) -> bool | None:
    """A photo without a mark that shows a person over `side` pixels wide and high; None where the labels leave it open.

    Where people are not all boxed by hand, the teacher's sure boxes count as well, and its guesses leave it open.
    """
    if picture.source in NOT_PHOTOS or str(picture.label.get("watermarked")) == "1":
        return False
    if picture.source == "depth-kitchen":
        return False  # nobody was in that room
    people = people_in(picture)
    if picture.label.get("kind") != "photo":
        return None
    if _larger(people.boxes, side):
        return True
    everybody_known = picture.complete or picture.label.get("persons_at_least") or len(picture.persons)
    return False if everybody_known and not _larger(people.unsure, side) else None


def settings_table(runs: dict[tuple[float, int], list[Judgement]]) -> str:
    """Precision and recall of keeping, one line per setting."""
    lines = [
        f"**A whole run** with the recipe {RECIPE}: kept against what the labels ask for",
        "",
        "| person score > | sides > | should be kept | kept | precision | recall | rules that rejected wrongly |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, rows in runs.items():
        hits = sum(r.should and r.kept for r in rows)
        kept, wanted = sum(r.kept for r in rows), sum(r.should for r in rows)
        rules = Counter(name for r in rows if r.should and not r.kept for name in r.reasons)
        blamed = ", ".join(f"{name} {n}" for name, n in rules.most_common())
        shipped = " (as shipped)" if setting == SHIPPED else ""
        lines.append(
            f"| {setting[0]}{shipped} | {setting[1]} px | {wanted} of {len(rows)} | {kept} | {share(hits, kept)} | "
            f"{share(hits, wanted)} | {blamed} |"
        )
    return "\n".join(lines)


def kinds_table(setting: tuple[float, int], rows: Iterable[Judgement]) -> str:
    """What was kept of what should be and should not be, one line per kind of picture."""
    by_source: dict[str, list[Judgement]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    lines = [
        f"**By kind**, person score > {setting[0]}, sides > {setting[1]} px",
        "",
        "| pictures | should be kept: kept / rejected | should be rejected: kept / rejected |",
        "|---|---|---|",
    ]
    for source, mine in sorted(by_source.items()):
        n = Counter((r.should, r.kept) for r in mine)
        lines.append(f"| {source} | {n[True, True]} / {n[True, False]} | {n[False, True]} / {n[False, False]} |")
    return "\n".join(lines)


def _larger(boxes: Boxes, side: int) -> bool:
    return bool(((boxes[:, 2:4] - boxes[:, :2]).min(1) > side).any()) if len(boxes) else False


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with dev/ and people_teacher.parquet")
    parser.add_argument("--write", type=Path, help="page to update")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
