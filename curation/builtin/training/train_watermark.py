"""Train the watermark head: python -m curation.builtin.training.train_watermark DATA --work FOLDER --variants N

Marks are drawn on pictures of `train/`; the difference between marked and clean tells the head where. Cell features of
N variants are computed once, in chunks that a later run finds again. The probability is calibrated on `dev/`, nothing
else is learnt there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from curation.builtin import Builtin
from curation.builtin.boxes import letterbox
from curation.builtin.networks import TEXT_SIZE, inside
from curation.builtin.training.arrays import write_arrays
from curation.builtin.training.calibrate import platt
from curation.builtin.training.collection import read_collection
from curation.builtin.training.held_out import held_out_pictures
from curation.builtin.training.metrics import auc
from curation.builtin.training.precision import has_bf16
from curation.builtin.training.variants import UNKNOWN, Image, Variants
from curation.builtin.watermark import CELL, COARSE, FINE, TOP_SHARES, MarkHead, mark_cells

CHUNK, SEED, WIDTH, BATCH, RATE = 250, 2, 64, 24, 1e-3
GRID = TEXT_SIZE // CELL
CHANNELS = FINE + COARSE
NOT_ON_PICTURE = -2


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    builtin = Builtin(args.threads)
    variants = Variants(read_collection(args.data, "train"), SEED)
    files = [_chunk(variants, first, args.work / "cells", builtin) for first in range(0, args.variants, CHUNK)]
    head = fit(files, args.rounds)
    rows = [(p, i, t[0]) for p, i, t in held_out_pictures(args.data) if t[0] != UNKNOWN]
    logits = np.array([logit_of(head, builtin, image) for _, image, _ in rows])
    truth = np.array([t == 1 for *_, t in rows])
    print(f"watermarked: AUC {auc(logits, truth):.3f} on {len(rows)} of dev")
    slope, offset = platt(logits, truth)
    out = args.work / "watermark.safetensors"
    save(
        MarkHead(**{**vars(head), "slope": np.array([slope], np.float32), "offset": np.array([offset], np.float32)}),
        out,
    )
    print(f"wrote {out}: {out.stat().st_size} bytes")


def logit_of(head: MarkHead, builtin: Builtin, image: Image) -> float:
    """The head's uncalibrated answer to one picture."""
    (chance,), (maps,) = builtin.text_maps([image])
    return head.logit(*mark_cells(chance, maps), *inside(image.shape[0], image.shape[1], TEXT_SIZE, CELL))


def cells_of(builtin: Builtin, image: Image) -> NDArray[np.float32]:
    """Features [770,rows,columns] of the cells on one picture."""
    (chance,), (maps,) = builtin.text_maps([image])
    rows, columns = inside(image.shape[0], image.shape[1], TEXT_SIZE, CELL)
    fine, coarse = mark_cells(chance, maps)
    return np.concatenate([fine[:, :rows, :columns], given_to_each(coarse, rows, columns)])


def given_to_each(coarse: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Features [C,h,w] of fours of cells → [C,rows,columns] of cells."""
    return coarse.repeat(2, 1).repeat(2, 2)[:, :rows, :columns]


def where_marked(clean: Image, marked: Image) -> NDArray[np.int8]:
    """[32,32]: 1 on the mark, 0 off it, NOT_ON_PICTURE in the padding. Rows that a banner added are marked."""
    height, width = clean.shape[:2]
    change = np.full(marked.shape[:2], 255, np.uint8)
    change[:height, :width] = cv2.absdiff(marked[:height, :width], clean).max(-1)
    canvas, _ = letterbox(np.repeat((change > 6).astype(np.uint8)[..., None] * 255, 3, -1), TEXT_SIZE, fill=0)
    h, w = (side // CELL for side in canvas.shape[:2])
    share = canvas[..., 0].reshape(h, CELL, w, CELL).mean((1, 3)) / 255
    grid = np.full((GRID, GRID), NOT_ON_PICTURE, np.int8)
    rows, columns = inside(marked.shape[0], marked.shape[1], TEXT_SIZE, CELL)
    grid[:rows, :columns] = share[:rows, :columns] > 0.04
    return grid


def _chunk(variants: Variants, first: int, folder: Path, builtin: Builtin) -> Path:
    """A file of cell features [n,770,32,32], cell truths [n,32,32] and picture truths [n], made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{first:06d}.npz"
    if path.exists():
        return path
    cells, grids, truths = [], [], []
    for i in range(first, first + CHUNK):
        variant = variants[i]
        features = cells_of(builtin, variant.image)
        grid = np.full((GRID, GRID), NOT_ON_PICTURE, np.int8)
        if variant.clean is not None and variant.marked is not None:
            grid = where_marked(variant.clean, variant.marked)
        else:
            grid[: features.shape[1], : features.shape[2]] = 0 if variant.truth[0] == 0 else UNKNOWN
        cells.append(features)
        grids.append(grid)
        truths.append(variant.truth[0])
    mean, scale = _statistics(cells, folder / "statistics.npz")
    small = np.stack([_to_int8(c, mean, scale) for c in cells])
    write_arrays(path, cells=small, grids=np.stack(grids), truths=np.array(truths, np.int8))
    print(f"cells of {first + CHUNK} variants", flush=True)
    return path


def _statistics(cells: list[NDArray[np.float32]], path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and inverse deviation per feature [770] of the first chunk, kept for the later ones."""
    if not path.exists():
        rows = np.concatenate([c.reshape(CHANNELS, -1) for c in cells], 1)
        write_arrays(path, mean=rows.mean(1), scale=1 / (rows.std(1) + 1e-3))
    with np.load(path) as saved:
        return saved["mean"].astype(np.float32), saved["scale"].astype(np.float32)


def _to_int8(cells: NDArray[np.float32], mean: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Standardised cells in sixteenths of a deviation, cut at 8, on a [770,32,32] grid: a quarter of the bytes to read
    every round."""
    x = (cells - mean[:, None, None]) * scale[:, None, None]
    grid = np.zeros((CHANNELS, GRID, GRID), np.int8)
    grid[:, : x.shape[1], : x.shape[2]] = np.clip(np.rint(x * 16), -128, 127)
    return grid


class _Net(nn.Module):
    """The torch twin of `MarkHead`, on standardised cells."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(CHANNELS, WIDTH, 1)
        self.around = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.cell = nn.Conv2d(WIDTH, 1, 1)
        self.hidden = nn.Linear(len(TOP_SHARES) + 1 + 2 * WIDTH, 32)
        self.out = nn.Linear(32, 1)

    def forward(self, cells: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
        """Cells [B,770,32,32] and bool [B,32,32] "on the picture" → cell logits [B,32,32], picture logits [B]."""
        x = F.dropout2d(cells, 0.1, self.training)
        x = F.relu(self.near(x)) * on[:, None]
        deep = F.relu(self.around(x)).float()
        answers = self.cell(deep)[:, 0].float()
        summary = torch.stack([self._summary(a[o], d[:, o]) for a, d, o in zip(answers, deep, on, strict=True)])
        summary = F.dropout(summary, 0.2, self.training)
        return answers, self.out(F.relu(self.hidden(summary)))[:, 0]

    @staticmethod
    def _summary(answers: Tensor, deep: Tensor) -> Tensor:
        ranked = answers.sort(descending=True).values
        tops = [ranked[: max(1, int(len(ranked) * share))].mean() for share in TOP_SHARES]
        return torch.cat([torch.stack([*tops, ranked.mean()]), deep.mean(1), deep.amax(1)])


def fit(files: list[Path], rounds: int) -> MarkHead:
    """Learn where and whether, half the loss each; chunks in another order every round."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    net = _Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.02)
    steps = rounds * len(files) * (CHUNK // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * RATE, total_steps=steps)
    for turn in range(rounds):
        losses, started = [], time.perf_counter()
        for f in rng.permutation(len(files)):
            with np.load(files[f]) as saved:
                cells, grids, truths = saved["cells"], saved["grids"], saved["truths"]
            order = rng.permutation(len(cells))
            for rows in np.split(order, range(BATCH, len(order), BATCH))[: CHUNK // BATCH]:
                x, grid = torch.from_numpy(cells[rows]), torch.from_numpy(grids[rows])
                flip = rng.random() < 0.5
                x, grid = (x.flip(-1), grid.flip(-1)) if flip else (x, grid)
                loss = _loss(net, x.float() / 16, grid, torch.from_numpy(truths[rows]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
        seconds = time.perf_counter() - started
        print(f"round {turn + 1} of {rounds}: loss {np.mean(losses):.3f} in {seconds:.0f} s", flush=True)
    with np.load(files[0].parent / "statistics.npz") as saved:
        return _to_numpy(net.eval(), saved["mean"], saved["scale"])


def _loss(net: _Net, x: Tensor, grid: Tensor, truth: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu"))):
        answers, picture = net(x, grid != NOT_ON_PICTURE)
    known, sure = grid >= 0, truth != UNKNOWN
    where = F.binary_cross_entropy_with_logits(answers[known], (grid[known] == 1).float(), pos_weight=torch.tensor(3.0))
    target = (truth[sure] == 1).float() * 0.96 + 0.02
    return where + F.binary_cross_entropy_with_logits(picture[sure].float(), target)


@torch.no_grad()
def _to_numpy(net: _Net, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> MarkHead:
    def array(t: Tensor | None) -> NDArray[np.float32]:
        assert t is not None  # every layer has a bias
        return np.ascontiguousarray(t.detach().numpy().astype(np.float32))

    near = array(net.near.weight[:, :, 0, 0])
    return MarkHead(
        mean=mean[:FINE],
        scale=scale[:FINE],
        near=np.ascontiguousarray(near[:, :FINE]),
        coarse_mean=mean[FINE:],
        coarse_scale=scale[FINE:],
        coarse_near=np.ascontiguousarray(near[:, FINE:]),
        near_bias=array(net.near.bias),
        around=array(net.around.weight.permute(2, 3, 1, 0)),
        around_bias=array(net.around.bias),
        cell=array(net.cell.weight[:, :, 0, 0].T),
        cell_bias=array(net.cell.bias),
        hidden=array(net.hidden.weight.T),
        hidden_bias=array(net.hidden.bias),
        out=array(net.out.weight.T),
        out_bias=array(net.out.bias),
        slope=np.ones(1, np.float32),
        offset=np.zeros(1, np.float32),
    )


def save(head: MarkHead, path: Path) -> None:
    """fp16 safetensors; what scales features and answers stays fp32."""
    exact = {"mean", "scale", "coarse_mean", "coarse_scale", "slope", "offset"}
    arrays = {k: v.astype(np.float32 if k in exact else np.float16) for k, v in vars(head).items()}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/, dev/ and people_teacher.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and weights")
    parser.add_argument("--variants", type=int, default=4000, help=f"a multiple of {CHUNK} (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
