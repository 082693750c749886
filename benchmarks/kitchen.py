"""Pictures of one room with measured depth as the folds of a cross-validation, and normals made from the depth."""

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np


def split_kitchen(source: Path, work: Path, folds: int) -> None:
    """Write {fold}-{train,dev}.tar with depth and {fold}-{train,dev}-normals.tar for each fold, at half the size.

    source: a tar of jpg, png (16 bits, millimetres) and json. A fold's dev frames follow each other in the film, so
    that only its two ends have near twins among those to train on.
    """
    work.mkdir(parents=True, exist_ok=True)
    with tarfile.open(source) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    records = {name.split(".")[0]: json.loads(data) for name, data in files.items() if name.endswith(".json")}
    keys = sorted(records, key=lambda key: records[key]["source"])
    made = {key: labelled(files[f"{key}.jpg"], files[f"{key}.png"], records[key]["intrinsics"]) for key in keys}
    for fold, dev in enumerate(np.array_split(keys, folds)):
        for part, chosen in (("train", sorted(set(keys) - set(dev))), ("dev", sorted(dev))):
            with (
                tarfile.open(work / f"{fold}-{part}.tar", "w") as depth,
                tarfile.open(work / f"{fold}-{part}-normals.tar", "w") as normals,
            ):
                for key in chosen:
                    jpeg, png, npy = made[key]
                    add(depth, f"{key}.jpg", jpeg)
                    add(depth, f"{key}.png", png)
                    add(depth, f"{key}.json", json.dumps({"depth": "16-bit PNG millimetres"}).encode())
                    add(normals, f"{key}.jpg", jpeg)
                    add(normals, f"{key}.normals.npy", npy)


def labelled(jpeg: bytes, png: bytes, intrinsics: list[float]) -> tuple[bytes, bytes, bytes]:
    """Photo, depth and normals of a frame, at half its size."""
    photo = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    millimetres = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    buffer = io.BytesIO()
    np.save(buffer, normals_of(millimetres, *intrinsics)[::2, ::2])
    rows, columns = millimetres.shape
    half = cv2.resize(photo, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
    small = cv2.imencode(".png", np.ascontiguousarray(millimetres[::2, ::2]))[1]
    return cv2.imencode(".jpg", half)[1].tobytes(), small.tobytes(), buffer.getvalue()


def normals_of(millimetres: np.ndarray, fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """(H, W) uint16 depth → (H, W, 3) float32 normals: x right, y up, z towards the camera; NaN where unknown."""
    valid = (millimetres > 0) & (millimetres < 65535)
    z = np.where(valid, millimetres / 1000.0, np.nan).astype(np.float32)
    filled_in = np.where(valid, z, np.nanmedian(z)).astype(np.float32)
    smooth = cv2.bilateralFilter(filled_in, 9, 0.05, 5)
    rows, columns = np.indices(z.shape, dtype=np.float32)
    places = np.stack([(columns - cx) / fx * smooth, (rows - cy) / fy * smooth, smooth], axis=-1)
    across = cv2.blur(np.gradient(places, axis=1), (5, 5))
    down = cv2.blur(np.gradient(places, axis=0), (5, 5))
    normal = np.cross(down, across)  # towards the camera in x right, y down, z away
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
    normal *= np.array([1.0, -1.0, -1.0])
    near_unknown = cv2.dilate((~valid).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    jump = np.abs(cv2.Laplacian(smooth, cv2.CV_32F, ksize=5)) > 1.0
    normal[near_unknown | jump | ~np.isfinite(normal).all(axis=-1)] = np.nan
    return normal.astype(np.float32)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
