"""Bytes of one image → upright RGB pixels, or an exception that says why not.

A JPEG is decoded at a reduced scale (libjpeg's n/8) when it is larger than the networks look at. A picture whose
data breaks off or is corrupt is refused: decoders that fill the rest with grey are told not to.
"""

import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from curation.jpeg import EOI, strip_metadata
from shards.rgb import MAX_PIXELS, NoWhite, heic_advice, to_rgb

_open = Image.open  # Pillow's own: once ultralytics is imported, it runs pip for files of unknown kinds
WORK_SIDE = 1024
"""The working picture's longer side is brought to between this and twice this, never enlarged."""
ORIENTATION_TAG = 0x0112
RGB_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA"})  # Pillow's, whose colours are RGB
STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x(..)")


class EmptyFile(ValueError):
    """The file has no bytes."""


class UnsupportedFormat(ValueError):
    """The bytes are no image that the installed decoders know."""


class TooManyPixels(ValueError):
    """The header announces more pixels than are decoded; a bomb, or a picture to be shrunk first."""


class DamagedImage(ValueError):
    """The pixel data breaks off or is corrupt."""


@dataclass(frozen=True)
class Header:
    """What the first bytes say: format, stored size in pixels, EXIF orientation 1..8 and Pillow's colour mode."""

    format: str
    width: int
    height: int
    orientation: int
    mode: str

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in pixels after the EXIF rotation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@dataclass(frozen=True)
class Picture:
    """One decoded image. `rgb` is uint8 (h, w, 3), upright, at working size; `width`, `height` are the full size, and
    `scale` is how many of its pixels a working pixel is across and down.
    """

    rgb: np.ndarray
    width: int
    height: int
    header: Header
    scale: tuple[float, float]


def decode(data: bytes, work_side: int | None = WORK_SIDE) -> Picture:
    """Decode to working size, or to full size with `work_side=None`. Raises one of the errors above."""
    header, image = open_image(data)
    if header.format == "JPEG" and image.mode in {"RGB", "L"}:
        rgb = _decode_jpeg(data, header, work_side)
    else:
        rgb = _rgb(_load(image))
    width, height = header.upright_size
    rgb = _upright(rgb, header.orientation)
    small, wide = _shrink(rgb, work_side), _pixel((width, height), (rgb.shape[1], rgb.shape[0]))
    scale = (wide * rgb.shape[1] / small.shape[1], wide * rgb.shape[0] / small.shape[0])
    return Picture(small, width, height, header, scale)


def open_image(data: bytes) -> tuple[Header, Image.Image]:
    """Read the header alone."""
    if not data:
        raise EmptyFile("the file has 0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning; MAX_PIXELS below decides
            image = _open(io.BytesIO(data))
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except (
        UnidentifiedImageError,
        ModuleNotFoundError,
    ):  # the latter where ultralytics was imported before this module
        raise UnsupportedFormat(
            f"starts with {data[:12]!r}, which no installed image decoder knows{heic_advice(data)}"
        ) from None
    except Image.DecompressionBombError:
        raise TooManyPixels(
            f"over {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; at most {MAX_PIXELS} are decoded"
        ) from None
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, OverflowError) as error:
        raise DamagedImage(f"the header cannot be read: {error}") from None
    if image.width * image.height > MAX_PIXELS:
        raise TooManyPixels(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are decoded")
    known = isinstance(orientation, int) and 1 <= orientation <= 8
    upright = orientation if known and image.format != "TIFF" else 1  # Pillow turns a TIFF itself
    name = "JPEG" if image.format == "MPO" else image.format or "?"
    return Header(name, image.width, image.height, upright, image.mode), image


def rgb_profile(data: bytes) -> bytes:
    """The ICC profile of a picture in RGB, such as a phone's Display P3; empty where there is none, or where it is of
    other colours, which are converted without it.
    """
    image = open_image(data)[1]
    profile = image.info.get("icc_profile") or b""
    return profile if image.mode in RGB_MODES and profile[16:20] == b"RGB " else b""


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """RGB uint8 (h, w, 3) → JPEG bytes, 4:4:4, the same bytes on every machine with the same libjpeg."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=quality, colorspace="RGB", colorsubsampling="444")


def _decode_jpeg(data: bytes, header: Header, work_side: int | None) -> np.ndarray:
    sides: dict[str, Any] = {}
    if work_side and max(header.width, header.height) > work_side:
        side = "min_width" if header.width >= header.height else "min_height"
        sides = {side: work_side, "min_factor": 1}
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, **sides)
    except ValueError as error:
        warning = str(error)
    try:
        return simplejpeg.decode_jpeg(_mended(data, warning), "RGB", strict=True, **sides)
    except ValueError as error:
        raise DamagedImage(str(error)) from None


def _mended(data: bytes, warning: str) -> bytes:
    """A JPEG without what a decoder warned of and no pixel hangs on: bytes between its segments, padding before its end
    marker, an Adobe transform that there is not.

    Raises ValueError where they are neither: what a damaged scan leaves over is not 00 and FF alone.
    """
    found = STRAY.search(warning)
    if "Unknown Adobe color transform" in warning:
        return strip_metadata(data)
    if not found:
        raise ValueError(warning)
    whole = strip_metadata(data)
    if int(found[2], 16) != EOI:
        return whole
    end = len(whole) - 2 - int(found[1])
    if whole[end:-2].strip(b"\0\xff"):
        raise ValueError(warning)
    return whole[:end] + whole[-2:]


def _pixel(full: tuple[int, int], decoded: tuple[int, int]) -> float:
    """How many pixels wide a decoded one is: libjpeg's are exactly 8 / n. The last one hangs over where that does not
    divide the side; in a photo on its side or head it may be the first, and places are off by less than one of them.
    """
    fitting = (n for n in range(8, 0, -1) if all(-(-f * n // 8) == d for f, d in zip(full, decoded, strict=True)))
    return 8 / next(fitting, 8)


def _load(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        raise DamagedImage(str(error)) from None
    return image


def _rgb(image: Image.Image) -> np.ndarray:
    try:
        return to_rgb(image)
    except NoWhite as error:
        raise UnsupportedFormat(str(error)) from None


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return rgb
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    return np.asarray(Image.fromarray(rgb).transpose(method))


def _shrink(rgb: np.ndarray, work_side: int | None) -> np.ndarray:
    """Other formats than JPEG arrive at full size: bring them to the working size too."""
    height, width = rgb.shape[:2]
    if not work_side or max(height, width) < 2 * work_side:
        return rgb
    ratio = work_side / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
