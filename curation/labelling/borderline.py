"""Which images are worth a person's time: those next to the line, as many above it as below."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curation.errors import UsageError

FIELDS = ("uid", "uri", "question", "label")


def nearest(values: NDArray[np.float64], line: float, number: int, done: NDArray[np.bool_]) -> list[int]:
    """Row numbers of up to `number` images that are not `done`: nearest to `line` first, from both sides in turn."""
    open_rows = np.flatnonzero(np.isfinite(values) & ~done)
    distance = np.abs(values - line)
    sides = [
        open_rows[values[open_rows] >= line],
        open_rows[values[open_rows] < line],
    ]
    above, below = (list(side[np.argsort(distance[side], kind="stable")]) for side in sides)
    chosen: list[int] = []
    while len(chosen) < number and (above or below):
        for side in (above, below):
            if side and len(chosen) < number:
                chosen.append(int(side.pop(0)))
    return chosen


def read_done(path: Path, question: str) -> dict[str, int]:
    """uid → label of what the CSV already says about a question; the last word counts. Raises UsageError."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise UsageError(f"{path} has the columns {reader.fieldnames}; labels are kept as {', '.join(FIELDS)}")
        rows = [row for row in reader if row["question"] == question]
    last = {row["uid"]: row["label"] for row in rows}
    return {uid: int(label) for uid, label in last.items() if label in {"0", "1"}}


def append(path: Path, uid: str, uri: str, question: str, label: int | None) -> None:
    """Add one line, flushed at once; None takes an earlier label back."""
    is_new = not path.exists()
    is_open = not is_new and path.read_bytes()[-1:] not in (b"", b"\n", b"\r")
    with path.open("a", newline="", encoding="utf-8") as file:
        if is_open:  # an editor left the last line without its end
            file.write("\r\n")
        writer = csv.writer(file)
        if is_new:
            writer.writerow(FIELDS)
        writer.writerow([uid, uri, question, "" if label is None else label])
