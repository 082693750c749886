"""How much writing is laid over it?"""

from typing import TYPE_CHECKING, Any

import numpy as np

from curation.batch import Batch
from curation.scorers.boxes import covered, to_structs
from curation.scorers.networks import Networks

if TYPE_CHECKING:
    from curation.full.craft import TextDetector

GRID = 512
"""Longer side, in cells, of the grid on which areas are counted, so that overlaps count once."""
AREAS = "areas@2"  # of how areas are counted
PERSON_SCORE = 0.5
"""Writing inside a person box of at least this score is clothing or a jersey number, not a caption."""


class BuiltinText:
    """Text boxes of the PP-OCR detector in the `rapidocr` wheel, and the share of the image they cover."""

    name = "text"
    columns = ("text_area", "text_area_outside", "text_boxes")

    def __init__(self, networks: Networks, people_identity: str) -> None:
        self.networks = networks
        self.identity = f"{networks.builtin.identities['text']}+{AREAS}+{people_identity}"

    def score(self, batch: Batch) -> dict[str, list[Any]]:
        return text_columns(batch, self.networks.builtin.text(self.networks.features(batch)))


class FullText:
    """Lines of text as EasyOCR's detector finds them, and the share of the image they cover."""

    name = "text"
    columns = BuiltinText.columns

    def __init__(self, detector: "TextDetector", people_identity: str) -> None:
        self.detector = detector
        self.identity = f"{detector.identity}+{AREAS}+{people_identity}"

    def score(self, batch: Batch) -> dict[str, list[Any]]:
        return text_columns(batch, self.detector.text([picture.rgb for picture in batch.pictures]))


def text_columns(batch: Batch, quads: list[np.ndarray]) -> dict[str, list[Any]]:
    """Per image (n, 9): a quadrilateral's 4 corners x, y in working pixels and its score → the text columns.

    Where nobody looked for people, no text is on a person.
    """
    columns: dict[str, list[Any]] = {name: [] for name in BuiltinText.columns}
    persons = batch.scored.get("person_boxes", [None] * len(batch))
    for picture, found, people in zip(batch.pictures, quads, persons, strict=True):
        height, width = picture.rgb.shape[:2]
        cell = GRID / max(height, width)
        grid = (max(1, round(height * cell)), max(1, round(width * cell)))
        corners = found[:, :8].reshape(-1, 4, 2)
        text = covered(list(corners * cell), *grid)
        person = covered(
            [_corners(box) / picture.scale * cell for box in people or () if box["score"] >= PERSON_SCORE], *grid
        )
        columns["text_area"].append(np.count_nonzero(text) / text.size)
        columns["text_area_outside"].append(np.count_nonzero(text & ~person) / text.size)
        low, high = corners.min(axis=1), corners.max(axis=1)
        boxes = np.concatenate([low, high, found[:, 8:9]], axis=1)
        columns["text_boxes"].append(to_structs(boxes, picture.scale, picture.width, picture.height))
    return columns


def _corners(box: dict[str, float]) -> np.ndarray:
    x0, y0, x1, y1 = (box[name] for name in ("x0", "y0", "x1", "y1"))
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
