"""Give the trained detector narrower heads: python -m curation.builtin.training.slim_people DATA --work FOLDER

The heads take more than a third of the detector's products. Half as wide, they learn what the wide ones say of the same
maps, on scenes as the detector was trained on; backbone and neck stay as they are. Stop it at any time and give the
same command again: it goes on from the last checkpoint and sees the scenes it would have seen.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import cv2
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from curation.builtin.detector import BINS, WIDE, PeopleDetector, by_cell
from curation.builtin.networks import PEOPLE_SIZE
from curation.builtin.training.collection import read_collection
from curation.builtin.training.people_scenes import Scenes, together
from curation.builtin.training.precision import has_bf16
from curation.builtin.training.resume import Parts, resume, save
from curation.engines import weights_identity

RATE, WARMUP, BATCH, SEED = 3e-3, 50, 32, 11
SAVE_EVERY = 50
LEAST = 0.01  # chance of a person from which a cell's box matters
AVERAGE = 0.99


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.manual_seed(SEED)
    wide, slim, average = PeopleDetector(WIDE).to(device), PeopleDetector().to(device), PeopleDetector().to(device)
    teacher = args.work / "wide.safetensors"
    weights = {name: tensor.float() for name, tensor in load_file(teacher).items()}
    wide.load_state_dict(weights)
    same = {name: weights[name] for name, tensor in slim.state_dict().items() if weights[name].shape == tensor.shape}
    slim.load_state_dict(same, strict=False)
    heads = nn.ModuleList([slim.sides, slim.person])
    optimizer = torch.optim.AdamW(heads.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.02)
    average.load_state_dict(slim.state_dict())
    checkpoint, taught_by = args.work / "slim.pt", weights_identity("wide", teacher)
    learner: Parts = {"slim": slim, "average": average, "optimizer": optimizer}
    step = resume(checkpoint, learner, args.steps, teacher=taught_by) if checkpoint.exists() else 0
    scenes = Scenes(read_collection(args.data, "train"), PEOPLE_SIZE, SEED, step * BATCH, (args.steps - step) * BATCH)
    loader = DataLoader(
        scenes,
        BATCH,
        num_workers=args.workers,
        multiprocessing_context="fork" if args.workers else None,
        collate_fn=together,
        worker_init_fn=lambda _: cv2.setNumThreads(1),
    )
    seen: list[Tensor] = []
    since = time.perf_counter()
    for pixels, _ in loader:
        for group in optimizer.param_groups:
            group["lr"] = RATE * schedule(step, args.steps)
        images = pixels.to(device).to(memory_format=torch.channels_last).float() / 255
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
            with torch.no_grad():
                maps = wide.neck(*wide.backbone(images))
                taught = wide.heads(maps)
            said = slim.heads(maps)
        losses = differences(*(t.float() for t in (*taught, *said)))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 5.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            keep = min(AVERAGE, step / (step + 20))
            torch._foreach_lerp_(list(average.parameters()), list(slim.parameters()), 1 - keep)
        seen.append(torch.stack(losses).detach())
        if step % SAVE_EVERY == 0 or step == args.steps:
            means = zip(("person", "spread", "distance"), torch.stack(seen).mean(0).tolist(), strict=True)
            rate = len(seen) * BATCH / (time.perf_counter() - since)
            print(f"step {step}  {'  '.join(f'{n} {v:.3f}' for n, v in means)}  {rate:.0f} scenes/s", flush=True)
            seen, since = [], time.perf_counter()
            save(checkpoint, step, learner, teacher=taught_by)
    trunk = {name: tensor for name, tensor in weights.items() if name.startswith("layers.")}
    answers = {**average.state_dict(), **trunk}
    save_file({k: v.half().cpu().contiguous() for k, v in answers.items()}, args.work / "people.safetensors")


def differences(sides: Tensor, logits: Tensor, my_sides: Tensor, my_logits: Tensor) -> list[Tensor]:
    """How far the second answers (sides [B,64,N], logits [B,N]) are from the first, per person seen: in whether there
    is one (cross entropy above its least), in the distributions of the sides (Kullback and Leibler), in their means.
    """
    chance = logits.sigmoid()
    people = chance.sum().clamp(min=1.0)
    person = F.binary_cross_entropy_with_logits(my_logits, chance, reduction="sum")
    person = person - F.binary_cross_entropy_with_logits(logits, chance, reduction="sum")
    picture, cell = (chance > LEAST).nonzero(as_tuple=True)
    weight = chance[picture, cell]
    theirs, mine = (by_cell(s)[picture, cell].log_softmax(-1) for s in (sides, my_sides))
    spread = ((theirs.exp() * (theirs - mine)).sum(-1).mean(-1) * weight).sum()
    bins = torch.arange(BINS, device=sides.device, dtype=torch.float32)
    distance = ((theirs.exp() - mine.exp()) @ bins).abs().mean(-1)
    return [part / people for part in (person, spread, (distance * weight).sum())]


def schedule(step: int, steps: int) -> float:
    """Share of the full rate: a short warm-up, then half a cosine down to nothing."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and people_teacher.parquet")
    parser.add_argument("--work", type=Path, required=True, help="the folder that train_people wrote its weights to")
    parser.add_argument("--steps", type=int, default=700, help=f"of {BATCH} scenes each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that compose scenes (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
