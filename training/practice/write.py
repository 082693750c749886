"""Practice pictures and labels as files, in the formats that `sapiens-train pack` reads."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from manifests.store import Store
from training.config import UsageError
from training.labels.decode import parts_to_png
from training.labels.preview import draw_labels, save_sheet
from training.labels.sets import ClassList
from training.practice.scene import Rendered, coco17, render
from training.predict.compose import Person, Prediction
from training.tasks.background import Backgrounds

FOLDERS = ("images", "parts", "masks", "depths", "normals")
KEYPOINTS_FILE = "keypoints.json"
_SHOWN = 4  # pictures in the preview


def write_practice(
    out: Path,
    count: int,
    seed: int,
    photos: Backgrounds | None = None,
    size: tuple[int, int] | None = None,
    workers: int = 1,
) -> Iterator[int]:
    """Render `count` pictures into a folder; yields how many are written. Raises UsageError.

    images/*.jpg, parts/*.png (ids of Sapiens' 28 classes), masks/*.png (255 where people are), depths/*.npy (float32,
    metres, NaN off people), normals/*.npy (float16, x right, y up, z towards the camera, NaN off people), preview.jpg
    to look at and, last, keypoints.json (COCO's, 17 keypoints). The files are the same for any number of workers.
    """
    if (out / KEYPOINTS_FILE).exists():
        raise UsageError(f"{out} already holds practice pictures; give another folder or delete it")
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if there and not there.issuperset(FOLDERS):  # those are of a run that did not end
        raise UsageError(f"{out} is not empty; give a new or empty folder, so that nothing in it is overwritten")
    for folder in FOLDERS:
        (out / folder).mkdir(parents=True, exist_ok=True)
        for left in (out / folder).glob("[0-9]" * 6 + "*.*"):  # by a run that did not end, perhaps of another seed
            left.unlink()
    make = partial(_write_one, out, seed, photos, size)
    entries: list[dict[str, Any]] = []
    for entry in _results(make, count, workers):
        entries.append(entry)
        yield len(entries)
    save_sheet([_draw(render(seed, index, photos, size)) for index in range(min(count, _SHOWN))], out)
    Store(out).write_json(KEYPOINTS_FILE, _as_coco(entries, seed))


def parse_size(text: str) -> tuple[int, int]:
    """Rows and columns from text such as 256x192. Raises UsageError."""
    rows, cross, columns = text.partition("x")
    if not (cross and rows.isdecimal() and columns.isdecimal() and int(rows) >= 32 and int(columns) >= 32):
        raise UsageError(f"--size is '{text}'; give rows x columns in pixels, each 32 or more, such as 256x192")
    return int(rows), int(columns)


def _results(make: partial[dict[str, Any]], count: int, workers: int) -> Iterator[dict[str, Any]]:
    if workers <= 1:
        yield from map(make, range(count))
        return
    with ProcessPoolExecutor(min(workers, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        yield from pool.map(make, range(count), chunksize=8)


def _write_one(
    out: Path, seed: int, photos: Backgrounds | None, size: tuple[int, int] | None, index: int
) -> dict[str, Any]:
    cv2.setNumThreads(1)
    picture, name = render(seed, index, photos, size), f"{index:06d}"
    quality = 80 + (seed + index) % 16
    (out / f"images/{name}.jpg").write_bytes(simplejpeg.encode_jpeg(picture.image, quality, colorsubsampling="444"))
    (out / f"parts/{name}.png").write_bytes(parts_to_png(picture.parts))
    people = np.isfinite(picture.depth).astype(np.uint8) * 255
    (out / f"masks/{name}.png").write_bytes(parts_to_png(people))
    np.save(out / f"depths/{name}.npy", picture.depth)
    np.save(out / f"normals/{name}.npy", picture.normals.astype(np.float16))
    return _entry(picture, f"{name}.jpg")


def _entry(picture: Rendered, file_name: str) -> dict[str, Any]:
    people = []
    for person in picture.people:
        left, top, right, bottom = _box(person.mask)
        people.append(
            {
                "bbox": [left, top, right - left, bottom - top],
                "area": int(person.mask.sum()),
                "keypoints": [round(float(number), 2) for number in person.keypoints.ravel()],
                "num_keypoints": int((person.keypoints[:, 2] > 0).sum()),
            }
        )
    height, width = picture.parts.shape
    return {"file_name": file_name, "height": height, "width": width, "people": people}


def _draw(picture: Rendered) -> np.ndarray:
    """Picture and labels side by side."""
    people = []
    for person in picture.people:
        left, top, right, bottom = _box(person.mask)
        points = np.hstack([person.keypoints[:, :2], person.keypoints[:, 2:] > 0])
        people.append(Person((left, top, right, bottom), 1.0, points))
    one_scale = np.isfinite(picture.depth).astype(np.uint16)  # depth is in metres, so people share its colours
    found = Prediction(picture.image, tuple(people), one_scale, picture.parts, picture.depth, picture.normals)
    return draw_labels(found, coco17(), ClassList.load("sapiens28"))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a mask; the latter two exclusive."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _as_coco(entries: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, entry in enumerate(entries):
        images.append({"id": number, **{key: entry[key] for key in ("file_name", "height", "width")}})
        for person in entry["people"]:
            head = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append(head | person)
    names = coco17()
    category = {
        "id": 1,
        "name": "person",
        "keypoints": list(names.names),
        "skeleton": [[a + 1, b + 1] for a, b in names.skeleton],
    }
    return {
        "info": {"description": f"sapiens-train practice, seed {seed}"},
        "images": images,
        "annotations": annotations,
        "categories": [category],
    }
