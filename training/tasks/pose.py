"""Keypoints of a person, found as the peaks of heatmaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from torch import Tensor

from shards.crop import BrokenImage, Encoded
from shards.labelled import LabelledSample
from training.labels.sets import KeypointSet
from training.tasks.coco import average_precision
from training.tasks.heatmaps import encode, peaks
from training.tasks.jitter import pose_view
from training.tasks.photometric import blur, distort_colours, drop_hole
from training.tasks.view import View, fit, points_to_image, read_image, warp_points

PCK_SHARES = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Draw:
    """What a model of `size` (rows, columns) is shown of a sample.

    Augmented: Sapiens' chain, each step a function of the key: half body, shift, scale, rotation and mirroring
    (`pose_view`), colours, blur and a black hole.
    """

    size: tuple[int, int]
    labels: KeypointSet
    augmented: bool

    def view(self, sample: LabelledSample, key: int = 0) -> View:
        """Raises BrokenImage."""
        if not self.augmented:
            return fit(sample.box, self.size)
        return pose_view(sample.box, keypoints_of(sample, self.labels), self.labels, self.size, key)

    def __call__(self, sample: LabelledSample, key: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The view, (rows, columns, 3) uint8 RGB, and its targets: points (K, 2) float32, shares of the view's
        extent where 0 is the first pixel's centre and 1 the last's; visible (K,) float32, 0 or 1. Raises BrokenImage.
        """
        keypoints = keypoints_of(sample, self.labels)
        view = self.view(sample, key)
        image = read_image(Encoded(sample.image), view)
        if self.augmented:
            image = drop_hole(blur(distort_colours(image, key), key), key)
        points, visible = to_view(keypoints, view, self.labels)
        return image, {"points": points.astype(np.float32), "visible": visible.astype(np.float32)}


def keypoints_of(sample: LabelledSample, labels: KeypointSet) -> np.ndarray:
    """(K, 3) float64 of x, y in the photo's pixels and v, above 0 where labelled. Raises BrokenImage."""
    given = np.asarray(sample.row["keypoints"], np.float64)
    if given.size != 3 * len(labels.names):
        raise BrokenImage(f"{given.size} keypoint numbers where {labels.name} has 3 x {len(labels.names)}")
    keypoints = given.reshape(-1, 3).copy()
    keypoints[~np.isfinite(keypoints).all(axis=1)] = 0  # a point that is nowhere is not labelled
    return keypoints


def to_view(keypoints: np.ndarray, view: View, labels: KeypointSet) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of a photo (K, 3) as a view shows them: points (K, 2) float64 as shares of its extent, 0 where not
    labelled, and which are labelled (K,) bool. In a mirrored view left and right are swapped.
    """
    if view.flipped:
        keypoints = keypoints[list(labels.flip_order)]
    visible = keypoints[:, 2] > 0
    points = warp_points(keypoints[:, :2], view) / (view.size[1] - 1, view.size[0] - 1)
    return np.where(visible[:, None], points, 0.0), visible


# -- learning ----------------------------------------------------------------------------------------------------------


def loss(output: Tensor, targets: dict[str, Tensor], labels: KeypointSet, hardest: int | None = None) -> Tensor:
    """Squared error of the heatmaps, the mean over all samples, keypoints and pixels; keypoints without a label count
    as 0.

    output: (B, K, rows, columns). hardest: instead the mean over the keypoints of each sample with the largest
    errors; Sapiens takes 128 of 308 for its 0.3B and 1B models (mmpose's KeypointOHKMMSELoss).
    """
    heatmaps, weights = encode(targets["points"], targets["visible"], (output.shape[-2], output.shape[-1]))
    errors = (output.float() - heatmaps).square().mean(dim=(2, 3)) * weights
    if hardest is not None:
        errors = errors.topk(min(hardest, errors.shape[1]), dim=1).values
    return errors.mean()


# -- using -------------------------------------------------------------------------------------------------------------


def unmirror(output: np.ndarray, labels: KeypointSet) -> np.ndarray:
    """What heatmaps (K, rows, columns) of a mirrored view say about the view itself, for averaging the two."""
    return output[list(labels.flip_order), :, ::-1]


def decode(output: np.ndarray, view: View) -> np.ndarray:
    """Keypoints in pixels of the photo: (K, 3) float64 of x, y and score, the height of the heatmap's peak.

    output: (K, rows, columns) float32. Where mmpose takes heatmap pixels to the view's by side ÷ (side - 1), up to a
    pixel off at the far edge, this inverts the encoding.
    """
    points = peaks(output) * (view.size[1] - 1, view.size[0] - 1)
    return np.column_stack([points_to_image(points, view), output.max(axis=(1, 2))])


class Metric:
    """Labelled and found keypoints of many people, and what they come to.

    AP and AR are COCO's, over OKS 0.50 … 0.95; for whole-body sets also for each group, as COCO-WholeBody has it:
    the same people and scores, the group's keypoints only. People whose area is not labelled cannot be in them.
    PCK@t is the share of labelled keypoints within t times the longer side of the person's box.
    """

    protocol = "boxes: labelled ones; person score: mean of keypoint scores above 0.2; no OKS-NMS; PCK: longer box side"

    def __init__(self, labels: KeypointSet) -> None:
        self.labels = labels
        self._people: list[dict[str, Any]] = []

    @property
    def n(self) -> int:
        """People measured."""
        return len(self._people)

    def add(self, output: np.ndarray, view: View, sample: LabelledSample) -> None:
        """Heatmaps (K, rows, columns) of one person's view."""
        self.add_keypoints(decode(output, view), keypoints_of(sample, self.labels), sample)

    def add_keypoints(self, found: np.ndarray, labelled: np.ndarray, sample: LabelledSample) -> None:
        """Found (x, y, score) and labelled (x, y, v) keypoints of a person, both (K, 3) in the photo's pixels."""
        area = sample.row["area"]
        self._people.append(
            {
                "found": found,
                "labelled": labelled,
                "box": sample.box,
                "area": np.nan if area is None else float(area),
                "image_id": _photo_of(sample),
            }
        )

    def state(self) -> dict[str, np.ndarray]:
        """All that `from_states` needs; the first axis of each array is the person."""
        count = len(self.labels.names)
        shapes = {"found": (count, 3), "labelled": (count, 3), "box": (4,), "area": (), "image_id": ()}
        return {
            name: np.array([person[name] for person in self._people], np.float64).reshape(self.n, *shape)
            for name, shape in shapes.items()
        }

    @classmethod
    def from_states(cls, states: Sequence[dict[str, np.ndarray]], labels: KeypointSet) -> "Metric":
        """What several ranks measured, as one."""
        metric = cls(labels)
        for state in states:
            columns = [state[name] for name in ("found", "labelled", "box", "area", "image_id")]
            for found, labelled, box, area, image_id in zip(*columns, strict=True):
                metric._people.append(
                    {"found": found, "labelled": labelled, "box": box, "area": float(area), "image_id": int(image_id)}
                )
        return metric

    def result(self) -> dict[str, float | None]:
        """Shares from 0 to 1 by name; None where nothing can be measured."""
        state = self.state()
        everything = tuple(range(len(self.labels.names)))
        result = average_precision(state, everything, self.labels.sigmas)
        for name, group in self.labels.groups.items():
            of_group = average_precision(state, group, self.labels.sigmas)
            result |= {f"{name}/{key}": value for key, value in of_group.items()}
        return result | _pck(state)


def _photo_of(sample: LabelledSample) -> int:
    """A number for the photo: of its bytes, because ids and keys repeat between data sets. Exact in float64."""
    return int.from_bytes(blake2b(sample.image, digest_size=6).digest())


def _pck(state: dict[str, np.ndarray]) -> dict[str, float | None]:
    labelled = state["labelled"][:, :, 2] > 0
    distance = np.linalg.norm(state["found"][:, :, :2] - state["labelled"][:, :, :2], axis=2)
    box = state["box"]
    longer = np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])[:, None]
    return {
        f"PCK@{share:g}": float((distance <= share * longer)[labelled].mean()) if labelled.any() else None
        for share in PCK_SHARES
    }
