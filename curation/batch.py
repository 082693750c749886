"""A few decoded images that travel through the scorers together, and what is computed on them once for all."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import cv2
import numpy as np

from curation.decode import Picture

Shared = TypeVar("Shared")
GREY_SIDE = 512


@dataclass
class Batch:
    """`data[i]` are the source bytes of `pictures[i]`; `scored` holds the columns filled so far."""

    data: list[bytes]
    pictures: list[Picture]
    scored: dict[str, list[Any]] = field(default_factory=dict)
    asked: frozenset[str] | None = None  # the scorers that will see this batch; None: all of the recipe's
    _memo: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pictures)

    def shared(self, name: str, compute: Callable[[], Shared]) -> Shared:
        """`compute()`, once per batch whoever asks: a backbone that several scorers use."""
        if name not in self._memo:
            self._memo[name] = compute()
        return self._memo[name]

    def greys(self) -> list[np.ndarray]:
        """uint8 (h, w) luminance, longer side 512 px (never enlarged)."""
        return self.shared("greys", lambda: [_grey(picture.rgb) for picture in self.pictures])


def _grey(rgb: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    ratio = GREY_SIDE / max(height, width)
    if ratio >= 1:
        return grey
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)  # anything quicker would look sharper
