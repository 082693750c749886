"""The COCO detector that helps to label: YOLOv5n v6 (Ultralytics, 2021), persons only. It is not shipped.

Its answers for whole pictures lie in `people_teacher.parquet`; this runs it on the scenes themselves, where people are
cut off, pasted, hidden and small, and nobody else knows how visible they still are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curation.builtin.detector import SPPF, STRIDES, Conv
from curation.builtin.training.people_loss import Crowds, inside, plain_iou

NORM_EPS = 1e-3
CLASSES, ANCHORS = 80, 3
CONSIDERED = 200  # most likely answers before suppression


class Bottleneck(nn.Module):
    """1x1, then 3x3; with the input added in the backbone and not in the neck."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels), Conv(channels, channels, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.residual else y


class C3(nn.Module):
    """Half of the channels through bottlenecks, half past them."""

    def __init__(self, inputs: int, outputs: int, depth: int, residual: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2, self.cv3 = Conv(inputs, half), Conv(inputs, half), Conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, residual) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class Teacher(nn.Module):
    """float32 [B,3,H,W] in 0…1 (H, W multiples of 32) → (boxes [B,N,4] as x0,y0,x1,y1 in pixels, scores [B,N]).

    A score is objectness times class, 0 where another class than person is likelier.
    """

    def __init__(self, anchors: Tensor) -> None:
        super().__init__()
        self.model = nn.ModuleDict(
            {
                "0": Conv(3, 16, 6, 2, 2),
                "1": Conv(16, 32, 3, 2),
                "2": C3(32, 32, 1),
                "3": Conv(32, 64, 3, 2),
                "4": C3(64, 64, 2),
                "5": Conv(64, 128, 3, 2),
                "6": C3(128, 128, 3),
                "7": Conv(128, 256, 3, 2),
                "8": C3(256, 256, 1),
                "9": SPPF(256),
                "10": Conv(256, 128),
                "13": C3(256, 128, 1, False),
                "14": Conv(128, 64),
                "17": C3(128, 64, 1, False),
                "18": Conv(64, 64, 3, 2),
                "20": C3(128, 128, 1, False),
                "21": Conv(128, 128, 3, 2),
                "23": C3(256, 256, 1, False),
            }
        )
        self.heads = nn.ModuleList(nn.Conv2d(c, ANCHORS * (5 + CLASSES), 1) for c in (64, 128, 256))
        self.anchors: Tensor
        self.register_buffer("anchors", anchors, persistent=False)  # [3,3,2] pixels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        net = self.model
        for number in "0123":
            x = net[number](x)
        c3 = net["4"](x)
        c4 = net["6"](net["5"](c3))
        top = net["10"](net["9"](net["8"](net["7"](c4))))
        middle = net["14"](net["13"](torch.cat([F.interpolate(top, scale_factor=2.0), c4], 1)))
        p3 = net["17"](torch.cat([F.interpolate(middle, scale_factor=2.0), c3], 1))
        p4 = net["20"](torch.cat([net["18"](p3), middle], 1))
        p5 = net["23"](torch.cat([net["21"](p4), top], 1))
        levels = [self._answers(head(p), i) for i, (head, p) in enumerate(zip(self.heads, (p3, p4, p5), strict=True))]
        return torch.cat([boxes for boxes, _ in levels], 1), torch.cat([scores for _, scores in levels], 1)

    def _answers(self, raw: Tensor, level: int) -> tuple[Tensor, Tensor]:
        height, width = raw.shape[2:]
        y = raw.float().unflatten(1, (ANCHORS, 5 + CLASSES)).sigmoid()
        rows, columns = torch.meshgrid(
            torch.arange(height, device=raw.device), torch.arange(width, device=raw.device), indexing="ij"
        )
        centre = (y[:, :, :2] * 2 - 0.5 + torch.stack([columns, rows])) * STRIDES[level]
        half = (y[:, :, 2:4] * 2) ** 2 * self.anchors[level][None, :, :, None, None] / 2
        person = y[:, :, 5]
        score = torch.where(person >= y[:, :, 5:].amax(2), y[:, :, 4] * person, torch.zeros_like(person))
        boxes = torch.cat([centre - half, centre + half], 2).permute(0, 1, 3, 4, 2)
        return boxes.flatten(1, 3), score.flatten(1)


def load_teacher(file: Path) -> Teacher:
    """Read `{state_dict, anchors}`; normalisation is folded into the convolutions."""
    saved = torch.load(file, map_location="cpu", weights_only=True)
    strides = torch.tensor(STRIDES, dtype=torch.float32).view(3, 1, 1)
    net = Teacher(saved["anchors"].float() * strides)
    state = {name: value.float() for name, value in saved["state_dict"].items()}
    for name in [name for name in state if name.endswith("bn.weight")]:
        layer = name.removesuffix(".bn.weight")
        gain = state.pop(name) / (state.pop(f"{layer}.bn.running_var") + NORM_EPS).sqrt()
        state[f"{layer}.conv.weight"] *= gain.view(-1, 1, 1, 1)
        state[f"{layer}.conv.bias"] = state.pop(f"{layer}.bn.bias") - gain * state.pop(f"{layer}.bn.running_mean")
    renamed = {name.replace("model.24.m.", "heads."): value for name, value in state.items()}
    net.load_state_dict({name: value for name, value in renamed.items() if name in net.state_dict()})
    return net.eval()


@torch.no_grad()
def people_seen(teacher: Teacher, images: Tensor, most: int, overlap: float = 0.6) -> tuple[Tensor, Tensor]:
    """The `most` likeliest people of each of [B,3,H,W] as boxes [B,most,4] and scores [B,most], 0 where there are less.

    Whoever overlaps with a likelier answer goes, at once for all (Fast NMS, Bolya et al. 2019, sec. 3.4).
    """
    boxes, scores = teacher(images)
    scores, best = scores.topk(CONSIDERED, 1)
    boxes = boxes.gather(1, best[..., None].expand(-1, -1, 4))
    likelier = torch.ones(CONSIDERED, CONSIDERED, dtype=torch.bool, device=boxes.device).tril(-1)
    doubled = ((plain_iou(boxes[:, :, None], boxes[:, None]) > overlap) & likelier).any(2)
    scores, best = torch.where(doubled, 0.0, scores).topk(most, 1)
    return boxes.gather(1, best[..., None].expand(-1, -1, 4)), scores


def taught(people: Crowds, boxes: Tensor, scores: Tensor, least_score: float = 0.15) -> Crowds:
    """`people` and those whom only the teacher sees, each trusted as far as its score goes.

    `boxes` [B,K,4] and `scores` [B,K] are from `people_seen`. An answer that overlaps with a known person (IoU over
    0.5), or is a part of one (85 % within), is nobody new; nor is one where everybody is known, unless it is at an
    unsure place.
    """
    known = people.boxes[:, None]
    iou = plain_iou(boxes[:, :, None], known)
    shared = torch.minimum(boxes[:, :, None, 2:], known[..., 2:]) - torch.maximum(boxes[:, :, None, :2], known[..., :2])
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3).prod(-1)
    part = shared.clamp(min=0).prod(-1) / area[:, :, None]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    settled = inside(centre, people.settled).any(1) & ~inside(centre, people.unsure).any(1)
    new = (scores >= least_score) & ~((iou > 0.5) | (part > 0.85)).any(2) & ~settled
    return Crowds(
        torch.cat([people.boxes, torch.where(new[..., None], boxes, 0.0)], 1),
        torch.cat([people.trust, torch.where(new, scores, 0.0)], 1),
        people.unsure,
        people.settled,
    )
