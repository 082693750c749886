"""Dense labels through PNG and back: exact for classes, within one step for depth and normals."""

import numpy as np
import pytest

from shards.crop import BrokenImage
from training.labels.decode import (
    depth_from_png,
    depth_to_png,
    normals_from_png,
    normals_to_png,
    parts_from_png,
    parts_to_png,
)


def test_class_ids_come_back_exactly() -> None:
    parts = np.random.default_rng(0).integers(0, 256, (31, 17), dtype=np.uint8)
    assert (parts_from_png(parts_to_png(parts)) == parts).all()


def test_depth_comes_back_within_half_a_step() -> None:
    depth = np.random.default_rng(0).uniform(0.7, 9.3, (40, 30)).astype(np.float32)
    depth[::3, ::2] = np.nan
    data, near, far = depth_to_png(depth)
    back = depth_from_png(data, near, far)
    assert back.dtype == np.float32
    assert (np.isnan(back) == np.isnan(depth)).all()
    assert np.nanmax(abs(back - depth)) <= 0.51 * (far - near) / 65534 + 1e-6
    assert (near, far) == (np.nanmin(depth), np.nanmax(depth))


def test_flat_depth_and_no_depth() -> None:
    data, near, far = depth_to_png(np.full((4, 5), 2.5, np.float32))
    assert (depth_from_png(data, near, far) == 2.5).all()
    with pytest.raises(ValueError, match="no pixel has a depth"):
        depth_to_png(np.full((4, 5), np.nan))


def test_normals_come_back_within_a_hundredth_of_a_degree() -> None:
    normals = np.random.default_rng(0).normal(size=(40, 30, 3))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    normals[0, 0] = (-1, 0, 0)
    normals[1] = np.nan
    back = normals_from_png(normals_to_png(normals))
    assert (np.isnan(back).all(axis=2) == np.isnan(normals).any(axis=2)).all()
    apart = np.linalg.norm(np.cross(back, normals), axis=2)
    assert np.degrees(np.nanmax(apart)) < 0.01
    assert np.nanmin((back * normals).sum(axis=2)) > 0.99  # and on the same side
    assert np.nanmax(abs(np.linalg.norm(back, axis=2) - 1)) < 1e-4


def test_a_png_of_another_kind_is_a_broken_image() -> None:
    with pytest.raises(BrokenImage, match="uint16"):
        normals_from_png(parts_to_png(np.zeros((4, 4), np.uint8)))
    with pytest.raises(BrokenImage, match="nothing"):
        parts_from_png(b"")
