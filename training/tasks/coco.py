"""COCO's keypoint AP and AR, computed by pycocotools itself."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

_CERTAIN = 0.2  # keypoints above this score speak for their person's
_NUMBERS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def average_precision(
    people: dict[str, np.ndarray], keypoints: Sequence[int], sigmas: Sequence[float]
) -> dict[str, float | None]:
    """AP and AR over OKS 0.50 … 0.95 of some of the keypoints, as shares; None where nothing can be measured.

    people: the arrays of `pose.Metric.state`. sigmas: of all K keypoints. People whose area is not labelled are left
    out, and those without any of the keypoints labelled are ignored. A person's score comes from all keypoints.
    """
    with_area = np.flatnonzero(people["area"] > 0)
    labelled, found = people["labelled"][with_area][:, keypoints], people["found"][with_area][:, keypoints]
    if not (labelled[:, :, 2] > 0).any():
        return dict.fromkeys(_NUMBERS)
    scores = _person_scores(people["found"][with_area])
    truths, detections = [], []
    for number, person in enumerate(with_area):
        x0, y0, x1, y1 = people["box"][person]
        shared = {"image_id": int(people["image_id"][person]), "category_id": 1}
        truths.append(
            shared
            | {
                "id": number + 1,
                "keypoints": labelled[number].ravel().tolist(),
                "num_keypoints": int((labelled[number, :, 2] > 0).sum()),
                "area": float(people["area"][person]),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
            }
        )
        detections.append(shared | {"keypoints": found[number].ravel().tolist(), "score": float(scores[number])})
    evaluation = _evaluate(truths, detections, np.array(sigmas)[list(keypoints)])
    return {name: float(value) if value >= 0 else None for name, value in zip(_NUMBERS, evaluation.stats, strict=True)}


def _evaluate(truths: list[dict[str, Any]], detections: list[dict[str, Any]], sigmas: np.ndarray) -> COCOeval:
    """COCOeval of keypoints, run to its end and without its printing."""
    images = [{"id": number} for number in sorted({truth["image_id"] for truth in truths})]
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": truths}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _person_scores(found: np.ndarray) -> np.ndarray:
    """(N, K, 3) to (N,): the mean of each person's certain keypoint scores, 0 where none is certain."""
    certain = found[:, :, 2] > _CERTAIN
    return (found[:, :, 2] * certain).sum(1) / np.maximum(certain.sum(1), 1)
