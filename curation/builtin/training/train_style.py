"""Train the style head: python -m curation.builtin.training.train_style DATA --work FOLDER --variants N

Features of N variants of the pictures in `train/` are computed once, by the networks in this package (put a new person
detector there first), in chunks that a later run finds again; the head itself trains in minutes. Its probabilities are
calibrated on `dev/` (Platt 1999), nothing else is learnt there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from curation.builtin import Builtin
from curation.builtin.heads import Head
from curation.builtin.training.calibrate import platt
from curation.builtin.training.collection import read_collection
from curation.builtin.training.fit_head import fit, save
from curation.builtin.training.head_features import held_out_features, identity, variant_features
from curation.builtin.training.metrics import auc
from curation.builtin.training.variants import TRUTHS, UNKNOWN, Variants

ANSWERS = ("artistic", "generated", "composed")
SEED = 1


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    builtin = Builtin(args.threads)
    variants = Variants(read_collection(args.data, "train"), SEED)
    kept = args.work / identity(builtin)
    x, truth = variant_features(variants, args.variants, kept / "variants", builtin)
    held_x, held_truth = held_out_features(args.data, kept / "held_out.npz", builtin)
    columns = [TRUTHS.index(name) for name in ANSWERS]
    head = fit(x.astype(np.float32), truth[:, columns])
    logits = head.logits(held_x.astype(np.float32))
    for j, name in enumerate(ANSWERS):
        known = held_truth[:, columns[j]] != UNKNOWN
        print(f"{name}: AUC {auc(logits[known, j], held_truth[known, columns[j]] == 1):.3f} on {known.sum()} of dev")
    out = args.work / "style.safetensors"
    save(calibrated(head, logits, held_truth[:, columns]), out)
    print(f"wrote {out}: {out.stat().st_size} bytes")


def calibrated(head: Head, logits: NDArray[np.float32], truth: NDArray[np.int8]) -> Head:
    """The head with the line per answer that makes its probabilities true on held-out pictures."""
    lines = [platt(logits[known, j], truth[known, j] == 1) for j, known in enumerate((truth != UNKNOWN).T)]
    slope, offset = np.array(lines, np.float32).T
    return Head(**{**vars(head), "slope": slope, "offset": offset})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/, dev/ and people_teacher.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and weights")
    parser.add_argument("--variants", type=int, default=14000, help="a multiple of 500 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
