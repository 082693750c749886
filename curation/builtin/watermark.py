"""A dense head on PP-OCR's maps: where is a mark laid over the picture, then: is there one at all.

Marks are small or faint; pooling a whole picture drowns them. The head therefore looks at each cell of 16 x 16 pixels
and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Floats = NDArray[np.float32]
CELL = 16  # pixels of the text detector's input
CHANNELS = 2 * 96 + 192 + 384 + 2
TOP_SHARES = (0.01, 0.05, 0.2)


def mark_cells(chance: Floats, maps: Sequence[Floats]) -> Floats:
    """One picture's text chance [h,w] and maps at strides 8, 16, 32 → [770,h/16,w/16], a column per cell."""
    fine, middle, coarse = maps
    rows, columns = middle.shape[1:]
    a, b, c, d = (
        fine[:, y::2, x::2] for y in (0, 1) for x in (0, 1)
    )  # quicker by far than reducing over a reshaped map
    blocks = chance.reshape(rows, CELL, -1)
    highest = blocks.max(1).reshape(rows, columns, CELL).max(2)
    average = blocks.mean(1).reshape(rows, columns, CELL).mean(2)
    wide = coarse.repeat(2, 1).repeat(2, 2)
    parts = [(a + b + c + d) / 4, np.maximum(np.maximum(a, b), np.maximum(c, d)), middle, wide]
    return np.concatenate([*parts, highest[None], average[None]])


@dataclass(frozen=True)
class MarkHead:
    """Per cell: standardise, 1x1 to 64, 3x3 to 64, a logit; then a small network on the strongest and the mean."""

    mean: Floats  # [770]
    scale: Floats  # [770]
    near: Floats  # [770,64]
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

    def __call__(self, cells: Floats, rows: int, columns: int) -> float:
        """Chance of a mark from `mark_cells`; the picture covers the top left `rows` x `columns` cells."""
        logit = self.logit(cells, rows, columns) * self.slope[0] + self.offset[0]
        return float(1 / (1 + np.exp(-logit)))

    def logit(self, cells: Floats, rows: int, columns: int) -> float:
        """The uncalibrated answer."""
        answers, deep = self.places(cells, rows, columns)
        summary = summarise(answers, deep)
        return float((np.maximum(summary @ self.hidden + self.hidden_bias, 0) @ self.out + self.out_bias)[0])

    def places(self, cells: Floats, rows: int, columns: int) -> tuple[Floats, Floats]:
        """Logits [rows·columns] and hidden values [rows·columns,64] of the cells on the picture."""
        x = cells[:, :rows, :columns].reshape(CHANNELS, -1) - self.mean[:, None]  # a copy, changed in place below
        x *= self.scale[:, None]
        np.clip(x, -8, 8, out=x)
        near = np.maximum(self.near.T @ x + self.near_bias[:, None], 0).T.reshape(rows, columns, -1)
        padded = np.pad(near, ((1, 1), (1, 1), (0, 0)))
        y = sum(padded[i : i + rows, j : j + columns] @ self.around[i, j] for i in range(3) for j in range(3))
        deep = np.maximum(y + self.around_bias, 0).reshape(rows * columns, -1)
        return (deep @ self.cell + self.cell_bias)[:, 0], deep


def summarise(answers: Floats, deep: Floats) -> Floats:
    """Mean of the strongest 1, 5 and 20 % of the cells' logits, of all, then mean and maximum of the hidden values."""
    ranked = np.sort(answers)[::-1]
    tops = [ranked[: max(1, int(len(ranked) * share))].mean() for share in TOP_SHARES]
    return np.concatenate([[*tops, ranked.mean()], deep.mean(0), deep.max(0)]).astype(np.float32)


def load_mark_head(path: Path) -> MarkHead:
    """Read the head from safetensors, fp16 or fp32."""
    return MarkHead(**{name: array.astype(np.float32) for name, array in load_file(path).items()})
