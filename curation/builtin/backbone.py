"""A network at three input shapes, wide, tall and square: a 4:3 photo in a square spends a quarter on padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from curation.builtin.boxes import input_shape, letterbox
from curation.engines import Engine

Outputs = tuple[NDArray[np.float32], ...]


class Backbone:
    """`compile_for` makes the network for a shape (height, width), when a picture of that shape first comes; `size` is
    the longer side in pixels and `fill` the grey level around the picture."""

    def __init__(self, compile_for: Callable[[tuple[int, int]], Engine], size: int, fill: int) -> None:
        self.compile_for, self.size, self.fill = compile_for, size, fill
        self.engines: dict[tuple[int, int], Engine] = {}

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """The network's outputs for each uint8 RGB picture, without the batch axis."""
        shapes = [input_shape(image.shape[0], image.shape[1], self.size) for image in images]
        found: dict[int, Outputs] = {}
        for shape in set(shapes):
            mine = [i for i, s in enumerate(shapes) if s == shape]
            inputs = np.stack([letterbox(images[i], self.size, self.fill)[0] for i in mine])
            for i, *outputs in zip(mine, *self._engine(shape)(inputs), strict=True):
                found[i] = tuple(outputs)
        return [found[i] for i in range(len(images))]

    def _engine(self, shape: tuple[int, int]) -> Engine:
        if shape not in self.engines:
            self.engines[shape] = self.compile_for(shape)
        return self.engines[shape]
