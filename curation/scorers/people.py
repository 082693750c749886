"""Who is in it? Person boxes with scores."""

from typing import TYPE_CHECKING, Any

import numpy as np

from curation.batch import Batch
from curation.scorers.boxes import to_structs
from curation.scorers.networks import Networks

if TYPE_CHECKING:
    from curation.full.detector import Detector


class BuiltinPeople:
    """The detector trained in this repository; boxes with score ≥ 0.05."""

    name = "people"
    columns = ("person_boxes",)

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.identity = networks.builtin.identities["people"]

    def score(self, batch: Batch) -> dict[str, list[Any]]:
        return _columns(batch, self.networks.builtin.people(self.networks.features(batch)))


class FullPeople:
    """Any ultralytics detector, as its own `predict` answers; boxes with score > 0.05."""

    name = "people"
    columns = ("person_boxes",)

    def __init__(self, detector: "Detector") -> None:
        self.detector = detector
        self.identity = detector.identity

    def score(self, batch: Batch) -> dict[str, list[Any]]:
        return _columns(batch, self.detector.people([picture.rgb for picture in batch.pictures]))


def _columns(batch: Batch, boxes: list[np.ndarray]) -> dict[str, list[Any]]:
    pairs = zip(batch.pictures, boxes, strict=True)
    return {"person_boxes": [to_structs(found, p.scale, p.width, p.height) for p, found in pairs]}
