"""Small labelled photos in every format that `pack` reads."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from tests.shard_factory import photo

HEIGHT, WIDTH = 96, 120  # of tests.shard_factory.photo


def person(image_id: int, **changed: Any) -> dict[str, Any]:
    """A COCO annotation with all 17 keypoints inside the image."""
    keypoints = [value for k in range(17) for value in (20.0 + 2 * k, 30.0 + k, 2)]
    given = {"id": 1, "image_id": image_id, "category_id": 1, "bbox": [15, 20, 50, 40], "area": 900.0, "iscrowd": 0}
    return given | {"keypoints": keypoints} | changed


def write_coco(
    folder: Path, annotations: list[dict[str, Any]], photos: int = 2, names: list[str] | None = None
) -> Path:
    (folder / "images").mkdir(parents=True)
    for number in range(photos):
        (folder / f"images/{number}.jpg").write_bytes(photo(number))
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(photos)],
        "annotations": [annotation | {"id": 100 + n} for n, annotation in enumerate(annotations)],
        "categories": [{"id": 1, "name": "person", **({"keypoints": names} if names else {})}],
    }
    path = folder / "keypoints.json"
    path.write_text(json.dumps(content))
    return path


def write_folder(
    root: Path, kind: str, labels: dict[str, np.ndarray], masks: dict[str, np.ndarray] | None = None
) -> Path:
    """images/STEM.jpg and KIND/NAME for every label; NAME ends in .png or .npy."""
    for folder in ("images", kind, *(["masks"] if masks else [])):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, (name, pixels) in enumerate(labels.items()):
        (root / "images" / f"{Path(name).stem}.jpg").write_bytes(photo(number))
        write_pixels(root / kind / name, pixels)
    for name, pixels in (masks or {}).items():
        write_pixels(root / "masks" / name, pixels)
    return root


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        cv2.imwrite(str(path), pixels[:, :, ::-1] if pixels.ndim == 3 else pixels)


def manifest(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "manifest")
