"""Relative depth of a person: 0 where it is nearest, 1 where it is farthest."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shards.crop import BrokenImage
from shards.labelled import LabelledSample
from training.labels.decode import depth_from_png
from training.tasks import dense
from training.tasks.dense import Dense
from training.tasks.view import Region, View, map_to_image, warp_labels

NONE = -1.0
"""The target of pixels without depth."""

_EPSILON = 1e-6
_SHARPNESS = 20.0
"""Of the softplus below: at 0 it is 0.035, and an output above 0.1 stays what it is within 0.01."""


def depth_of(sample: LabelledSample, labels: Any = None) -> np.ndarray:
    """(H, W) float32 depth of a sample in its label's unit, NaN where there is none. Raises BrokenImage."""
    near, far = sample.row["near"], sample.row["far"]
    if near is None or far is None or not np.isfinite(near) or not np.isfinite(far):
        raise BrokenImage(f"the depth label lies between near {near} and far {far}; pack it again")
    return depth_from_png(sample.label, near, far)


def to_view(depth: np.ndarray, view: View, labels: Any = None) -> np.ndarray:
    """Depth of a photo (H, W) in any unit, NaN where there is none, as a view shows it: (rows, columns) float32 from
    0 at its nearest to 1 at its farthest pixel, NONE elsewhere.
    """
    depth = warp_labels(depth, view, np.nan)
    valid = np.isfinite(depth)
    if not valid.any():
        return np.full(depth.shape, NONE, np.float32)
    near, far = float(depth[valid].min()), float(depth[valid].max())
    return np.where(valid, (depth - near) / max(far - near, _EPSILON), NONE).astype(np.float32)


DENSE = Dense(
    target="depth",
    read=depth_of,
    to_view=to_view,
    people=lambda depth: depth != NONE,
    nothing=NONE,
    rotation=60.0,
    rotation_chance=0.5,
    background_chance=0.5,
)
Draw = partial(dense.Draw, DENSE)
"""Target: depth (rows, columns) float32, from 0 at the nearest to 1 at the farthest labelled pixel of the view, NONE
elsewhere.
"""


# -- learning ----------------------------------------------------------------------------------------------------------


def loss(output: Tensor, targets: dict[str, Tensor], labels: Any = None, floor: float = 0.0) -> Tensor:
    """Scale-invariant log loss (Eigen et al. 2014): with d = ln(target + floor) - ln(output + floor) over the labelled
    pixels of an image, sqrt(mean d² - mean(d)² / 2), the mean over the batch.

    output: (B, 1, h, w), enlarged to the target's size. floor 0 is Sapiens' own: targets up to 1e-6 are left out, and
    outputs below 1e-6 count as 1e-6 and get no gradient. A floor keeps the nearest pixels, whose logarithm has no
    bound, from ruling the loss, and outputs below 0 alive (a softplus, sharp enough to change little above 0). An
    image without depth counts as 0, and so does the gradient of a perfect one.
    """
    target = targets["depth"]
    output = output.float()
    if output.shape[-2:] != target.shape[-2:]:
        output = F.interpolate(output, size=target.shape[-2:], mode="bilinear", align_corners=False)
    if floor > 0:
        valid = target >= 0
        found = F.softplus(output[:, 0], beta=max(2 / floor, _SHARPNESS)) + floor
        d = ((target.clamp_min(0) + floor).log() - found.log()) * valid
    else:
        valid = target > _EPSILON
        d = (target.clamp_min(_EPSILON).log() - output[:, 0].clamp_min(_EPSILON).log()) * valid
    count = valid.sum(dim=(1, 2)).clamp_min(1)
    square = d.square().sum(dim=(1, 2)) / count - 0.5 * (d.sum(dim=(1, 2)) / count).square()
    nonzero = square > 0
    return torch.where(nonzero, torch.where(nonzero, square, 1.0).sqrt(), 0.0 * square).mean()


# -- using -------------------------------------------------------------------------------------------------------------


def decode(output: np.ndarray, view: View, region: Region) -> np.ndarray:
    """Relative depth, 0 or more, in a region of the photo: (y1 - y0, x1 - x0) float32; NaN beyond the view.

    output: (1, h, w) float32. It has no unit, and its zero and scale are each person's own. Below 0 it means 0: the
    loss does not see how far below.
    """
    nearest_is_0 = np.maximum(output[0], np.float32(0))
    return np.where(view.shows(region), map_to_image(nearest_is_0, view, region), np.float32(np.nan))


class Metric:
    """AbsRel, RMSE and δ1 of each photo, averaged over photos, on labelled pixels only.

    Relative depth has no unit, so each photo's is aligned first: scale s and shift t by least squares of s·output + t
    against the label, and not below `FLOOR` of the label's median. RMSE/relative needs no alignment: the label is
    brought to 0 … 1, the output is the model's own. Outputs below 0 count as 0 in all of them, as in `decode`.
    """

    FLOOR = 1e-3
    protocol = "on labelled pixels, per photo; aligned by least squares (scale and shift, in depth)"
    _NAMES = ("AbsRel", "RMSE", "delta1", "RMSE/relative")

    def __init__(self, labels: Any = None) -> None:
        self.labels = labels
        self.n = 0
        self._sums = np.zeros(len(self._NAMES))

    def add(self, output: np.ndarray, view: View, sample: LabelledSample) -> None:
        """Output (1, h, w) of one view."""
        labelled = depth_of(sample)
        region = view.region(*labelled.shape)
        x0, y0, x1, y1 = region
        self.add_depth(decode(output, view, region), labelled[y0:y1, x0:x1])

    def add_depth(self, found: np.ndarray, labelled: np.ndarray) -> None:
        """Relative and labelled depth of one photo, of one shape; NaN where there is none. A photo without any pixel
        that has both counts nowhere.
        """
        both = np.isfinite(found) & np.isfinite(labelled) & (labelled > 0)
        if not both.any():
            return
        p, g = found[both].astype(np.float64), labelled[both].astype(np.float64)
        aligned = np.maximum(align(p, g), self.FLOOR * np.median(g))
        relative = (g - g.min()) / max(g.max() - g.min(), _EPSILON)
        self._sums += (
            np.mean(np.abs(aligned - g) / g),
            np.sqrt(np.mean((aligned - g) ** 2)),
            np.mean(np.maximum(aligned / g, g / aligned) < 1.25),
            np.sqrt(np.mean((p - relative) ** 2)),
        )
        self.n += 1

    def state(self) -> dict[str, np.ndarray]:
        return {"n": np.array(self.n), "sums": self._sums}

    @classmethod
    def from_states(cls, states: Sequence[dict[str, np.ndarray]], labels: Any = None) -> "Metric":
        """What several ranks measured, as one."""
        metric = cls(labels)
        metric.n = sum(int(state["n"]) for state in states)
        metric._sums = sum((state["sums"] for state in states), metric._sums)
        return metric

    def result(self) -> dict[str, float | None]:
        """AbsRel and delta1 as shares, RMSE in the label's unit; None where no photo has depth."""
        return {
            name: float(total / self.n) if self.n else None for name, total in zip(self._NAMES, self._sums, strict=True)
        }


def align(found: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """s·found + t that is nearest to `labelled` in squares; both (N,) float64. A constant becomes the mean."""
    centred = found - found.mean()
    variance = float(centred @ centred)
    scale = float(centred @ (labelled - labelled.mean())) / variance if variance > 0 else 0.0
    return scale * centred + labelled.mean()
