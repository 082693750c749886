"""Train the person detector: python -m curation.builtin.training.train_people DATA --work FOLDER --steps N

Starts from the convolutions of the network in the `nudenet` wheel and learns the boxes of `train/`, by hand and the
teacher's. Stop it at any time and give the same command again: it goes on from the last checkpoint and sees the scenes
it would have seen. A larger --steps continues a finished training. Bfloat16 autocast, fp32 weights, a moving average.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from curation.builtin.boxes import keep_best, letterbox
from curation.builtin.detector import PeopleDetector, cells
from curation.builtin.training.collection import Picture, read_collection
from curation.builtin.training.metrics import auc, average_precision, top_scores
from curation.builtin.training.people_loss import people_loss
from curation.builtin.training.people_scenes import Scenes
from curation.builtin.training.start import start_from_nudenet

RATE, WARMUP, COOLDOWN = 6e-4, 150, 0.25  # the last quarter of the steps cools down to nothing
BATCH, WINDOW, SEED = 24, 320, 1
SAVE_EVERY, LOOK_EVERY = 50, 400
AVERAGE = 0.998


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    net = PeopleDetector().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    start_from_nudenet(net)
    average = PeopleDetector()
    average.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(_groups(net), lr=RATE, betas=(0.9, 0.99))
    step = _resume(args.work / "checkpoint.pt", net, average, optimizer)
    scenes = Scenes(read_collection(args.data, "train"), WINDOW, SEED, step * BATCH, (args.steps - step) * BATCH)
    loader = DataLoader(scenes, BATCH, num_workers=1, collate_fn=list, prefetch_factor=4)
    held_out = read_collection(args.data, "dev", {"people-coco", "people-voc"})
    centres, strides = cells(WINDOW, WINDOW)
    seen, started = [], time.perf_counter()
    for batch in loader:
        for group in optimizer.param_groups:
            group["lr"] = RATE * schedule(step, args.steps)
        images = torch.stack([row[0] for row in batch]).to(memory_format=torch.channels_last).float() / 255
        with torch.autocast("cpu", torch.bfloat16):
            sides, logits = net.raw(images)
        loss, parts = people_loss(sides.float(), logits.float(), centres, strides, [tuple(row[1:]) for row in batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1
        _follow(average, net, min(AVERAGE, step / (step + 20)))
        seen.append([loss.item(), *parts.values()])
        if step % SAVE_EVERY == 0 or step == args.steps:
            means = "  ".join(f"{n} {v:.3f}" for n, v in zip(("loss", *parts), np.mean(seen, 0), strict=True))
            print(
                f"step {step}  {means}  {len(seen) * BATCH / (time.perf_counter() - started):.0f} scenes/s",
                flush=True,
            )
            seen, started = [], time.perf_counter()
            _save(args.work / "checkpoint.pt", step, net, average, optimizer)
        if step % LOOK_EVERY == 0 or step == args.steps:
            print(f"step {step}  {look(average, held_out)}", flush=True)
            started = time.perf_counter()
    save_file({k: v.half().contiguous() for k, v in average.state_dict().items()}, args.work / "people.safetensors")


def schedule(step: int, steps: int) -> float:
    """Share of the full rate: a short warm-up, flat, then straight down to nothing."""
    cool = steps * COOLDOWN
    return min(1.0, (step + 1) / WARMUP, (steps - step) / cool)


def look(net: PeopleDetector, pictures: list[Picture], size: int = 416) -> str:
    """AP50 and AUC on held-out photos: for the log only, nothing is chosen by it."""
    out = []
    for source in sorted({p.source for p in pictures}):
        chosen = [p for p in pictures if p.source == source]
        found = [detect(net, p.rgb(), size) for p in chosen]
        there = [len(p.persons) > 0 for p in chosen]
        ap = average_precision(found, [p.persons for p in chosen])
        out.append(f"{source} AP50 {ap:.3f} AUC {auc(top_scores(found), there):.3f}")
    return "  ".join(out)


@torch.no_grad()
def detect(net: PeopleDetector, image: np.ndarray, size: int) -> np.ndarray:
    """[n,5] boxes with scores in pixels of uint8 `image`, by eager torch in fp32."""
    square, scale = letterbox(image, size)
    boxes, logits = net(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255)
    return keep_best(boxes[0].numpy() / scale, logits[0].sigmoid().numpy(), 0.02, 0.6)


def _groups(net: PeopleDetector) -> list[dict[str, object]]:
    weights = [p for p in net.parameters() if p.ndim > 1]
    biases = [p for p in net.parameters() if p.ndim == 1]
    return [{"params": weights, "weight_decay": 0.02}, {"params": biases, "weight_decay": 0.0}]


@torch.no_grad()
def _follow(average: PeopleDetector, net: PeopleDetector, keep: float) -> None:
    for a, b in zip(average.parameters(), net.parameters(), strict=True):
        a.lerp_(b, 1 - keep)


def _save(
    path: Path, step: int, net: PeopleDetector, average: PeopleDetector, optimizer: torch.optim.Optimizer
) -> None:
    state: dict[str, object] = {"step": step, "net": net.state_dict(), "average": average.state_dict()}
    torch.save({**state, "optimizer": optimizer.state_dict()}, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def _resume(path: Path, net: PeopleDetector, average: PeopleDetector, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    net.load_state_dict(state["net"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    print(f"going on from step {state['step']}", flush=True)
    return int(state["step"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/, dev/ and people_teacher.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint and the weights")
    parser.add_argument("--steps", type=int, default=6000, help=f"of {BATCH} scenes each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
