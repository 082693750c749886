"""torchvision can be imported whatever torch it was built for."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch

from curation.full import torchvision_ops
from curation.full.torchvision_ops import make_importable, nms


def test_torchvision_and_what_needs_it_can_be_imported() -> None:
    make_importable()
    import torchvision
    from easyocr.craft import CRAFT  # noqa: F401

    boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30.0]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.3]), 0.5).tolist() == [1, 2]


def test_threads_that_come_at_once_prepare_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Path] = []

    def loads(package: Path) -> bool:
        tries.append(package)
        time.sleep(0.1)
        return True

    monkeypatch.setattr(torchvision_ops, "_loads", loads)
    monkeypatch.setattr(torchvision_ops, "_made_importable", cache(torchvision_ops._made_importable.__wrapped__))
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: make_importable(), range(3))) == [True] * 3
    assert len(tries) == 1


def test_nms_by_hand() -> None:
    torch.manual_seed(0)
    low = torch.rand(200, 2) * 50
    boxes, scores = torch.cat([low, low + 5 + torch.rand(200, 2) * 20], 1), torch.rand(200)
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(_overlap(boxes[i], boxes[j]) <= 0.4 for j in kept):
            kept.append(i)
    assert nms(boxes, scores, 0.4).tolist() == kept
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def _overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    x = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
    y = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
    area = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return x * y / (sum(area) - x * y)
