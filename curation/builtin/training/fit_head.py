"""Fit a `Head`: features in, one logit per answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

from curation.builtin.heads import Head
from curation.builtin.training.variants import UNKNOWN

SEED, HIDDEN, ROUNDS, BATCH, RATE = 1, 96, 24, 256, 1e-3

Floats = NDArray[np.float32]


def fit(x: Floats, truth: NDArray[np.int8]) -> Head:
    """Learn [n,F] features → [n,answers] truths, unknown ones skipped; noise and dropout stand in for more data."""
    torch.manual_seed(SEED)
    mean, scale = x.mean(0), 1 / (x.std(0) + 1e-3)
    inputs = torch.from_numpy(np.clip((x - mean) * scale, -8, 8))
    known = torch.from_numpy(truth != UNKNOWN).float()
    target = torch.from_numpy(truth == 1).float()
    # Every answer's positives and negatives weigh the same in sum.
    share = (target * known).sum(0) / known.sum(0)
    weight = known * torch.where(target > 0, 0.5 / share, 0.5 / (1 - share))
    net = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(HIDDEN, truth.shape[1]))
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.1)
    steps = ROUNDS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        noisy = F.dropout(inputs[rows] + 0.2 * torch.randn(BATCH, x.shape[1]), 0.2)
        loss = F.binary_cross_entropy_with_logits(net(noisy), target[rows] * 0.96 + 0.02, weight[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    first, first_bias, last, last_bias = (p.detach().numpy() for p in net.parameters())
    ones, zeros = np.ones(truth.shape[1], np.float32), np.zeros(truth.shape[1], np.float32)
    return Head(mean, scale, first.T, first_bias, last.T, last_bias, ones, zeros)


def save(head: Head, path: Path) -> None:
    """fp16 safetensors; the few values that scale features and answers stay fp32."""
    small = {"hidden", "hidden_bias", "out", "out_bias"}
    arrays = {
        k: np.ascontiguousarray(v.astype(np.float16 if k in small else np.float32)) for k, v in vars(head).items()
    }
    save_file(arrays, path)
