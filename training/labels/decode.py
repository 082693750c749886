"""Dense labels as PNG files in shards, and back.

Class ids are 8 bits. Depth and normals are 16 bits a channel, where 0 says that there is no label: depth steps by
(far - near) / 65534, a normal's component by 2 / 65534.
"""

import cv2
import numpy as np

from shards.crop import BrokenImage

_STEPS = 65534
_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 4]


def parts_to_png(parts: np.ndarray) -> bytes:
    """(H, W) uint8 class ids."""
    return _encode(parts)


def parts_from_png(data: bytes) -> np.ndarray:
    """(H, W) uint8 class ids. Raises BrokenImage."""
    return _decode(data, np.uint8, 2)


def depth_to_png(depth: np.ndarray) -> tuple[bytes, float, float]:
    """PNG, near and far of a (H, W) float map, NaN where there is no depth. Raises ValueError where there is none
    at all.
    """
    valid = np.isfinite(depth)
    if not valid.any():
        raise ValueError("no pixel has a depth")
    near, far = float(np.float32(depth[valid].min())), float(np.float32(depth[valid].max()))
    share = (depth - near) / max(far - near, 1e-12)
    stored = np.where(valid, 1 + np.rint(_STEPS * np.clip(np.nan_to_num(share), 0, 1)), 0)
    return _encode(stored.astype(np.uint16)), near, far


def depth_from_png(data: bytes, near: float, far: float) -> np.ndarray:
    """(H, W) float32 depth in the unit that was packed, NaN where there is none. Raises BrokenImage."""
    stored = _decode(data, np.uint16, 2)
    depth = near + (stored.astype(np.float32) - 1) * np.float32((far - near) / _STEPS)
    depth[stored == 0] = np.nan
    return depth


def normals_to_png(normals: np.ndarray) -> bytes:
    """(H, W, 3) float unit vectors, NaN where there is none."""
    valid = np.isfinite(normals).all(axis=2, keepdims=True)
    share = (np.clip(np.nan_to_num(normals), -1, 1) + 1) / 2
    stored = np.where(valid, 1 + np.rint(_STEPS * share), 0)
    return _encode(stored.astype(np.uint16)[:, :, ::-1])


def normals_from_png(data: bytes) -> np.ndarray:
    """(H, W, 3) float32 vectors of length 1 to within 1e-4, NaN where there is none. Raises BrokenImage."""
    stored = cv2.cvtColor(_decode(data, np.uint16, 3), cv2.COLOR_BGR2RGB)
    normals = (stored.astype(np.float32) - 1) * np.float32(2 / _STEPS) - 1
    normals[np.bitwise_or.reduce(cv2.split(stored)) == 0] = np.nan
    return normals


def _encode(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels), _FAST)
    if not done:
        raise ValueError(f"an array of {pixels.shape} {pixels.dtype} cannot be a PNG")
    return data.tobytes()


def _decode(data: bytes, dtype: type, dimensions: int) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None or pixels.dtype != dtype or pixels.ndim != dimensions:
        found = "nothing" if pixels is None else f"{pixels.shape} {pixels.dtype}"
        raise BrokenImage(f"a label PNG holds {found} where {dimensions} dimensions of {np.dtype(dtype)} are expected")
    return np.asarray(pixels)
