"""Features of variants and of held-out pictures, computed once and kept for the networks that they come from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curation.builtin import Builtin
from curation.builtin.networks import VERSION, style_features
from curation.builtin.training.arrays import write_arrays
from curation.builtin.training.held_out import held_out_pictures
from curation.builtin.training.variants import Variant, Variants
from curation.builtin.wheels import ppocr_file
from curation.engines import weights_identity

CHUNK = 500


def identity(builtin: Builtin) -> str:
    """Of what the style head reads: a folder's name."""
    return weights_identity("features", builtin.weights / "people.safetensors", ppocr_file(), version=VERSION)


def features_of(builtin: Builtin, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float16]:
    """What the style head reads of each picture, [n,5376]."""
    return np.concatenate([style_features(builtin.features([i], {"style"})).astype(np.float16) for i in images])


def variant_features(
    variants: Variants, count: int, folder: Path, builtin: Builtin
) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    """Features [count,5376] and truths [count,4] of the first variants; finished chunks are read from `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = []
    for first in range(0, count, CHUNK):
        path = folder / f"{first:06d}.npz"
        if not path.exists():
            made: list[Variant] = [variants[i] for i in range(first, first + CHUNK)]
            values = features_of(builtin, (v.image for v in made))
            write_arrays(path, features=values, truth=np.array([v.truth for v in made], np.int8))
            print(f"features of {first + CHUNK} variants", flush=True)
        with np.load(path) as saved:
            chunks.append((saved["features"], saved["truth"]))
    return np.concatenate([c[0] for c in chunks]), np.concatenate([c[1] for c in chunks])


def held_out_features(data: Path, path: Path, builtin: Builtin) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    """Features and truths of `held_out_pictures`, kept at `path`."""
    if not path.exists():
        rows = held_out_pictures(data)
        values = features_of(builtin, (image for _, image, _ in rows))
        write_arrays(path, features=values, truth=np.array([truth for _, _, truth in rows], np.int8))
    with np.load(path) as saved:
        return saved["features"], saved["truth"]
