"""The picture collection: WebDataset tars with json labels, read once, JPEG bytes kept in memory."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """One picture of the collection and everything known about it."""

    split: str
    source: str  # tar without its number: "people-coco", "art", …
    key: str
    jpeg: bytes = field(repr=False)
    label: dict[str, Any] = field(repr=False)
    mask_png: bytes | None = field(repr=False)
    teacher: Boxes = field(repr=False)  # [n,5]: x0,y0,x1,y1,score of the teacher, score >= 0.1

    def rgb(self) -> NDArray[np.uint8]:
        """Decoded uint8 [H,W,3]."""
        bgr = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ValueError(f"{self.split}/{self.source}/{self.key}: not a readable picture")
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)

    def mask(self) -> NDArray[np.uint8] | None:
        """Decoded uint8 [H,W] of class ids or 255 for people; None where the picture has none."""
        if self.mask_png is None:
            return None
        return np.asarray(cv2.imdecode(np.frombuffer(self.mask_png, np.uint8), cv2.IMREAD_GRAYSCALE), np.uint8)

    @property
    def persons(self) -> Boxes:
        """Labelled boxes float32 [n,4], by hand or from joints."""
        rows = [[p[c] for c in ("x0", "y0", "x1", "y1")] for p in self.label.get("persons", [])]
        return np.array(rows, np.float32).reshape(-1, 4)

    @property
    def complete(self) -> bool:
        """Every person is boxed, so an empty list means nobody."""
        return bool(self.label.get("persons_complete")) or self.label.get("person_free") is True


def read_collection(data: Path, split: str, sources: set[str] | None = None) -> list[Picture]:
    """All pictures of `split` ("train" or "dev") in the order of tars and members; `sources` selects by tar stem."""
    teacher = _teacher_boxes(data / "people_teacher.parquet")
    pictures = []
    for tar in sorted((data / split).glob("*.tar")):
        source = tar.stem.rsplit("-", 1)[0]
        if sources is None or source in sources:
            for key, members in _samples(tar):
                boxes = teacher.get((f"{split}/{tar.name}", key), np.zeros((0, 5), np.float32))
                label = json.loads(members["json"])
                pictures.append(Picture(split, source, key, members["jpg"], label, members.get("png"), boxes))
    if not pictures:
        raise FileNotFoundError(f"no pictures of {sorted(sources or [])} under {data / split}")
    return pictures


def _samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            handle = archive.extractfile(member)
            if handle is not None:
                samples.setdefault(key, {})[extension] = handle.read()
    for key, members in samples.items():
        if "jpg" in members and "json" in members:
            yield key, members


def _teacher_boxes(path: Path) -> dict[tuple[str, str], Boxes]:
    table = pd.read_parquet(path)
    found = {}
    for tar, key, boxes, scores in zip(table.tar, table.key, table.boxes, table.scores, strict=True):
        rows = [[*box, score] for box, score in zip(boxes, scores, strict=True)]
        found[(str(tar), str(key))] = np.array(rows, np.float32).reshape(-1, 5)
    return found
