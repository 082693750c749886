"""Figures for the model card, and their 95 % intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curation.builtin.training.people_labels import overlap
from curation.calibrate import Share

Detections = list[NDArray[np.float32]]  # per picture [n,5]: x0,y0,x1,y1,score


def auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half."""
    s, y = np.asarray(scores, np.float64), np.asarray(positive, bool)
    order = np.argsort(s, kind="stable")
    _, inverse, counts = np.unique(s[order], return_inverse=True, return_counts=True)
    rank = np.empty(len(s))
    rank[order] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n1, n0 = int(y.sum()), int((~y).sum())
    return float((rank[y].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)) if n1 and n0 else math.nan


def auc_interval(value: float, positives: int, negatives: int) -> tuple[float, float]:
    """95 % interval of an AUC (Hanley and McNeil 1982)."""
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    spread = (positives - 1) * (q1 - value**2) + (negatives - 1) * (q2 - value**2) + value * (1 - value)
    half = 1.96 * math.sqrt(max(spread, 0.0) / (positives * negatives))
    return max(0.0, value - half), min(1.0, value + half)


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    return Share(hits, n).interval


def recall_at_precision(scores: ArrayLike, positive: ArrayLike, precision: float = 0.95) -> float:
    """The largest share of positives found by a threshold at which `precision` of what is found is positive."""
    s, y = np.asarray(scores, np.float64), np.asarray(positive, bool)
    order = np.argsort(-s, kind="stable")
    found = np.cumsum(y[order])
    ends = np.append(np.diff(s[order]) != 0, True)  # a threshold cannot split ties
    good = ends & (found / np.arange(1, len(s) + 1) >= precision)
    return float(found[good].max() / y.sum()) if good.any() else 0.0


def average_precision(found: Detections, truth: list[NDArray[np.float32]], least_iou: float = 0.5) -> float:
    """AP at one IoU: every detection in order of score takes the best free box; area under the precision envelope."""
    rows: list[tuple[float, bool]] = []
    for boxes, people in zip(found, truth, strict=True):
        iou, free = overlap(boxes[:, :4], people), np.ones(len(people), bool)
        for i in np.argsort(-boxes[:, 4], kind="stable"):
            fit = np.where(free, iou[i], 0.0) if len(people) else np.zeros(1)
            hit = bool(fit.max() >= least_iou)
            if hit:
                free[fit.argmax()] = False
            rows.append((float(boxes[i, 4]), hit))
    total = sum(len(t) for t in truth)
    if not rows or not total:
        return 0.0
    rows.sort(key=lambda r: -r[0])
    hits = np.cumsum([r[1] for r in rows])
    precision = hits / np.arange(1, len(rows) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(np.append(0, hits / total)) * envelope).sum())


def top_scores(found: Detections) -> NDArray[np.float32]:
    """The best score of each picture, 0 where nothing was found."""
    return np.array([d[:, 4].max() if len(d) else 0.0 for d in found], np.float32)
