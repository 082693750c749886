"""What a picture looks like as 8-bit RGB: one answer for curation, training and prediction."""

import numpy as np
from PIL import Image

try:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    _HEIC_ADVICE = ""
except ImportError:
    _HEIC_ADVICE = "; HEIC: pip install pillow-heif"

MAX_PIXELS = 200_000_000
"""Larger pictures are refused before their pixels are decoded."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice this; its own bound is below ours
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())


class NoWhite(Exception):
    """Pixels of a kind that has no stated white."""


def heic_advice(data: bytes) -> str:
    """What to install, to be said behind the refusal of a HEIC file that cannot be read without it; else empty."""
    return _HEIC_ADVICE if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS else ""


def to_rgb(image: Image.Image) -> np.ndarray:
    """Any Pillow mode → RGB uint8 (h, w, 3); transparency over white, 16 bits to 8 by their upper half, which Pillow
    would clip. Raises NoWhite for floating-point pixels, and what Pillow raises.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        grey = np.clip(values >> 8 if values.max(initial=0) > 255 else values, 0, 255).astype(np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[values == clear] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise NoWhite("floating-point pixels have no stated white; save the picture with 8 or 16 bits")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))  # a copy that may be written to, as torch wants
