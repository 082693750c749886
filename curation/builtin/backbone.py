"""A network at a few input shapes from wide to tall: a 4:3 photo in a square spends a quarter on padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from curation.builtin.boxes import GREY, NARROW, input_shape, letterbox
from curation.engines import Engine

Outputs = tuple[NDArray[np.float32], ...]


class Backbone:
    """`compile_for` makes the network for a shape (height, width), when a picture of that shape first comes; `size` is
    the longer side in pixels, `fill` the grey level around the picture, the others as in `input_shape`.
    """

    def __init__(
        self,
        compile_for: Callable[[tuple[int, int]], Engine],
        size: int,
        fill: int = GREY,
        margin: int = 0,
        narrow: Sequence[float] = NARROW,
    ) -> None:
        self.compile_for, self.size, self.fill, self.margin, self.narrow = compile_for, size, fill, margin, narrow
        self.engines: dict[tuple[int, int], Engine] = {}

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """The network's outputs for each uint8 RGB picture, without the batch axis."""
        shapes = [input_shape(i.shape[0], i.shape[1], self.size, self.margin, self.narrow) for i in images]
        found: dict[int, Outputs] = {}
        for shape in set(shapes):
            mine = [i for i, s in enumerate(shapes) if s == shape]
            inputs = np.stack([letterbox(images[i], self.size, self.fill, self.margin, self.narrow)[0] for i in mine])
            for i, *outputs in zip(mine, *self._engine(shape)(inputs), strict=True):
                found[i] = tuple(outputs)
        return [found[i] for i in range(len(images))]

    def _engine(self, shape: tuple[int, int]) -> Engine:
        if shape not in self.engines:
            self.engines[shape] = self.compile_for(shape)
        return self.engines[shape]
