"""Surface normals of a person: unit vectors, x right, y up, z towards the camera."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from shards.labelled import LabelledSample
from training.labels.decode import normals_from_png
from training.tasks import dense
from training.tasks.dense import Dense
from training.tasks.view import Region, View, map_to_image, turn_vectors, vectors_to_image, warp_labels

ANGLES = (11.25, 22.5, 30.0)

_BINS_PER_DEGREE = 100
_LEAST = 1e-6  # length below which an output has no direction


def normals_of(sample: LabelledSample, labels: Any = None) -> np.ndarray:
    """(H, W, 3) float32 unit vectors of a sample, NaN where there is none. Raises BrokenImage."""
    return normals_from_png(sample.label)


def to_view(normals: np.ndarray, view: View, labels: Any = None) -> np.ndarray:
    """Normals of a photo (H, W, 3), NaN or 0 where there is none, as a view shows them: (rows, columns, 3) float32
    unit vectors in the view's axes, 0 where there is none. They turn with the view; in a mirrored one x is negated.
    """
    return unit(turn_vectors(warp_labels(normals, view, np.nan), view))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) at length 1; 0 where they are not finite or have no length."""
    square = _square(vectors)
    usable = np.isfinite(square) & (square > 0)
    scale = 1 / np.sqrt(np.where(usable, square, 1))
    return np.where(usable[..., None], vectors * scale[..., None], 0)


DENSE = Dense(
    target="normals",
    read=normals_of,
    to_view=to_view,
    people=lambda normals: (normals != 0).any(axis=2),
    nothing=0.0,
    rotation=0.0,  # Sapiens does not turn them
    rotation_chance=0.5,
    background_chance=0.5,
)
Draw = partial(dense.Draw, DENSE)
"""Target: normals (rows, columns, 3) float32 unit vectors in the view's axes, 0 where there is none."""


# -- learning ----------------------------------------------------------------------------------------------------------


def loss(output: Tensor, targets: dict[str, Tensor], labels: Any = None) -> Tensor:
    """Sapiens' sum of two means over the labelled pixels of the batch: 1 - cosine, and the sum of |output - target|
    over x, y and z, of the output as it is.

    output: (B, 3, h, w), not normalised, enlarged to the target's size. A batch without labels counts as 0.
    """
    target = targets["normals"].permute(0, 3, 1, 2)
    output = F.interpolate(output.float(), size=target.shape[-2:], mode="bilinear", align_corners=False)
    valid = (target != 0).any(dim=1)
    count = valid.sum().clamp_min(1)
    cosine = F.cosine_similarity(output, target, dim=1, eps=_LEAST)
    apart = (output - target).abs().sum(dim=1)
    return (((1 - cosine) + apart) * valid).sum() / count


# -- using -------------------------------------------------------------------------------------------------------------


def decode(output: np.ndarray, view: View, region: Region) -> np.ndarray:
    """Unit normals at the pixels of a region of the photo: (y1 - y0, x1 - x0, 3) float32 in the photo's axes; NaN
    beyond the view.

    output: (3, h, w) float32.
    """
    vectors = map_to_image(np.ascontiguousarray(output.transpose(1, 2, 0)), view, region)
    return np.where(view.shows(region)[..., None], unit(vectors_to_image(vectors, view)), np.float32(np.nan))


class Metric:
    """Angles between found and labelled normals, pooled over the labelled pixels of all photos.

    The median is that of a histogram with bins of 0.01°; everything else is exact.
    """

    protocol = "on labelled pixels, pooled over all photos; median to 0.01°"

    def __init__(self, labels: Any = None) -> None:
        self.labels = labels
        self.n = 0
        self._sum = 0.0
        self._within = np.zeros(len(ANGLES), np.int64)
        self._histogram = np.zeros(180 * _BINS_PER_DEGREE + 1, np.int64)

    def add(self, output: np.ndarray, view: View, sample: LabelledSample) -> None:
        """Output (3, h, w) of one view."""
        labelled = normals_of(sample)
        region = view.region(*labelled.shape[:2])
        x0, y0, x1, y1 = region
        self.add_normals(decode(output, view, region), labelled[y0:y1, x0:x1])

    def add_normals(self, found: np.ndarray, labelled: np.ndarray) -> None:
        """Found and labelled normals of one photo, (H, W, 3); NaN or 0 where there is none. A found one without
        direction counts as 90° off.
        """
        valid = (_square(labelled) > 0) & ~np.isnan(_square(found))
        if not valid.any():
            return
        angles = angles_between(found[valid], labelled[valid])
        self._sum += float(angles.sum())
        self._within += [int((angles < limit).sum()) for limit in ANGLES]
        self._histogram += np.bincount((angles * _BINS_PER_DEGREE).astype(np.int64), minlength=len(self._histogram))
        self.n += 1

    def state(self) -> dict[str, np.ndarray]:
        return {
            "n": np.array(self.n),
            "sum": np.array(self._sum),
            "within": self._within,
            "histogram": self._histogram,
        }

    @classmethod
    def from_states(cls, states: Sequence[dict[str, np.ndarray]], labels: Any = None) -> "Metric":
        """What several ranks measured, as one."""
        metric = cls(labels)
        for state in states:
            metric.n += int(state["n"])
            metric._sum += float(state["sum"])
            metric._within += state["within"]
            metric._histogram += state["histogram"]
        return metric

    def result(self) -> dict[str, float | None]:
        """mean and median in degrees; within_11.25, within_22.5 and within_30 as shares; None without pixels."""
        pixels = int(self._histogram.sum())
        names = ["mean", "median", *(f"within_{angle:g}" for angle in ANGLES)]
        if not pixels:
            return dict.fromkeys(names)
        values = [self._sum / pixels, _median(self._histogram), *(self._within / pixels)]
        return {name: float(value) for name, value in zip(names, values, strict=True)}


def angles_between(found: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Degrees between vectors (N, 3) of any length: (N,) float64, 90 where one has none."""
    a, b = found.astype(np.float64), labelled.astype(np.float64)
    lengths = np.sqrt(_square(a) * _square(b))
    cosine = np.einsum("...i,...i->...", a, b) / np.where(lengths > 0, lengths, 1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _square(vectors: np.ndarray) -> np.ndarray:
    """Squared lengths of vectors (..., 3); NaN where a component is."""
    return np.einsum("...i,...i->...", vectors, vectors)


def _median(histogram: np.ndarray) -> float:
    """Degrees in the middle of the bin that holds the middle of the counts."""
    middle = int(np.searchsorted(np.cumsum(histogram), (histogram.sum() + 1) // 2))
    return (middle + 0.5) / _BINS_PER_DEGREE
