"""Dense labels as files in folders: images/a.jpg beside parts/a.png, depths/a.npy or normals/a.npy."""

from functools import partial
from pathlib import Path

import numpy as np

from shards.index import IMAGE_SUFFIXES
from training.config import Task, UsageError
from training.labels.dense_files import SUFFIXES, Convention, read_dense, read_mask
from training.labels.given import BROKEN_LABEL, NOWHERE, SIZE, UNLABELLED, Given, LabelError

IMAGES, MASKS = ("images", "rgb"), ("masks", "mask")
FOLDERS: dict[Task, tuple[str, ...]] = {
    "parts": ("parts", "masks", "mask"),
    "depth": ("depths", "depth"),
    "normals": ("normals", "normal"),
}


def read_folder(root: Path, task: Task, how: Convention) -> list[Given]:
    """Every label of a folder by name, and every image that has none. Raises UsageError where folders are missing."""
    images, labels = _folder(root, IMAGES), _folder(root, FOLDERS[task])
    masks = _optional(root, MASKS) if task != "parts" else None
    photos = _by_stem(images, tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES))
    found = _by_stem(labels, SUFFIXES)
    limits = _by_stem(masks, SUFFIXES) if masks else {}
    given = []
    for stem, path in found.items():
        photo = photos.get(stem)
        refused = None if photo else LabelError(NOWHERE, f"there is no image '{stem}' in {images}")
        read = partial(_read, task, path, limits.get(stem), masks, how)
        given.append(Given(str(path), "", photo.read_bytes if photo else bytes, dense=read, refused=refused))
    for stem in sorted(photos.keys() - found.keys()):
        error = LabelError(UNLABELLED, f"there is no '{stem}' in {labels}")
        given.append(Given(str(photos[stem]), "", bytes, refused=error))
    return given


def _read(task: Task, path: Path, mask: Path | None, masks: Path | None, how: Convention) -> np.ndarray:
    try:
        pixels = read_dense(task, path.name, path.read_bytes(), how)
        if masks is None:
            return pixels
        if mask is None:
            raise LabelError(BROKEN_LABEL, f"there is no mask '{path.stem}' in {masks}")
        people = read_mask(mask.name, mask.read_bytes())
    except OSError as error:
        raise LabelError(BROKEN_LABEL, f"{path.name} cannot be read: {error}") from error
    if people.shape != pixels.shape[:2]:
        raise LabelError(SIZE, f"the mask {mask.name} is {people.shape} and {path.name} {pixels.shape[:2]}")
    pixels[~people] = np.nan
    return pixels


def _folder(root: Path, names: tuple[str, ...]) -> Path:
    if found := _optional(root, names):
        return found
    raise UsageError(f"{root} has no folder '{names[0]}'; expected are {' or '.join(names)} beside the others")


def _optional(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Relative path without its suffix → file, in the order of names. Raises UsageError where two go by one name."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise UsageError(f"{folder} has both {found[stem].name} and {path.name}; one of a name can be used")
        found[stem] = path
    return found
