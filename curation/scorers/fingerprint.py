"""Is it a copy? A 64-bit perceptual hash; sha256 of the bytes is taken when they are read."""

import cv2
import numpy as np

from curation.batch import Batch

FLAT = 2.0
"""Standard deviation (grey levels) under which a picture has no structure to hash."""


class Fingerprint:
    """The DCT hash known as pHash: signs of the 8 x 8 lowest frequencies of a 32 x 32 picture about their median."""

    name = "fingerprint"
    columns = ("phash",)
    identity = "dct8x8@2"

    def score(self, batch: Batch) -> dict[str, list[int | None]]:
        return {"phash": [phash(grey) for grey in batch.greys()]}


def phash(grey: np.ndarray) -> int | None:
    """uint8 (h, w) → 64-bit hash; None for a flat picture, whose hash would equal every other flat picture's."""
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < FLAT:
        return None
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])
