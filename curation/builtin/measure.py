"""Measure the built-in networks on held-out pictures: python -m curation.builtin.measure DATA [--write PAGE]

Prints tables; with --write they replace what stands between the two `tables` comments of docs/measured/models.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.builtin.networks import Builtin
from curation.builtin.training.collection import Picture, read_collection
from curation.builtin.training.held_out import PHOTO_SOURCES, held_out_pictures
from curation.builtin.training.layouts import KINDS
from curation.builtin.training.metrics import (
    auc,
    auc_interval,
    average_precision,
    recall_at_precision,
    share_interval,
    top_scores,
)

PEOPLE_SOURCES = ("people-coco", "people-voc")
COUNT_AT, TEACHER_COUNT_AT = 0.5, 0.4  # a person is counted from this score on
BOOTSTRAPS = 300
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"

Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """One held-out picture (or layout, named by its kind) and what the networks said."""

    what: Picture | str
    shape: tuple[int, int]
    people: Boxes
    watermark: float
    art: float
    unnatural: float
    text_area: float

    @property
    def source(self) -> str:
        return self.what if isinstance(self.what, str) else self.what.source


def main() -> None:
    args = _arguments()
    seen = list(look(args.data, Builtin(args.threads)))
    tables = "\n\n".join(
        [people_table(seen), filter_table(seen), count_table(seen), separation_table(seen), calibration_table(seen)]
    )
    print(tables)
    print("\n\n" + worst(seen))
    if args.write:
        page = args.write.read_text()
        head, rest = page.split(BEGIN)
        args.write.write_text(f"{head}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}")


def look(data: Path, builtin: Builtin) -> Iterator[Seen]:
    """Run everything on every held-out picture and layout."""
    texts = [(p, p.rgb(), None) for p in read_collection(data, "dev", {"text"})]
    for what, image, _ in [*held_out_pictures(data), *texts]:
        f = builtin.features([image])
        art, unnatural = builtin.style(f)
        yield Seen(
            what,
            image.shape[:2],
            builtin.people(f)[0],
            float(builtin.watermark(f)[0]),
            float(art[0]),
            float(unnatural[0]),
            text_area(builtin.text(f)[0], *image.shape[:2]),
        )


def text_area(quads: Boxes, height: int, width: int) -> float:
    """Share of the picture that text covers, overlaps counted once."""
    canvas = np.zeros((height, width), np.uint8)
    for row in quads:
        cv2.fillPoly(canvas, [np.rint(row[:8].reshape(4, 2)).astype(np.int32)], 1)
    return float(canvas.mean())


def people_table(seen: list[Seen]) -> str:
    """AP50, AUC, count bins and false alarms, the teacher's beside ours."""
    lines = [
        "**People** (95 % intervals: AP50 bootstrap, AUC Hanley-McNeil, shares Wilson)",
        "",
        "| photos | with / without people | | AP50 | AUC somebody there | count bin right | nobody there, yet found |",
        "|---|---|---|---|---|---|---|",
    ]
    for source in PEOPLE_SOURCES:
        rows = [s for s in seen if s.source == source]
        truth = [_picture(s).persons for s in rows]
        n1 = sum(len(t) > 0 for t in truth)
        ways: list[tuple[str, Callable[[Seen], Boxes], float]] = [
            ("ours", lambda s: s.people, COUNT_AT),
            ("teacher", lambda s: _picture(s).teacher, TEACHER_COUNT_AT),
        ]
        for name, boxes_of, at in ways:
            found = [boxes_of(s) for s in rows]
            a = auc(top_scores(found), [len(t) > 0 for t in truth])
            counts = [int((f[:, 4] >= at).sum()) for f in found]
            right = sum(min(c, 4) == min(len(t), 4) for c, t in zip(counts, truth, strict=True) if len(t))
            alarms = sum(c > 0 for c, t in zip(counts, truth, strict=True) if not len(t))
            n0 = len(rows) - n1
            lines.append(
                f"| {source} | {n1} / {n0} | {name} | {_ap(found, truth)} | {_with(a, auc_interval(a, n1, n0))} | "
                f"{share(right, n1)} | {share(alarms, n0)} |"
            )
    return "\n".join(lines)


def filter_table(seen: list[Seen]) -> str:
    """The filter itself: at least one person with score > t and short side > a quarter of the picture's."""
    rows = [s for s in seen if s.source in PEOPLE_SOURCES]
    truth = np.array([_large(_picture(s).persons, s.shape) for s in rows])
    lines = [
        f"**The filter**, people-coco and people-voc together ({truth.sum()} of {len(rows)} photos have a person whose "
        "box's short side exceeds a quarter of the photo's)",
        "",
        "| score > | kept | precision | recall | teacher's precision | recall |",
        "|---|---|---|---|---|---|",
    ]
    for t in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        cells = []
        for boxes_of in (lambda s: s.people, lambda s: _picture(s).teacher):
            kept = np.array([_large(b[b[:, 4] > t], s.shape) for s in rows for b in [boxes_of(s)]])
            hits = int((kept & truth).sum())
            cells += [str(kept.sum()), share(hits, int(kept.sum())), share(hits, int(truth.sum()))]
        lines.append(f"| {t} | {cells[0]} | {cells[1]} | {cells[2]} | {cells[4]} | {cells[5]} |")
    return "\n".join(lines)


def count_table(seen: list[Seen]) -> str:
    """Labelled count against counted, 0 to 4 or more."""
    rows = [s for s in seen if s.source in PEOPLE_SOURCES]
    table = np.zeros((5, 5), int)
    for s in rows:
        table[min(len(_picture(s).persons), 4), min(int((s.people[:, 4] >= COUNT_AT).sum()), 4)] += 1
    lines = [
        f"**People per photo**, rows labelled, columns counted at score ≥ {COUNT_AT}",
        "",
        "| | 0 | 1 | 2 | 3 | ≥ 4 |",
        "|---|---|---|---|---|---|",
    ]
    names = ("0", "1", "2", "3", "≥ 4")
    lines += [f"| **{n}** | " + " | ".join(map(str, row)) + " |" for n, row in zip(names, table, strict=True)]
    return "\n".join(lines)


def separation_table(seen: list[Seen]) -> str:
    """One line per question: how well the answer separates what it should."""
    photos = [s for s in seen if s.source in PHOTO_SOURCES]
    whole = [s for s in seen if s.source in ("people-coco", "people-voc", "plain")]
    marks = [s for s in seen if s.source == "watermark"]
    clean = [s for s in marks if not _marked(s)]

    def marked(word: str) -> list[Seen]:
        return [s for s in marks if _marked(s) and word in str(_picture(s).label["mark"])]

    questions: list[tuple[str, list[Seen], list[Seen], Callable[[Seen], float]]] = [
        ("art, photos of coco, voc, plain", _of(seen, "art"), whole, lambda s: s.art),
        ("art, all photos", _of(seen, "art"), photos, lambda s: s.art),
        ("generated, all photos", _of(seen, "generated"), photos, lambda s: s.unnatural),
        *((f"{k} (made by script), all photos", _of(seen, k), photos, lambda s: s.unnatural) for k in KINDS),
        ("watermark, real, the set's clean ones", marked("real"), clean, lambda s: s.watermark),
        ("watermark, real, photos of coco, voc, plain", marked("real"), whole, lambda s: s.watermark),
        ("watermark, pasted agency logo, clean", marked("agency"), clean, lambda s: s.watermark),
        ("watermark, pasted faint, clean", marked("1,4 faint"), clean, lambda s: s.watermark),
        ("text area, people-coco", _of(seen, "text"), _of(seen, "people-coco"), lambda s: s.text_area),
    ]
    lines = [
        "**What is told apart**",
        "",
        "| question, against | positives / negatives | AUC | recall at 95 % precision |",
        "|---|---|---|---|",
    ]
    for name, yes, no, answer in questions:
        scores = [answer(s) for s in [*yes, *no]]
        truth = [True] * len(yes) + [False] * len(no)
        a = auc(scores, truth)
        lines.append(
            f"| {name} | {len(yes)} / {len(no)} | {_with(a, auc_interval(a, len(yes), len(no)))} | "
            f"{recall_at_precision(scores, truth):.2f} |"
        )
    return "\n".join(lines)


def calibration_table(seen: list[Seen]) -> str:
    """How often an answer in a range of probabilities was true."""
    photos = [s for s in seen if s.source in PHOTO_SOURCES]
    marks = [s for s in seen if s.source == "watermark"]
    sets: dict[str, tuple[list[float], list[bool]]] = {
        "person boxes": _boxes_true(seen),
        "art": ([s.art for s in [*_of(seen, "art"), *photos]], [True] * len(_of(seen, "art")) + [False] * len(photos)),
        "watermark": ([s.watermark for s in marks], [_marked(s) for s in marks]),
    }
    edges = ((0.05, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.01))
    lines = [
        "**Calibration**: share that is true, by answer (fitted on these same pictures)",
        "",
        "| | " + " | ".join(f"{a} to {min(b, 1):g}" for a, b in edges) + " |",
        "|---|" + "---|" * len(edges),
    ]
    for name, (scores, truth) in sets.items():
        s, t = np.array(scores), np.array(truth)
        cells = [(int(t[(s >= a) & (s < b)].sum()), int(((s >= a) & (s < b)).sum())) for a, b in edges]
        lines.append(f"| {name} | " + " | ".join(f"{k / n:.2f} of {n}" if n else "none" for k, n in cells) + " |")
    return "\n".join(lines)


def worst(seen: list[Seen], count: int = 10) -> str:
    """The most confident mistakes, to be looked at and described by hand."""
    people = [s for s in seen if s.source in PEOPLE_SOURCES]
    top = {id(s): float(top_scores([s.people])[0]) for s in people}
    nobody = [s for s in people if not len(_picture(s).persons)]
    somebody = [s for s in people if len(_picture(s).persons)]
    photos = [s for s in seen if s.source in PHOTO_SOURCES]
    marks = [s for s in seen if s.source == "watermark"]
    lists: list[tuple[str, list[Seen], Callable[[Seen], float]]] = [
        ("nobody there, yet found", sorted(nobody, key=lambda s: -top[id(s)]), lambda s: top[id(s)]),
        ("somebody missed", sorted(somebody, key=lambda s: top[id(s)]), lambda s: top[id(s)]),
        ("photos taken for art", sorted(photos, key=lambda s: -s.art), lambda s: s.art),
        ("art missed", sorted(_of(seen, "art"), key=lambda s: s.art), lambda s: s.art),
        ("photos taken for unnatural", sorted(photos, key=lambda s: -s.unnatural), lambda s: s.unnatural),
        ("marks missed", sorted((s for s in marks if _marked(s)), key=lambda s: s.watermark), lambda s: s.watermark),
        (
            "clean, yet marked",
            sorted((s for s in marks if not _marked(s)), key=lambda s: -s.watermark),
            lambda s: s.watermark,
        ),
    ]
    blocks = []
    for name, rows, answer in lists:
        items = [f"  {answer(s):.2f}  {_picture(s).label['source']}" for s in rows[:count]]
        blocks.append("\n".join([name, *items]))
    return "\n".join(blocks)


def _picture(s: Seen) -> Picture:
    if isinstance(s.what, str):
        raise TypeError(f"a layout ({s.what}) has no labels")
    return s.what


def _of(seen: list[Seen], source: str) -> list[Seen]:
    return [s for s in seen if s.source == source]


def _marked(s: Seen) -> bool:
    return str(_picture(s).label["watermarked"]) == "1"


def _large(boxes: Boxes, shape: tuple[int, int]) -> bool:
    return bool(((boxes[:, 2:4] - boxes[:, :2]).min(1) > min(shape) / 4).any()) if len(boxes) else False


def _boxes_true(seen: list[Seen]) -> tuple[list[float], list[bool]]:
    from curation.builtin.training.finish_people import matched

    scores: list[float] = []
    truth: list[bool] = []
    for s in seen:
        if s.source in PEOPLE_SOURCES:
            scores += s.people[:, 4].tolist()
            truth += matched(s.people, _picture(s).persons).tolist()
    return scores, truth


def _ap(found: list[Boxes], truth: list[Boxes]) -> str:
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(BOOTSTRAPS):
        pick = rng.integers(len(found), size=len(found))
        draws.append(average_precision([found[i] for i in pick], [truth[i] for i in pick]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return _with(average_precision(found, truth), (low, high))


def _with(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} ({interval[0]:.2f} to {interval[1]:.2f})"


def share(hits: int, n: int) -> str:
    """A share with its 95 % interval (Wilson)."""
    low, high = share_interval(hits, n)
    return f"{hits / n:.2f} ({low:.2f} to {high:.2f})" if n else "none"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with dev/ and people_teacher.parquet")
    parser.add_argument("--write", type=Path, help="page to update")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
