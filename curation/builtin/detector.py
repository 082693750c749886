"""The person detector: a YOLOv8n-shaped network without batch normalisation, one class, anchor free.

The layout (C2f blocks, SPPF, a path-aggregation neck at strides 8, 16 and 32, a head that predicts each side's
distance as a distribution over 16 bins) is that of YOLOv8 (Ultralytics, 2023), so that the network in the `nudenet`
wheel can be its start.
Normalisation is folded into the convolutions there, and stays folded: training runs on the plain convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
BINS = 16
NECK = (64, 128, 256)  # channels
WIDE, SLIM = 64, 32  # channels inside the heads, as they are trained and as they are shipped


class Conv(nn.Module):
    """Convolution with a bias, then SiLU; same padding unless it is given."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(x))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with the input added in the backbone and not in the neck."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels, 3)
        self.cv2 = Conv(channels, channels, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.residual else y


class C2f(nn.Module):
    """Split the channels in two, send one half through bottlenecks, concatenate every intermediate result."""

    def __init__(self, inputs: int, outputs: int, depth: int, residual: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = Conv(inputs, outputs)
        self.cv2 = Conv(half * (2 + depth), outputs)
        self.m = nn.ModuleList(Bottleneck(half, residual) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Three max pools in a row: context of 5, 9 and 13 cells beside the cell itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels // 2)
        self.cv2 = Conv(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        return self.cv2(torch.cat(parts, 1))


def _branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Conv(inputs, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1))


class PeopleDetector(nn.Module):
    """float32 [B,3,H,W] in 0…1 (H, W multiples of 32) → (sides, logits, and the backbone's maps at strides 8, 16, 32).

    sides float32 [B,64,N] are logits of 16 distances for each of a box's four sides, logits float32 [B,N] of a person,
    both before anything is done to them; N counts the cells of the three strides, rows first. The maps have 64, 128 and
    256 channels. `hidden`: channels inside the heads.
    """

    def __init__(self, hidden: int = SLIM) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                "0": Conv(3, 16, 3, 2),
                "1": Conv(16, 32, 3, 2),
                "2": C2f(32, 32, 1, True),
                "3": Conv(32, 64, 3, 2),
                "4": C2f(64, 64, 2, True),
                "5": Conv(64, 128, 3, 2),
                "6": C2f(128, 128, 2, True),
                "7": Conv(128, 256, 3, 2),
                "8": C2f(256, 256, 1, True),
                "9": SPPF(256),
                "12": C2f(384, 128, 1, False),
                "15": C2f(192, 64, 1, False),
                "16": Conv(64, 64, 3, 2),
                "18": C2f(192, 128, 1, False),
                "19": Conv(128, 128, 3, 2),
                "21": C2f(384, 256, 1, False),
            }
        )
        self.sides = nn.ModuleList(_branch(c, hidden, 4 * BINS) for c in NECK)
        self.person = nn.ModuleList(_branch(c, hidden, 1) for c in NECK)

    def backbone(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Its maps at strides 8, 16 and 32, with 64, 128 and 256 channels."""
        net = self.layers
        for name in ("0", "1", "2", "3"):
            x = net[name](x)
        c3 = net["4"](x)
        c4 = net["6"](net["5"](c3))
        return c3, c4, net["9"](net["8"](net["7"](c4)))

    def neck(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The backbone's maps after a look at each other, of the same shapes."""
        net = self.layers
        p4 = net["12"](torch.cat([F.interpolate(c5, scale_factor=2.0), c4], 1))
        p3 = net["15"](torch.cat([F.interpolate(p4, scale_factor=2.0), c3], 1))
        p4 = net["18"](torch.cat([net["16"](p3), p4], 1))
        return p3, p4, net["21"](torch.cat([net["19"](p4), c5], 1))

    def heads(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(sides [B,64,N], person logits [B,N]) from the neck's maps."""
        sides = torch.cat([head(m).flatten(2) for head, m in zip(self.sides, maps, strict=True)], 2)
        person = torch.cat([head(m).flatten(2) for head, m in zip(self.person, maps, strict=True)], 2)
        return sides, person[:, 0]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(x)
        return *self.heads(self.neck(*maps)), *maps


def cells(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cell centres float32 [N,2] (x, y in pixels) and their strides float32 [N] for an input of this size."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(
            torch.arange(height // stride, dtype=torch.float32) + 0.5,
            torch.arange(width // stride, dtype=torch.float32) + 0.5,
            indexing="ij",
        )
        centres.append(torch.stack([x, y], -1).flatten(0, 1) * stride)
        strides.append(torch.full((y.numel(),), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def to_boxes(sides: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Side logits [B,N,4,16] → boxes [B,N,4], x0,y0,x1,y1 in pixels of the input: a side lies at its distribution's
    mean, in strides from the centre."""
    bins = torch.arange(BINS, dtype=torch.float32, device=sides.device)
    distance = (sides.float().softmax(-1) * bins).sum(-1) * strides[:, None]
    return torch.cat([centres - distance[..., :2], centres + distance[..., 2:]], -1)


def by_cell(sides: Tensor) -> Tensor:
    """What the network says of sides [B,64,N] → [B,N,4,16]."""
    return sides.transpose(1, 2).unflatten(2, (4, BINS))


@lru_cache
def _places(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    centres, strides = cells(height, width)
    return centres.numpy(), strides.numpy()


def likely_boxes(
    sides: NDArray[np.float32], logits: NDArray[np.float32], shape: tuple[int, int], least: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(boxes [n,4], scores [n]) of the cells of one picture with a score of at least `least`: `to_boxes` for the few.

    sides [64,N] and logits [N] are what the network said of an input of `shape` (height, width).
    """
    chosen = np.flatnonzero(logits >= math.log(least / (1 - least)))
    centres, strides = _places(*shape)
    picked = sides[:, chosen].reshape(4, BINS, -1)
    share = np.exp(picked - picked.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    distance = np.einsum("sbn,b->ns", share, np.arange(BINS, dtype=np.float32)) * strides[chosen, None]
    corners = [centres[chosen] - distance[:, :2], centres[chosen] + distance[:, 2:]]
    scores = 1 / (1 + np.exp(-logits[chosen]))
    return np.concatenate(corners, 1).astype(np.float32), scores.astype(np.float32)
