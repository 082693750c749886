"""Our heads on features of whole pictures: numbers in, calibrated probabilities out; run in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Floats = NDArray[np.float32]


def pooled(feature_map: Floats, height: int, width: int) -> Floats:
    """Mean, deviation and maximum of each channel over the top left `height` x `width` cells of [C,H,W] → [3C].

    The rest of the map saw padding, and its share would tell the picture's shape.
    """
    part = feature_map[:, :height, :width].reshape(len(feature_map), -1)
    count = part.shape[1]
    mean = part @ np.full(count, 1 / count, np.float32)
    away = part - mean[:, None]
    deviation = np.sqrt((away[:, None] @ away[:, :, None])[:, 0, 0] / count)  # BLAS, in fewer passes than part.std(1)
    return np.concatenate([mean, deviation, part.max(1)])


def related(feature_map: Floats, height: int, width: int) -> Floats:
    """Correlation of each two channels over the top left `height` x `width` cells of [C,H,W] → [C·(C-1)/2]: what tells
    styles apart (Gatys et al. 2016, section 2.2), here without the channels' scale, which `pooled` has."""
    part = feature_map[:, :height, :width].reshape(len(feature_map), -1)
    away = part - part.mean(1, keepdims=True)
    shared = away @ away.T / part.shape[1]
    deviation = np.sqrt(shared.diagonal()) + 1e-4
    return np.asarray((shared / deviation / deviation[:, None])[np.triu_indices(len(shared), 1)], np.float32)


@dataclass(frozen=True)
class Head:
    """Standardise, one hidden layer of ReLU units, one logit per answer, Platt's line (1999), sigmoid."""

    mean: Floats
    scale: Floats
    hidden: Floats
    hidden_bias: Floats
    out: Floats
    out_bias: Floats
    slope: Floats
    offset: Floats

    def __call__(self, features: Floats) -> Floats:
        """[B,F] → probabilities [B,answers]."""
        return np.asarray(1 / (1 + np.exp(-self.calibrated(features))), np.float32)

    def calibrated(self, features: Floats) -> Floats:
        """[B,F] → logits [B,answers] of the probabilities."""
        return self.logits(features) * self.slope + self.offset

    def logits(self, features: Floats) -> Floats:
        """[B,F] → uncalibrated logits [B,answers]; row by row, for BLAS adds in another order for another batch."""
        x = np.clip((features - self.mean) * self.scale, -8, 8)
        rows = [np.maximum(row @ self.hidden + self.hidden_bias, 0) @ self.out + self.out_bias for row in x]
        return np.stack(rows).astype(np.float32)


def load_head(path: Path) -> Head:
    """Read a head from safetensors, fp16 or fp32."""
    return Head(**{name: array.astype(np.float32) for name, array in load_file(path).items()})
