"""Pictures of mixed shapes through one backbone."""

import numpy as np

from curation.builtin.backbone import Backbone
from curation.engines import Engine


def test_mixed_shapes_come_back_in_order_and_each_shape_is_compiled_once() -> None:
    compiled: list[tuple[int, int]] = []

    def brightest(shape: tuple[int, int]) -> Engine:
        compiled.append(shape)
        return Engine(lambda batch: (batch.max((1, 2, 3)), batch.astype(np.float32)), "cpu", "fp32")

    backbone = Backbone(brightest, 256, fill=7)
    sizes = [(30, 60), (60, 30), (60, 60), (33, 100), (10, 10)]
    pictures = [np.full((*size, 3), 100 + i, np.uint8) for i, size in enumerate(sizes)]
    found = backbone(pictures)
    assert [int(highest) for highest, _ in found] == [100, 101, 102, 103, 104]
    assert [canvas.shape[:2] for _, canvas in found] == [(160, 256), (256, 160), (256, 256), (160, 256), (256, 256)]
    assert backbone([pictures[0]])[0][1][-1, 0, 0] == 7
    assert sorted(compiled) == sorted(set(compiled))
