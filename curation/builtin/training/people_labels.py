"""What is a person in a picture, put together from hand-made boxes, joints, masks and the teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.builtin.training.collection import Boxes, Picture

TEACHER_SURE = 0.4
SAME_PERSON = 0.5


@dataclass(frozen=True)
class People:
    """float32 `boxes` [n,4] with `trust` [n] in 0…1; `unsure` [m,4] are places that teach neither yes nor no, `settled`
    [k,4] such where everybody is known."""

    boxes: Boxes
    trust: NDArray[np.float32]
    unsure: Boxes
    settled: Boxes


NONE = np.zeros((0, 4), np.float32)


def people_in(picture: Picture) -> People:
    """The boxes to learn. Hand-made ones come first; the teacher adds what is missing, unless they are complete."""
    teacher, score = picture.teacher[:, :4], picture.teacher[:, 4]
    by_joints = any(p.get("labelled_by") == "joints" for p in picture.label.get("persons", []))
    hand = _main_person_of_mask(picture) if picture.mask_png else picture.persons
    if by_joints:
        # Joints end at wrists and ankles: the teacher's box is the better one where it saw the athlete.
        hand = _replace_by_teacher(_grow(hand, 0.08), teacher[score >= TEACHER_SURE])
    if picture.complete:
        whole = np.array([[0, 0, picture.label["width"], picture.label["height"]]], np.float32)
        return People(hand, np.ones(len(hand), np.float32), NONE, whole)
    if picture.source == "mask-people" and (score >= TEACHER_SURE).any():
        hand = hand[:0]  # one mask covers everyone: the teacher separates them
    new = ~(overlap(teacher, hand) > SAME_PERSON).any(1)
    sure = new & (score >= TEACHER_SURE)
    trust = np.concatenate([np.ones(len(hand), np.float32), 0.5 + 0.5 * score[sure]])
    return People(np.concatenate([hand, teacher[sure]]), trust.astype(np.float32), teacher[new & ~sure], NONE)


def overlap(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Intersection over union float32 [len(a), len(b)]."""
    top = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    shared = np.clip(bottom - top, 0, None).prod(-1)
    area_a = np.clip(a[:, 2:4] - a[:, :2], 0, None).prod(-1)
    area_b = np.clip(b[:, 2:4] - b[:, :2], 0, None).prod(-1)
    return shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-6)


def _main_person_of_mask(picture: Picture) -> Boxes:
    mask = picture.mask()
    if mask is None or not mask.any():
        return NONE
    ys, xs = np.nonzero(mask)
    return np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)


def _replace_by_teacher(boxes: Boxes, teacher: Boxes) -> Boxes:
    if not len(teacher) or not len(boxes):
        return boxes
    iou = overlap(boxes, teacher)
    best = iou.argmax(1)
    return np.where((iou.max(1) > 0.4)[:, None], teacher[best], boxes).astype(np.float32)


def _grow(boxes: Boxes, part: float) -> Boxes:
    size = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] - part * size, boxes[:, 2:] + part * size], 1).astype(np.float32)
