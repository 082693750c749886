"""Class maps, depth and normals from the bytes of PNG and npy files."""

import io
import threading
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from training.config import Task, UsageError
from training.labels.given import BROKEN_LABEL, LabelError

SUFFIXES = (".png", ".npy")
# CPython 3.11 counts for all threads together how deep it is in a literal, and an npy's header is one: another thread
# that is let in by a collection makes it a SystemError (https://github.com/python/cpython/issues/106905).
_ONE_HEADER_AT_A_TIME = threading.Lock()
_FAR_AWAY = 1e9  # Sapiens' own depth files are padded with 1e10


@dataclass(frozen=True)
class Convention:
    """How dense label files are to be read.

    scale: unit of depth for each step of a 16-bit PNG, or each 1.0 of an npy; None: not told. axes: which of our
    components each channel of a normals file is, such as "+x-y-z".
    """

    scale: float | None = None
    axes: str = "+x+y+z"

    def __post_init__(self) -> None:
        signs, letters = self.axes[::2], self.axes[1::2]
        if len(self.axes) != 6 or sorted(letters) != ["x", "y", "z"] or set(signs) - {"+", "-"}:
            raise UsageError(
                f"--axes is '{self.axes}'; give a sign and a letter for each channel, such as +x+y+z (x right, y up, "
                "z towards the camera: ours) or +x-y-z (y down, z away, as OpenCV has it)"
            )
        if self.scale is not None and not self.scale > 0:
            raise UsageError(f"--scale is {self.scale}; give metres per step, such as 0.001 for millimetres")


def read_dense(task: Task, name: str, data: bytes, how: Convention) -> np.ndarray:
    """The label in a file of this name. Raises LabelError for what cannot be one."""
    pixels = _read_npy(name, data) if name.lower().endswith(".npy") else _read_png(name, data)
    if not pixels.size:
        raise LabelError(BROKEN_LABEL, f"{name} holds {_shape(pixels)}: nothing")
    if task == "parts":
        return _parts(name, pixels)
    if task == "depth":
        return _depth(name, pixels, how)
    return _normals(name, pixels, how)


def read_mask(name: str, data: bytes) -> np.ndarray:
    """(H, W) bool: where a mask file is not 0. Raises LabelError."""
    pixels = _read_npy(name, data) if name.lower().endswith(".npy") else _read_png(name, data)
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise LabelError(BROKEN_LABEL, f"{name} holds {_shape(pixels)}; masks are (H, W)")
    return np.asarray(pixels.reshape(*pixels.shape[:2], -1).any(axis=2))


def _parts(name: str, pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim != 2 or pixels.dtype.kind not in "uib" or pixels.min() < 0 or pixels.max() > 255:
        raise LabelError(
            BROKEN_LABEL, f"{name} holds {_shape(pixels)}; class maps are (H, W) with whole numbers from 0 to 255"
        )
    return pixels.astype(np.uint8)


def _depth(name: str, pixels: np.ndarray, how: Convention) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim != 2 or pixels.dtype.kind not in "uif":
        raise LabelError(BROKEN_LABEL, f"{name} holds {_shape(pixels)}; depth maps are (H, W) with numbers")
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels
        valid = np.isfinite(pixels) & (pixels > 0) & (pixels < _FAR_AWAY)
        return np.where(valid, pixels * (how.scale or 1.0), np.nan).astype(np.float32)
    if how.scale is None:
        raise UsageError(
            f"{name} holds depth as {pixels.dtype}; say with --scale how many metres a step is, such as 0.001"
        )
    valid = (pixels > 0) & (pixels < np.iinfo(pixels.dtype).max)
    return np.where(valid, pixels * how.scale, np.nan).astype(np.float32)


def _normals(name: str, pixels: np.ndarray, how: Convention) -> np.ndarray:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype.kind not in "uif":
        raise LabelError(BROKEN_LABEL, f"{name} holds {_shape(pixels)}; normal maps are (H, W, 3) with numbers")
    if pixels.dtype.kind == "u":
        none = ~pixels.any(axis=2)
        found = pixels.astype(np.float32) * np.float32(2 / np.iinfo(pixels.dtype).max) - 1
        found[none] = np.nan
    else:
        found = pixels.astype(np.float32)
    length = np.linalg.norm(found, axis=2)
    with np.errstate(invalid="ignore"):
        none = ~((length > 0.5) & (length < 2))  # also what Sapiens' files have off people: -1000
    ours = np.empty_like(found)
    for channel, (sign, letter) in enumerate(zip(how.axes[::2], how.axes[1::2], strict=True)):
        ours[:, :, "xyz".index(letter)] = found[:, :, channel] * (1 if sign == "+" else -1)
    ours /= np.where(none, np.nan, length)[:, :, None]
    return ours


def _read_npy(name: str, data: bytes) -> np.ndarray:
    try:
        with _ONE_HEADER_AT_A_TIME:
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise LabelError(BROKEN_LABEL, f"{name} is not an npy file of numbers: {error}") from error


def _read_png(name: str, data: bytes) -> np.ndarray:
    """The numbers in a PNG: palette indices stay indices, colours come as RGB."""
    if _is_palette(data):
        return _read_palette(name, data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None:
        raise LabelError(BROKEN_LABEL, f"{name} is not an image that can be decoded")
    return np.asarray(pixels if pixels.ndim == 2 else pixels[:, :, 2::-1])


def _is_palette(data: bytes) -> bool:
    return data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25 and data[25] == 3


def _read_palette(name: str, data: bytes) -> np.ndarray:

    try:
        return np.asarray(Image.open(io.BytesIO(data)))
    except (OSError, ValueError, SyntaxError) as error:
        raise LabelError(BROKEN_LABEL, f"{name} is not an image that can be decoded: {error}") from error


def _shape(pixels: np.ndarray) -> str:
    return f"{' x '.join(map(str, pixels.shape)) or 'one number'} of {pixels.dtype}"
