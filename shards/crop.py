"""From the bytes of a photo to the random crop a model trains on.

The crop is chosen before decoding, so a JPEG is decoded at a half, a quarter or less where the crop leaves
enough pixels.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.draws import uniforms
from shards.rgb import MAX_PIXELS, heic_advice, to_rgb

MAX_SIDE = 65_500
"""Images that are longer than a JPEG can be are refused, as what becomes of them is one."""

_ATTEMPTS = 10


class BrokenImage(ValueError):
    """Bytes that are not a picture."""


@dataclass(frozen=True)
class Crop:
    """A box in pixels of the upright image, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


@dataclass(frozen=True)
class RandomCrop:
    """Sapiens' only augmentation: a random part of the image, resized, mirrored half the time.

    size: rows and columns of the result. area: share of the image's area that is kept. aspect: width ÷ height
    of the crop, relative to that of the result. scaled_decode: let the JPEG decoder shrink to a half or less where
    the crop stays at least as large as the result; the pixels then differ slightly (docs/pretrain.md).
    """

    size: tuple[int, int]
    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    scaled_decode: bool = True

    def __call__(self, data: bytes, key: int) -> np.ndarray:
        """The crop of an image that a key stands for: (rows, columns, 3) uint8 RGB. Raises BrokenImage."""
        image = Encoded(data)
        crop = self.choose(image.height, image.width, key)
        at_least = (1.0, 1.0)
        if self.scaled_decode:
            at_least = (self.size[0] / crop.height, self.size[1] / crop.width)
        return cut(image.decode(*at_least), crop, (image.height, image.width), self.size)

    def choose(self, height: int, width: int, key: int) -> Crop:
        """The crop for an image of a size: ten tries at a random area and aspect, then the largest centred
        one that fits.
        """
        draws = uniforms(key, 1 + 4 * _ATTEMPTS)
        flip = bool(draws[0] < self.flip)
        relative = self.size[1] / self.size[0]
        low, high = (np.log(a * relative) for a in self.aspect)
        for u in draws[1:].reshape(_ATTEMPTS, 4):
            area = height * width * (self.area[0] + u[0] * (self.area[1] - self.area[0]))
            aspect = np.exp(low + u[1] * (high - low))
            h, w = round(float(np.sqrt(area / aspect))), round(float(np.sqrt(area * aspect)))
            if 0 < h <= height and 0 < w <= width:
                return Crop(int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w, flip)
        aspect = float(np.clip(width / height, self.aspect[0] * relative, self.aspect[1] * relative))
        h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
        return Crop((height - h) // 2, (width - w) // 2, max(h, 1), max(w, 1), flip)


class Encoded:
    """An image whose size is known and whose pixels are not decoded yet. height, width: pixels, upright."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._jpeg = data[:3] == b"\xff\xd8\xff"
        try:
            if self._jpeg and not _has_exif(data):
                self.height, self.width = simplejpeg.decode_jpeg_header(data)[:2]
            else:
                self._image = Image.open(io.BytesIO(data))
                self.width, self.height = self._image.size
                orientation = self._image.getexif().get(0x0112, 1)
                self._jpeg = self._jpeg and orientation == 1
                if orientation in (5, 6, 7, 8) and self._image.format != "TIFF":  # Pillow turns a TIFF itself
                    self.width, self.height = self.height, self.width
        except UnidentifiedImageError as error:
            raise BrokenImage(f"not an image: it starts with {data[:8]!r}{heic_advice(data)}") from error
        except Exception as error:  # Pillow's plug-ins raise whatever they like
            raise BrokenImage(f"not an image: {error}") from error
        if self.height * self.width > MAX_PIXELS:
            raise BrokenImage(f"{self.width} x {self.height} px is more than {MAX_PIXELS} pixels")
        if max(self.height, self.width) > MAX_SIDE:
            raise BrokenImage(f"{self.width} x {self.height} px has a side of more than {MAX_SIDE} pixels")

    @property
    def is_upright_jpeg(self) -> bool:
        """Its bytes show it as it is: a JPEG that need not be turned."""
        return self._jpeg

    def decode(self, at_least_height: float = 1.0, at_least_width: float = 1.0) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright; a JPEG shrunk to 4, 3, 2 or 1 eighths where both sides keep at least these
        shares of their pixels.
        """
        try:
            if self._jpeg:
                try:
                    return simplejpeg.decode_jpeg(
                        self.data,
                        min_height=int(np.ceil(min(at_least_height, 1.0) * self.height)),
                        min_width=int(np.ceil(min(at_least_width, 1.0) * self.width)),
                        min_factor=2,  # 7/8 … 5/8 are slower to decode than the whole
                    )
                except ValueError:  # CMYK, or a flaw that Pillow may still bear
                    self._image = Image.open(io.BytesIO(self.data))
            return to_rgb(ImageOps.exif_transpose(self._image))
        except Exception as error:
            raise BrokenImage(f"cannot be decoded: {error}") from error


def _has_exif(data: bytes) -> bool:
    """Whether a JPEG's application segments, which lie before its tables, tell how it is to be turned."""
    at = 2
    while at + 8 <= len(data) and data[at] == 0xFF and data[at + 1] >= 0xE0:
        if data[at + 4 : at + 8] in (b"Exif", b"http"):  # of XMP
            return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def cut(pixels: np.ndarray, crop: Crop, original: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Cut a crop, given in pixels of the original, out of a perhaps smaller decoding and resize it: (rows,
    columns, 3) uint8.

    Bicubic with antialiasing, as Pillow's (at most 1 of 255 apart).
    """
    down, across = pixels.shape[0] / original[0], pixels.shape[1] / original[1]
    top, left = round(crop.top * down), round(crop.left * across)
    bottom = max(round((crop.top + crop.height) * down), top + 1)
    right = max(round((crop.left + crop.width) * across), left + 1)
    part = pixels[top:bottom, left:right]
    part = cv2.flip(part, 1) if crop.flip else np.ascontiguousarray(part)
    if part.shape[:2] != tuple(size):
        chw = torch.from_numpy(part).permute(2, 0, 1)[None]
        part = F.interpolate(chw, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    return part
