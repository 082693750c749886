"""Make scores mean what they say: Platt's line from logits to probabilities (Platt 1999)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F


def platt(logits: NDArray[np.floating], positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset for one logit."""
    slopes, offset = fit_line(logits[:, None], positive)
    return float(slopes[0]), offset


def fit_line(logits: NDArray[np.floating], positive: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Slopes [k] and offset of the logistic regression on logits [n,k], with Platt's smoothed targets."""
    n1, n0 = int(positive.sum()), int((~positive).sum())
    target = torch.from_numpy(np.where(positive, (n1 + 1) / (n1 + 2), 1 / (n0 + 2)))
    x = torch.from_numpy(logits.astype(np.float64))
    line = torch.ones(x.shape[1] + 1, dtype=torch.float64)
    line[1:] = 0
    line.requires_grad_()
    optimizer = torch.optim.LBFGS([line], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ line[:-1] + line[-1], target)
        value.backward()
        return value

    optimizer.step(loss)
    fitted = line.detach().numpy()
    return fitted[:-1], float(fitted[-1])
