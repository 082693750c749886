"""Train the person detector: python -m curation.builtin.training.train_people DATA --work FOLDER --steps N

Starts from the convolutions of the network in the `nudenet` wheel and learns the boxes of `train/`, by hand and the
teacher's; the teacher also looks at every scene, for people that are cut off, hidden or small there. Stop it at any
time and give the same command again: it goes on from the last checkpoint and sees the scenes it would have seen. A
larger --steps continues a finished training. Products in bf16 where there are units for it, fp32 weights, a moving
average; on a GPU or a CPU.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from curation.builtin.boxes import keep_best, letterbox
from curation.builtin.detector import WIDE, PeopleDetector, by_cell, cells, to_boxes
from curation.builtin.training.collection import Picture, read_collection
from curation.builtin.training.metrics import auc, average_precision, top_scores
from curation.builtin.training.people_loss import Crowds, people_loss
from curation.builtin.training.people_scenes import Scenes, together
from curation.builtin.training.precision import has_bf16
from curation.builtin.training.resume import Parts, resume, save
from curation.builtin.training.start import start_from_nudenet
from curation.builtin.training.teacher import Teacher, load_teacher, people_seen, taught

RATE, WARMUP, COOLDOWN = 1e-3, 300, 0.3  # the last part of the steps cools down to nothing
BATCH, WINDOW, SEED = 64, 320, 1
SIDES = (288, 320, 352, 384, 416, 448, 480)  # a batch is learnt at one of them
TEACHER_SIDE, TAUGHT = 640, 24  # pixels; people per scene at most
SAVE_EVERY, LOOK_EVERY = 50, 400
AVERAGE = 0.999


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True  # few shapes, each for thousands of steps
    net = PeopleDetector(WIDE).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = PeopleDetector(WIDE).to(device)
    optimizer = torch.optim.AdamW(_groups(net), lr=RATE, betas=(0.9, 0.99))
    checkpoint = args.work / "checkpoint.pt"
    learner: Parts = {"net": net, "average": average, "optimizer": optimizer}
    if not checkpoint.exists():
        start_from_nudenet(net)
        average.load_state_dict(net.state_dict())
        save(checkpoint, 0, learner)
    step = resume(checkpoint, learner, args.steps)
    teacher = load_teacher(args.data / "weights" / "coco-detector-yolov5n.pt").to(device)
    scenes = Scenes(read_collection(args.data, "train"), WINDOW, SEED, step * BATCH, (args.steps - step) * BATCH)
    loader = DataLoader(
        scenes,
        BATCH,
        num_workers=args.workers,
        multiprocessing_context="fork" if args.workers else None,
        collate_fn=together,
        prefetch_factor=4 if args.workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=lambda _: cv2.setNumThreads(1),
    )
    held_out = read_collection(args.data, "dev", {"people-coco", "people-voc"}) if args.look else []
    seen: list[Tensor] = []
    since = time.perf_counter()
    for pixels, people in loader:
        for group in optimizer.param_groups:
            group["lr"] = RATE * schedule(step, args.steps)
        images, crowds = lesson(pixels, people, device, teacher, step)
        centres, strides = (t.to(device) for t in cells(*images.shape[2:]))
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
            sides, logits, *_ = net(images)
        loss, parts = people_loss(by_cell(sides).float(), logits.float(), centres, strides, crowds)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1
        _follow(average, net, min(AVERAGE, step / (step + 20)))
        seen.append(torch.stack([loss.detach(), *parts.values()]))
        if step % SAVE_EVERY == 0 or step == args.steps:
            means = zip(("loss", *parts), torch.stack(seen).mean(0).tolist(), strict=True)
            rate = len(seen) * BATCH / (time.perf_counter() - since)
            print(f"step {step}  {'  '.join(f'{n} {v:.3f}' for n, v in means)}  {rate:.0f} scenes/s", flush=True)
            seen, since = [], time.perf_counter()
            save(checkpoint, step, learner)
        if held_out and (step % LOOK_EVERY == 0 or step == args.steps):
            print(f"step {step}  {look(average, held_out)}", flush=True)
            since = time.perf_counter()
    save_file({k: v.half().cpu().contiguous() for k, v in average.state_dict().items()}, args.work / "wide.safetensors")


def lesson(pixels: Tensor, people: Crowds, device: torch.device, teacher: Teacher, step: int) -> tuple[Tensor, Crowds]:
    """A batch of scenes uint8 [B,3,S,S] as float32 in 0…1 at this step's side, and everybody there."""
    images = pixels.to(device, non_blocking=True).to(memory_format=torch.channels_last).float() / 255
    with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
        boxes, scores = people_seen(teacher, _resized(images, TEACHER_SIDE), TAUGHT)
    people = taught(people.to(device), boxes * (images.shape[2] / TEACHER_SIDE), scores)
    side = int(np.random.default_rng((SEED, step)).choice(SIDES))
    return _resized(images, side), people.scaled(side / images.shape[2])


def _resized(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=side < images.shape[2])


def schedule(step: int, steps: int) -> float:
    """Share of the full rate: a short warm-up, flat, then straight down to nothing."""
    cool = steps * COOLDOWN
    return min(1.0, (step + 1) / WARMUP, (steps - step) / cool)


def look(net: PeopleDetector, pictures: list[Picture], size: int = 448) -> str:
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
    pixels = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
    sides, logits, *_ = (answer.cpu() for answer in net(pixels.to(next(net.parameters()).device)))
    boxes = to_boxes(by_cell(sides), *cells(*square.shape[:2]))
    return keep_best((boxes[0] / scale).numpy(), logits[0].sigmoid().numpy(), 0.02, 0.45)


def _groups(net: PeopleDetector) -> list[dict[str, object]]:
    weights = [p for p in net.parameters() if p.ndim > 1]
    biases = [p for p in net.parameters() if p.ndim == 1]
    return [{"params": weights, "weight_decay": 0.02}, {"params": biases, "weight_decay": 0.0}]


@torch.no_grad()
def _follow(average: PeopleDetector, net: PeopleDetector, keep: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - keep)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/, dev/, weights/ and people_teacher.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint and the weights")
    parser.add_argument("--steps", type=int, default=8000, help=f"of {BATCH} scenes each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that compose scenes (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--look", action="store_true", help=f"print held-out figures every {LOOK_EVERY} steps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
