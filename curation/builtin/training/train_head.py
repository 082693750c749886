"""Train a head: python -m curation.builtin.training.train_head {watermark,style} DATA --work FOLDER --variants N

Features of N variants of the pictures in `train/` are computed once, in chunks that a later run finds again; both heads share
them. The head itself trains in a minute. Its probabilities are calibrated on `dev/` (Platt 1999), nothing else is learnt there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

from curation.builtin import Builtin
from curation.builtin.heads import Head, load_head
from curation.builtin.networks import TEXT_FEATURES
from curation.builtin.training.collection import read_collection
from curation.builtin.training.head_features import held_out_features, variant_features
from curation.builtin.training.metrics import auc
from curation.builtin.training.variants import TRUTHS, UNKNOWN, Variants

ANSWERS = {"watermark": ("watermarked",), "style": ("artistic", "generated", "composed")}
SEED, HIDDEN, ROUNDS, BATCH, RATE = 1, 96, 24, 256, 1e-3

Floats = NDArray[np.float32]


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    builtin = Builtin(args.threads)
    pictures = read_collection(args.data, "train")
    x, truth = variant_features(Variants(pictures, SEED), args.variants, args.work / "variants", builtin)
    held_x, held_truth = held_out_features(args.data, args.work / "held_out.npz", builtin)
    columns = [TRUTHS.index(name) for name in ANSWERS[args.head]]
    used = slice(0, TEXT_FEATURES if args.head == "watermark" else None)
    head = fit(x[:, used].astype(np.float32), truth[:, columns])
    logits = head.logits(held_x[:, used].astype(np.float32))
    for j, name in enumerate(ANSWERS[args.head]):
        known = held_truth[:, columns[j]] != UNKNOWN
        print(f"{name}: AUC {auc(logits[known, j], held_truth[known, columns[j]] == 1):.3f} on {known.sum()} of dev")
    out = args.work / f"{args.head}.safetensors"
    save(calibrated(head, logits, held_truth[:, columns]), out)
    check = load_head(out)
    print(f"wrote {out}: {out.stat().st_size} bytes, {len(check.mean)} features, {check.out.shape[1]} answers")


def fit(x: Floats, truth: NDArray[np.int8]) -> Head:
    """Learn [n,F] features → [n,answers] truths, unknown ones skipped; noise on the features and dropout stand in for more data."""
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
    first, last = (net[i] for i in (0, 3))
    arrays = [p.detach().numpy() for p in (first.weight.T, first.bias, last.weight.T, last.bias)]
    answers = truth.shape[1]
    return Head(mean, scale, *arrays, np.ones(answers, np.float32), np.zeros(answers, np.float32))


def calibrated(head: Head, logits: Floats, truth: NDArray[np.int8]) -> Head:
    """The head with the line per answer that makes its probabilities true on held-out pictures."""
    lines = [platt(logits[known, j], truth[known, j] == 1) for j, known in enumerate((truth != UNKNOWN).T)]
    slope, offset = np.array(lines, np.float32).T
    return Head(**{**vars(head), "slope": slope, "offset": offset})


def platt(logits: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of Platt's line, with his smoothed targets."""
    n1, n0 = int(positive.sum()), int((~positive).sum())
    target = torch.from_numpy(np.where(positive, (n1 + 1) / (n1 + 2), 1 / (n0 + 2)))
    x = torch.from_numpy(logits.astype(np.float64))
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(x * line[0] + line[1], target)
        value.backward()
        return value

    optimizer.step(loss)
    return float(line[0].detach()), float(line[1].detach())


def save(head: Head, path: Path) -> None:
    """fp16 safetensors; the few values that scale features and answers stay fp32."""
    small = {"hidden", "hidden_bias", "out", "out_bias"}
    arrays = {
        k: np.ascontiguousarray(v.astype(np.float16 if k in small else np.float32)) for k, v in vars(head).items()
    }
    save_file(arrays, path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", choices=sorted(ANSWERS))
    parser.add_argument("data", type=Path, help="folder with train/, dev/ and people_teacher.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and weights")
    parser.add_argument("--variants", type=int, default=24000, help="a multiple of 500 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
