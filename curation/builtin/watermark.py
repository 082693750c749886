"""A dense head on PP-OCR's maps: where is a mark laid over the picture, then: is there one at all.

Marks are small or faint; pooling a whole picture drowns them. The head therefore looks at each cell of 16 x 16 pixels
and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Floats = NDArray[np.float32]
CELL = 16  # pixels of the text detector's input
FINE, COARSE = 2 * 96 + 192 + 2, 384  # features of a cell, and those that it shares with three neighbours
TOP_SHARES = (0.01, 0.05, 0.2)


def mark_cells(chance: Floats, maps: Sequence[Floats]) -> tuple[Floats, Floats]:
    """One picture's text chance [h,w] and maps at strides 8, 16, 32 → features [386,h/16,w/16] of its cells, and
    [384,h/32,w/32] of fours of them.
    """
    small, middle, coarse = maps
    rows, columns = middle.shape[1:]
    blocks = chance.reshape(rows, CELL, -1)
    fine = np.empty((FINE, rows, columns), np.float32)
    halved = cv2.resize(small.reshape(-1, 2 * columns), (columns, 96 * rows), interpolation=cv2.INTER_AREA)
    fine[:96] = halved.reshape(96, rows, columns)
    upper = np.maximum(small[:, ::2], small[:, 1::2])
    np.maximum(upper[:, :, ::2], upper[:, :, 1::2], out=fine[96:192])
    fine[192:384] = middle
    fine[384] = blocks.max(1).reshape(rows, columns, CELL).max(2)
    fine[385] = blocks.mean(1).reshape(rows, columns, CELL).mean(2)
    return fine, coarse


@dataclass(frozen=True)
class MarkHead:
    """Per cell: standardise, 1x1 to 64, 3x3 to 64, a logit; then a small network on the strongest and the mean.

    What four cells share is standardised and multiplied once for all of them.
    """

    mean: Floats  # [386], and of what four cells share [384]
    scale: Floats
    near: Floats  # [64,386]
    coarse_mean: Floats
    coarse_scale: Floats
    coarse_near: Floats  # [64,384]
    near_bias: Floats
    around: Floats  # [3,3,64,64]: row, column, in, out
    around_bias: Floats
    cell: Floats  # [64,1]
    cell_bias: Floats
    hidden: Floats
    hidden_bias: Floats
    out: Floats
    out_bias: Floats
    slope: Floats
    offset: Floats

    def __call__(self, fine: Floats, coarse: Floats, rows: int, columns: int) -> float:
        """Chance of a mark from `mark_cells`; the picture covers the top left `rows` x `columns` cells."""
        logit = self.logit(fine, coarse, rows, columns) * self.slope[0] + self.offset[0]
        return float(1 / (1 + np.exp(-logit)))

    def logit(self, fine: Floats, coarse: Floats, rows: int, columns: int) -> float:
        """The uncalibrated answer."""
        answers, deep = self.places(fine, coarse, rows, columns)
        summary = summarise(answers, deep)
        return float((np.maximum(summary @ self.hidden + self.hidden_bias, 0) @ self.out + self.out_bias)[0])

    def places(self, fine: Floats, coarse: Floats, rows: int, columns: int) -> tuple[Floats, Floats]:
        """Logits [rows·columns] and hidden values [rows·columns,64] of the cells on the picture."""
        h, w = -(-rows // 2), -(-columns // 2)
        shared = _standardised(coarse[:, :h, :w], self.coarse_mean, self.coarse_scale).T @ self.coarse_near.T
        near = _standardised(fine[:, : 2 * h, : 2 * w], self.mean, self.scale).T @ self.near.T
        near = near.reshape(h, 2, w, 2, -1)
        near += (shared + self.near_bias).reshape(h, 1, w, 1, -1)
        padded = np.zeros((rows + 2, columns + 2, near.shape[-1]), np.float32)
        np.maximum(near.reshape(2 * h, 2 * w, -1)[:rows, :columns], 0, out=padded[1:-1, 1:-1])
        windows = np.concatenate([padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], 2)
        deep = windows.reshape(rows * columns, -1) @ self.around.reshape(windows.shape[2], -1)
        deep += self.around_bias
        np.maximum(deep, 0, out=deep)
        return (deep @ self.cell + self.cell_bias)[:, 0], deep


def _standardised(x: Floats, mean: Floats, scale: Floats) -> Floats:
    """[C,h,w] → [C,h·w], at most 8 deviations from the mean."""
    x = x - mean[:, None, None]  # a copy, changed in place below
    x *= scale[:, None, None]
    return np.clip(x, -8, 8, out=x).reshape(len(x), -1)


def summarise(answers: Floats, deep: Floats) -> Floats:
    """Mean of the strongest 1, 5 and 20 % of the cells' logits, of all, then mean and maximum of the hidden values."""
    ranked = np.sort(answers)[::-1]
    tops = [ranked[: max(1, int(len(ranked) * share))].mean() for share in TOP_SHARES]
    return np.concatenate([[*tops, ranked.mean()], deep.mean(0), deep.max(0)]).astype(np.float32)


def load_mark_head(path: Path) -> MarkHead:
    """Read the head from safetensors, fp16 or fp32."""
    return MarkHead(**{name: array.astype(np.float32) for name, array in load_file(path).items()})
