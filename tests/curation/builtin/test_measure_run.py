"""What a label asks of the filter."""

from typing import Any

import numpy as np
import pytest

from curation.builtin.measure_run import Judgement, settings_table, should_be_kept
from curation.builtin.training.collection import Picture

LARGE, SMALL = {"x0": 10, "y0": 10, "x1": 200, "y1": 300}, {"x0": 10, "y0": 10, "x1": 60, "y1": 300}


def picture(source: str, teacher: list[list[float]] | None = None, **label: Any) -> Picture:
    boxes = np.array(teacher or [], np.float32).reshape(-1, 5)
    return Picture("dev", source, "0", b"", {"kind": "photo", "width": 400, "height": 400, **label}, None, boxes)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (picture("people-coco", persons=[LARGE], persons_complete=True), True),
        (picture("people-coco", persons=[SMALL], persons_complete=True), False),
        (picture("people-coco", persons=[], persons_complete=True), False),
        (picture("watermark", persons=[LARGE], watermarked="1"), False),
        (picture("art", persons=[LARGE], kind="art"), False),
        (picture("depth-kitchen"), False),
        (picture("plain"), None),
        (picture("people-video", persons=[SMALL], persons_complete=False), False),
        (picture("people-video", [[0, 0, 250, 250, 0.9]], persons=[SMALL], persons_complete=False), True),
        (picture("people-video", [[0, 0, 250, 250, 0.2]], persons=[SMALL], persons_complete=False), None),
        (picture("meme-template", kind="meme-template"), None),
    ],
)
def test_labels_say_keep_reject_or_nothing(label: Picture, expected: bool | None) -> None:
    assert should_be_kept(label, 100) is expected


def test_precision_recall_and_the_rules_to_blame() -> None:
    rows = [
        Judgement("a", True, True, ()),
        Judgement("a", True, False, ("person", "text")),
        Judgement("b", False, True, ()),
        Judgement("b", False, False, ("art",)),
    ]
    last = settings_table({(0.9, 300): rows}).splitlines()[-1]
    assert "| 2 of 4 | 2 | 0.50 (" in last
    assert "person 1, text 1" in last
    assert "art" not in last
