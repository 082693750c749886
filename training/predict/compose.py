"""What the heads said of every person, put together in the pixels of the image.

Each person was seen through a view of their own; what lies beyond their padded box is not theirs. A pixel that several
claim goes to the person in whose box it lies deepest, measured in box sides, so a small figure before a large one keeps
its pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.predict.people import inside
from training.tasks import depth, normals, parts, pose
from training.tasks.view import PADDING, Region, View

NO_DEPTH = NO_NORMAL = np.nan
"""Where nobody is."""


@dataclass(frozen=True)
class Person:
    """box: x0, y0, x1, y1 in pixels of the image, with the score of whoever found it. keypoints: (K, 3) x, y, score;
    None where pose was not asked.
    """

    box: tuple[float, float, float, float]
    score: float
    keypoints: np.ndarray | None = None


@dataclass(frozen=True)
class Prediction:
    """All answers for one image (H, W, 3) uint8 RGB; a map is None where its task was not asked.

    owner: (H, W) uint16, 0 where nobody is, i where `people[i - 1]` is; by parts where they were asked, else by boxes.
    parts: (H, W) uint8 class ids, 0 the background.
    depth: (H, W) float32, about 0 (near) … 1 (far) within one person and not comparable between two; NaN elsewhere.
    normals: (H, W, 3) float32 unit vectors, x right, y up, z towards the camera; NaN elsewhere.
    """

    image: np.ndarray
    people: tuple[Person, ...]
    owner: np.ndarray | None = None
    parts: np.ndarray | None = None
    depth: np.ndarray | None = None
    normals: np.ndarray | None = None


@dataclass(frozen=True)
class Found:
    """One person in an image's pixels. region: x0, y0, x1, y1 of the maps. seen: (H, W) bool, where the person's parts
    are; None where parts were not asked. claim: (H, W) float32, the smaller the more this person's a pixel is.
    """

    keypoints: np.ndarray | None
    region: Region = (0, 0, 0, 0)
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    seen: np.ndarray | None = None
    claim: np.ndarray | None = None


class Composer:
    """Collects the people of one image as their views come back from the models, in any order.

    boxes: (n, 5) x0, y0, x1, y1, score; `self.boxes` are those that show something of the image, cut to it, and
    `self.dropped` counts the others.
    """

    def __init__(self, image: np.ndarray, boxes: np.ndarray, tasks: Sequence[str]) -> None:
        self.image, self.tasks = image, frozenset(tasks)
        self.boxes, self.dropped = inside(boxes, *image.shape[:2])
        shape = image.shape[:2]
        self.keypoints: list[np.ndarray | None] = [None] * len(self.boxes)
        dense = bool(self.tasks - {"pose"})
        self.owner = np.zeros(shape, np.uint16) if dense else None
        self.claim = np.full(shape, np.inf, np.float32) if dense else None
        self.parts = np.zeros(shape, np.uint8) if "parts" in self.tasks else None
        self.depth = np.full(shape, NO_DEPTH, np.float32) if "depth" in self.tasks else None
        self.normals = np.full((*shape, 3), NO_NORMAL, np.float32) if "normals" in self.tasks else None

    def decode(self, number: int, outputs: Mapping[str, np.ndarray], views: Mapping[str, View]) -> Found:
        """Person `number`, in the image's own pixels, as each task's decoder described them: (C, h, w) float32 by task,
        and the view it saw. Changes nothing, so that threads can share the work."""
        keypoints = pose.decode(outputs["pose"], views["pose"]) if "pose" in self.tasks else None
        if self.owner is None:
            return Found(keypoints)
        reach = PADDING if self.parts is not None else 1.0  # a box of its own is all there is to tell people by
        region = _pixels(self.boxes[number], reach, *self.image.shape[:2])
        modules = {"parts": parts, "depth": depth, "normals": normals}
        maps = {t: m.decode(outputs[t], views[t], region) for t, m in modules.items() if t in self.tasks}
        seen = maps["parts"] > 0 if "parts" in maps else None
        if seen is not None:
            for task in maps:  # at the rim a coarser view reaches further
                seen &= views[task].shows(region)
        return Found(keypoints, region, maps, seen, _distance(self.boxes[number], region))

    def put(self, number: int, found: Found) -> None:
        """Person `number` into the image's maps, where nobody has a better claim."""
        self.keypoints[number] = found.keypoints
        if self.owner is None or found.claim is None:
            return
        assert self.claim is not None
        x0, y0, x1, y1 = found.region
        where = np.s_[y0:y1, x0:x1]
        mine = found.claim < self.claim[where]
        if found.seen is not None:
            mine &= found.seen
        whole = {"parts": self.parts, "depth": self.depth, "normals": self.normals}
        for task, values in found.maps.items():
            target = whole[task]
            assert target is not None
            np.copyto(target[where], values, where=mine[..., None] if values.ndim == 3 else mine)
        np.copyto(self.claim[where], found.claim, where=mine)
        np.copyto(self.owner[where], np.uint16(number + 1), where=mine)

    def done(self) -> Prediction:
        people = (
            Person((float(b[0]), float(b[1]), float(b[2]), float(b[3])), float(b[4]), keypoints)
            for b, keypoints in zip(self.boxes, self.keypoints, strict=True)
        )
        return Prediction(self.image, tuple(people), self.owner, self.parts, self.depth, self.normals)


def _distance(box: np.ndarray, region: Region) -> np.ndarray:
    """How far the pixels of a region lie from a box's centre: 1 on an ellipse through the middles of its sides."""
    x0, y0, x1, y1 = region
    x = (np.arange(x0, x1) + 0.5 - (box[0] + box[2]) / 2) / ((box[2] - box[0]) / 2)
    y = (np.arange(y0, y1) + 0.5 - (box[1] + box[3]) / 2) / ((box[3] - box[1]) / 2)
    return np.hypot(x[None], y[:, None]).astype(np.float32)


def _pixels(box: np.ndarray, reach: float, height: int, width: int) -> Region:
    """The pixels of an image that a box, grown by a factor about its centre, touches."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_width, half_height = (box[2] - box[0]) / 2 * reach, (box[3] - box[1]) / 2 * reach
    return (
        max(0, int(np.floor(x - half_width))),
        max(0, int(np.floor(y - half_height))),
        min(width, int(np.ceil(x + half_width))),
        min(height, int(np.ceil(y + half_height))),
    )
