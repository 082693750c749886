"""The detector's loss: task-aligned assignment (TOOD, Feng et al. 2021, sec. 3.2), CIoU (Zheng et al. 2020) and
distribution focal loss (Li et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from curation.builtin.detector import BINS, to_boxes

CELLS_PER_PERSON = 10


@dataclass(frozen=True)
class Crowds:
    """`People` of B pictures, in pixels: boxes [B,M,4], trust [B,M], unsure [B,U,4], settled [B,S,4], all float32.
    Pictures with fewer are filled up with boxes of no size."""

    boxes: Tensor
    trust: Tensor
    unsure: Tensor
    settled: Tensor

    def to(self, device: torch.device) -> Crowds:
        return Crowds(*(part.to(device, non_blocking=True) for part in vars(self).values()))

    def scaled(self, factor: float) -> Crowds:
        return Crowds(self.boxes * factor, self.trust, self.unsure * factor, self.settled * factor)


def people_loss(
    sides: Tensor, logits: Tensor, centres: Tensor, strides: Tensor, people: Crowds
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss of a batch and its parts; sides [B,N,4,16] and logits [B,N] are from `PeopleDetector.raw`."""
    boxes = to_boxes(sides, centres, strides)
    quality, owner = assign(boxes.detach(), logits.detach().sigmoid(), centres, people.boxes)
    target = quality * people.trust.gather(1, owner) if people.trust.shape[1] else quality
    counted = (target > 0) | ~inside(centres, people.unsure).any(1)
    weight = target.sum().clamp(min=1.0)
    person = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * counted).sum() / weight
    picture, cell = (target > 0).nonzero(as_tuple=True)
    share, truth = target[picture, cell], people.boxes[picture, owner[picture, cell]]
    ciou = ((1 - complete_iou(boxes[picture, cell], truth)) * share).sum() / weight
    dfl = (side_loss(sides[picture, cell], truth, centres[cell], strides[cell]) * share).sum() / weight
    loss = 0.5 * person + 7.5 * ciou + 1.5 * dfl
    return loss, {"person": person.detach(), "ciou": ciou.detach(), "dfl": dfl.detach()}


def assign(boxes: Tensor, scores: Tensor, centres: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Give each person the ten cells that already answer best (score^0.5 · IoU^6) among those inside its box.

    boxes [B,N,4], scores [B,N], truth [B,M,4] → the quality float32 [B,N] (0 for background, up to the person's best
    IoU) and the owner int64 [B,N], an index into M.
    """
    if not truth.shape[1]:
        return torch.zeros_like(scores), torch.zeros_like(scores, dtype=torch.long)
    candidate = inside(centres, truth)
    iou = plain_iou(truth[:, :, None], boxes[:, None]) * candidate
    align = scores[:, None].clamp(min=1e-4).sqrt() * iou**6
    best = align.topk(min(CELLS_PER_PERSON, align.shape[2]), 2)
    mine = torch.zeros_like(align).scatter_(2, best.indices, 1.0) * candidate * (align > 0)
    shared = mine.sum(1, keepdim=True) > 1
    strongest = F.one_hot(iou.argmax(1), truth.shape[1]).transpose(1, 2)
    mine = torch.where(shared, strongest * mine.amax(1, keepdim=True), mine)
    align, iou = align * mine, iou * mine
    quality = align / align.amax(2, keepdim=True).clamp(min=1e-9) * iou.amax(2, keepdim=True)
    return quality.max(1)


def inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """bool [B,M,N]: point, of [N,2] or [B,N,2], within the box [B,M,4]."""
    centres = centres.unsqueeze(-3)
    low = centres - boxes[..., None, :2]
    high = boxes[..., None, 2:] - centres
    return torch.cat([low, high], -1).amin(-1) > 0


def plain_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes that broadcast against each other."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    area = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1) + (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    return shared / (area - shared).clamp(min=1e-6)


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """CIoU of paired boxes [n,4]: IoU less the centres' distance and the difference in shape."""
    iou = plain_iou(a, b)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    apart = ((a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2).square().sum(1) / hull.square().sum(1).clamp(min=1e-6)
    size_a, size_b = (a[:, 2:] - a[:, :2]).clamp(min=1e-3), (b[:, 2:] - b[:, :2]).clamp(min=1e-3)
    shape = (4 / math.pi**2) * (torch.atan(size_b[:, 0] / size_b[:, 1]) - torch.atan(size_a[:, 0] / size_a[:, 1])) ** 2
    with torch.no_grad():
        alpha = shape / (1 - iou + shape).clamp(min=1e-6)
    return iou - apart - alpha * shape


def side_loss(sides: Tensor, truth: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Cross entropy to the two bins around each true distance, [n]."""
    distance = torch.cat([centres - truth[:, :2], truth[:, 2:] - centres], 1) / strides[:, None]
    distance = distance.clamp(0, BINS - 1.01)
    low = distance.long()
    part = distance - low
    logp = sides.float().log_softmax(-1)
    near = logp.gather(-1, low[..., None])[..., 0]
    far = logp.gather(-1, low[..., None] + 1)[..., 0]
    return -(near * (1 - part) + far * part).mean(1)
