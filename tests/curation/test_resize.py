"""Pixels at another size."""

import cv2
import numpy as np
import pytest

from curation.resize import resized


@pytest.mark.parametrize(("width", "height"), [(160, 120), (47, 33), (320, 1), (640, 480), (900, 700)])
def test_a_smooth_picture_is_as_when_averaged_over_areas(width: int, height: int) -> None:
    rows, columns = np.mgrid[:480, :640]
    image = np.stack([columns * 0.3, rows * 0.4, 255 - columns * 0.2], 2).astype(np.uint8)
    expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    found = resized(image, width, height)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 4


def test_what_is_finer_than_a_pixel_becomes_grey_instead_of_a_pattern() -> None:
    stripes = np.tile(np.array([[0, 255]], np.uint8), (900, 500))
    small = resized(stripes, 60, 54)
    assert abs(float(small.mean()) - 127.5) < 2
    assert float(small.std()) < 2
    assert float(cv2.resize(stripes, (60, 54), interpolation=cv2.INTER_LINEAR).std()) > 10


def test_grey_pictures_keep_two_axes() -> None:
    assert resized(np.zeros((40, 30), np.uint8), 10, 13).shape == (13, 10)
