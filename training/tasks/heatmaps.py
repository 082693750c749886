"""Keypoints as heatmaps and back: UDP's unbiased coding (Huang et al. 2020).

A point at a share s of the view's extent, 0 at the first pixel's centre and 1 at the last's, lies at s·(side - 1) of a
heatmap's side, whatever the sizes of the two.
"""

import numpy as np
import torch
from torch import Tensor

_BLUR_RADIUS, _BLUR_SIGMA = 5, 2.0  # an 11 x 11 Gaussian as OpenCV chooses it
_REACH = _BLUR_RADIUS + 1  # of the blurred 3 x 3 neighbourhood of a peak


def sigma(rows: int) -> float:
    """Standard deviation of a keypoint in a heatmap with so many rows: Sapiens' 6 of 256, and no less than the 2 of
    mmpose's 64.
    """
    return max(6 * rows / 256, 2.0)


def encode(points: Tensor, visible: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, K, rows, columns) and weights (B, K), float32, of `Draw`'s targets.

    A keypoint is a Gaussian with peak 1 inside a square of three deviations either way, and 0 beyond. Its weight is
    0 where it is not labelled or its square lies outside.
    """
    spread = sigma(size[0])
    x, inside_x = _profile(points[..., 0], size[1], spread)
    y, inside_y = _profile(points[..., 1], size[0], spread)
    weights = visible * (inside_x & inside_y)
    return (y.unsqueeze(-1) * x.unsqueeze(-2)) * (visible > 0)[..., None, None], weights


def _profile(share: Tensor, side: int, spread: float) -> tuple[Tensor, Tensor]:
    """One side of the Gaussians: (B, K, side) float32, and whether their squares touch the heatmap."""
    at = share.float().unsqueeze(-1) * (side - 1)
    middle = torch.floor(at + 0.5)
    radius = round(3 * spread)
    pixels = torch.arange(side, device=share.device, dtype=torch.float32)
    values = torch.exp(-((pixels - at) ** 2) / (2 * spread**2)) * ((pixels - middle).abs() <= radius)
    return values, ((middle + radius >= 0) & (middle - radius < side)).squeeze(-1)


def peaks(heatmaps: np.ndarray) -> np.ndarray:
    """The points that heatmaps (K, rows, columns) mean: (K, 2) float64 x, y as shares of the view's extent.

    Peaks are refined by DARK (Zhang et al. 2020) as UDP has it: a Newton step on the logarithm of the blurred
    heatmap. Near an edge the blur narrows, where mmpose mixes in zeros from beyond it.
    """
    count, rows, columns = heatmaps.shape
    y, x = np.divmod(heatmaps.reshape(count, -1).argmax(1), columns)
    row, column = np.clip(y, 1, rows - 2), np.clip(x, 1, columns - 2)
    reach = np.arange(-_REACH, _REACH + 1)
    at_rows = np.clip(row[:, None] + reach, 0, rows - 1)  # what is clipped gets no weight below
    at_columns = np.clip(column[:, None] + reach, 0, columns - 1)
    around = heatmaps[np.arange(count)[:, None, None], at_rows[:, :, None], at_columns[:, None, :]]
    down = _blur_weights(np.minimum(row - 1, rows - 2 - row))
    across = _blur_weights(np.minimum(column - 1, columns - 2 - column))
    near = np.log(np.clip(down @ around.astype(np.float64) @ across.transpose(0, 2, 1), 1e-3, 50.0))
    points = np.stack([column, row], axis=1) + _newton_step(near)
    highest = np.stack([x, y], axis=1).astype(np.float64)
    points = np.where(np.abs(points - highest).max(1, keepdims=True) <= 2, points, highest)  # a flat top has no step
    return points / (columns - 1, rows - 1)


def _blur_weights(room: np.ndarray) -> np.ndarray:
    """The Gaussians that blur the 3 pixels around each peak: (K, 3, 2·_REACH + 1). room: pixels to the edge from the
    outer of the three.
    """
    offset = np.arange(-_REACH, _REACH + 1) - np.arange(-1, 2)[:, None]
    radius = np.minimum(room, _BLUR_RADIUS)[:, None, None]
    weights = np.exp(-(offset**2) / (2 * _BLUR_SIGMA**2)) * (np.abs(offset) <= radius)
    return weights / weights.sum(-1, keepdims=True)


def _newton_step(values: np.ndarray) -> np.ndarray:
    """From the middle of 3 x 3 values to the top of the parabola through them: (K, 3, 3) to (K, 2) of x, y; infinite
    where it has no top.
    """
    middle = values[:, 1, 1]
    dx, dy = (values[:, 1, 2] - values[:, 1, 0]) / 2, (values[:, 2, 1] - values[:, 0, 1]) / 2
    dxx, dyy = values[:, 1, 2] + values[:, 1, 0] - 2 * middle, values[:, 2, 1] + values[:, 0, 1] - 2 * middle
    rising = values[:, 2, 2] - values[:, 1, 2] - values[:, 2, 1] + middle  # the corners that UDP takes
    falling = values[:, 0, 0] - values[:, 1, 0] - values[:, 0, 1] + middle
    dxy = (rising + falling) / 2
    determinant = dxx * dyy - dxy**2
    has_top = (dxx < 0) & (determinant > 1e-12)
    safe = np.where(has_top, determinant, 1.0)
    step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=1) / safe[:, None]
    return np.where(has_top[:, None], step, np.inf)
