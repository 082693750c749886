"""The detector's loss: task-aligned assignment (TOOD, Feng et al. 2021, sec. 3.2), CIoU (Zheng et al. 2020) and
distribution focal loss (Li et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from curation.builtin.detector import BINS, to_boxes

CELLS_PER_PERSON = 10


def people_loss(
    sides: Tensor,
    logits: Tensor,
    centres: Tensor,
    strides: Tensor,
    people: list[tuple[Tensor, Tensor, Tensor]],
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss of a batch and its parts.

    sides [B,N,4,16] and logits [B,N] are from `PeopleDetector.raw`; `people` holds (boxes [n,4], trust [n],
    unsure [m,4]) in pixels for each picture.
    """
    boxes = to_boxes(sides, centres, strides)
    target = torch.zeros_like(logits)
    counted = torch.ones_like(logits)
    chosen_box = torch.zeros_like(boxes)
    for b, (truth, trust, unsure) in enumerate(people):
        quality, owner = assign(boxes[b].detach(), logits[b].detach().sigmoid(), centres, truth)
        hit = quality > 0
        target[b, hit] = quality[hit] * trust[owner[hit]]
        chosen_box[b, hit] = truth[owner[hit]]
        if len(unsure):
            counted[b] = (hit | ~inside(centres, unsure).any(0)).float()
    weight = target.sum().clamp(min=1.0)
    person = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * counted).sum() / weight
    hit = target > 0
    share = target[hit]
    ciou = ((1 - complete_iou(boxes[hit], chosen_box[hit])) * share).sum() / weight
    where = hit.nonzero()[:, 1]
    dfl = (side_loss(sides[hit], chosen_box[hit], centres[where], strides[where]) * share).sum() / weight
    loss = 0.5 * person + 7.5 * ciou + 1.5 * dfl
    return loss, {"person": person.item(), "ciou": ciou.item(), "dfl": dfl.item()}


def assign(boxes: Tensor, scores: Tensor, centres: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Give each person the ten cells that already answer best (score^0.5 · IoU^6) among those inside its box.

    Returns the quality float32 [N] (0 for background, up to the person's best IoU) and the owner int64 [N].
    """
    cells = len(boxes)
    owner = torch.zeros(cells, dtype=torch.long)
    if not len(truth):
        return torch.zeros(cells), owner
    candidate = inside(centres, truth)
    iou = plain_iou(truth[:, None], boxes[None]) * candidate
    align = scores[None].clamp(min=1e-4).sqrt() * iou**6
    best = align.topk(min(CELLS_PER_PERSON, cells), 1)
    mine = torch.zeros_like(align).scatter_(1, best.indices, 1.0) * candidate * (align > 0)
    shared = mine.sum(0) > 1
    strongest = F.one_hot(iou.argmax(0), len(truth)).T
    mine = torch.where(shared[None], strongest * mine.amax(0), mine)
    align, iou = align * mine, iou * mine
    normalised = align / align.amax(1, keepdim=True).clamp(min=1e-9) * iou.amax(1, keepdim=True)
    quality, owner = normalised.max(0)
    return quality, owner


def inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """bool [n,N]: cell centre within the box."""
    low = centres[None] - boxes[:, None, :2]
    high = boxes[:, None, 2:] - centres[None]
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
