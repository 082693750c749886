"""Body parts, one class for every pixel."""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor

from shards.crop import BrokenImage
from shards.labelled import LabelledSample
from training.labels.decode import parts_from_png
from training.labels.sets import IGNORE, ClassList
from training.tasks import dense
from training.tasks.dense import Dense
from training.tasks.view import Region, View, map_to_image, warp_labels


def classes_of(sample: LabelledSample, labels: ClassList) -> np.ndarray:
    """(H, W) uint8 class ids of a sample. Raises BrokenImage."""
    classes = parts_from_png(sample.label)
    count = len(labels.names)
    unknown = np.ones(256, np.uint8)
    unknown[:count] = unknown[IGNORE] = 0
    if cv2.LUT(classes, unknown).any():
        extra = sorted(set(np.unique(classes).tolist()) - {*range(count), IGNORE})
        raise BrokenImage(f"the label has classes {extra} where {labels.name} has 0 … {count - 1}")
    return classes


def to_view(classes: np.ndarray, view: View, labels: ClassList) -> np.ndarray:
    """Class ids of a photo (H, W) uint8 as a view shows them: (rows, columns) uint8, IGNORE beyond the photo. In a
    mirrored view left and right are swapped.
    """
    seen = warp_labels(classes, view, IGNORE)
    if not view.flipped:
        return seen
    mirrored = np.arange(256, dtype=np.uint8)
    mirrored[: len(labels.names)] = labels.flip_order
    return cv2.LUT(seen, mirrored)


DENSE = Dense(
    target="classes",
    read=classes_of,
    to_view=to_view,
    people=lambda classes: classes > 0,
    nothing=0,
    rotation=45.0,
    rotation_chance=0.5,
    background_chance=0.8,
)
Draw = partial(dense.Draw, DENSE)
"""Target: classes (rows, columns) uint8, IGNORE where nothing is known; what lies beyond the photo is black and IGNORE.
Mirrored views have left and right classes swapped.
"""


# -- learning ----------------------------------------------------------------------------------------------------------


def loss(output: Tensor, targets: dict[str, Tensor], labels: ClassList) -> Tensor:
    """Weighted cross-entropy: the mean of w[y]·CE over all pixels of the batch, as Sapiens has it.

    It is not divided by the sum of the weights, and ignored pixels count in the mean, as 0. output: (B, C, h, w)
    logits, enlarged to the target's size.
    """
    classes = targets["classes"]
    logits = F.interpolate(output.float(), size=classes.shape[-2:], mode="bilinear", align_corners=False)
    weights = logits.new_tensor(labels.weights)
    return F.cross_entropy(logits, classes.long(), weights, ignore_index=IGNORE, reduction="none").mean()


# -- using -------------------------------------------------------------------------------------------------------------


def decode(output: np.ndarray, view: View, region: Region) -> np.ndarray:
    """Class ids at the pixels of a region of the photo: (y1 - y0, x1 - x0) uint8; 0 beyond the view.

    output: (C, h, w) float32 logits. They are resampled first and compared then, so edges are smooth.
    """
    best = map_to_image(output[0], view, region)
    classes = np.zeros(best.shape, np.uint8)
    for number in range(1, len(output)):
        logit = map_to_image(output[number], view, region)
        np.copyto(classes, np.uint8(number), where=logit > best)
        np.maximum(best, logit, out=best)
    np.copyto(classes, np.uint8(0), where=~view.shows(region))
    return classes


class Metric:
    """Labelled × found classes, counted over the pixels of all photos.

    IoU is TP ÷ (TP + FP + FN), accuracy TP ÷ (TP + FN). The means are over the classes that are labelled or found,
    background among them.
    """

    protocol = "the photos' own pixels that the view shows, pooled; background is one of the classes; IGNORE left out"

    def __init__(self, labels: ClassList) -> None:
        self.labels = labels
        self.n = 0
        self.confusion = np.zeros((len(labels.names), len(labels.names)), np.int64)

    def add(self, output: np.ndarray, view: View, sample: LabelledSample) -> None:
        """Logits (C, h, w) of one view."""
        labelled = classes_of(sample, self.labels)
        region = view.region(*labelled.shape)
        x0, y0, x1, y1 = region
        counts = view.shows(region) & (labelled[y0:y1, x0:x1] != IGNORE)
        self.add_classes(decode(output, view, region)[counts], labelled[y0:y1, x0:x1][counts])

    def add_classes(self, found: np.ndarray, labelled: np.ndarray) -> None:
        """Found and labelled class ids of the same pixels, any shape, none of them IGNORE."""
        count = len(self.labels.names)
        pairs = np.bincount((labelled.astype(np.int64) * count + found).ravel(), minlength=count * count)
        self.confusion += pairs.reshape(count, count)
        self.n += 1

    def state(self) -> dict[str, np.ndarray]:
        return {"n": np.array(self.n), "confusion": self.confusion}

    @classmethod
    def from_states(cls, states: Sequence[dict[str, np.ndarray]], labels: ClassList) -> "Metric":
        """What several ranks measured, as one."""
        metric = cls(labels)
        metric.n = sum(int(state["n"]) for state in states)
        metric.confusion = sum((state["confusion"] for state in states), metric.confusion)
        return metric

    def result(self) -> dict[str, float | None]:
        """Shares from 0 to 1: mIoU, mAcc, aAcc and IoU/CLASS; None for what no pixel has."""
        right, labelled, found = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        iou = _shares(right, labelled + found - right)
        accuracy = _shares(right, labelled)
        whole = {"mIoU": _mean(iou), "mAcc": _mean(accuracy), "aAcc": _shares(right.sum(), labelled.sum())[0]}
        return whole | {f"IoU/{name}": share for name, share in zip(self.labels.names, iou, strict=True)}


def _shares(some: np.ndarray, of: np.ndarray) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(np.atleast_1d(some), np.atleast_1d(of), strict=True)]


def _mean(shares: list[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None
