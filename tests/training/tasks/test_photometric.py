"""Colours, blur and holes."""

import numpy as np

from tests.training.tasks.samples import smooth
from training.tasks import photometric


def test_every_change_is_a_function_of_its_key() -> None:
    image = smooth(120, 90)
    before = image.copy()
    for change in (photometric.distort_colours, photometric.blur, photometric.drop_hole):
        results = [change(image, key) for key in range(40)]
        for key, result in enumerate(results):
            np.testing.assert_array_equal(result, change(image, key))
            assert result.shape == image.shape
            assert result.dtype == np.uint8
        assert any((result != results[0]).any() for result in results)
    np.testing.assert_array_equal(image, before)


def test_colours_stay_near() -> None:
    """Brightness moves grey by at most 32, contrast by at most half; hue and saturation leave grey alone."""
    grey = np.full((4, 4, 3), 100, np.uint8)
    levels = np.array([photometric.distort_colours(grey, key)[0, 0].astype(int) for key in range(300)])
    assert (np.ptp(levels, axis=1) == 0).all()
    assert levels.min() >= 34 - 1
    assert levels.max() <= 198 + 1
    assert 0.15 < (levels[:, 0] == 100).mean() < 0.4  # neither brightness nor contrast: a quarter


def test_hue_turns_and_wraps() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    hues = {tuple(photometric.distort_colours(red, key)[0, 0] > 40) for key in range(200)}
    assert (True, False, True) in hues  # towards magenta
    assert (True, True, False) in hues  # towards yellow


def test_a_fifth_is_blurred() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    changed = [(photometric.blur(image, key) != image).any() for key in range(1000)]
    assert 0.15 < np.mean(changed) < 0.23


def test_a_hole_has_the_published_size() -> None:
    image = np.full((200, 100, 3), 255, np.uint8)
    for key in range(100):
        black = photometric.drop_hole(image, key)[..., 0] == 0
        height, width = black.any(1).sum(), black.any(0).sum()
        assert black.sum() == height * width
        assert 40 <= height <= 80
        assert 20 <= width <= 40


def test_detail_is_lost() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 80, 3), dtype=np.uint8)
    assert photometric.lose_detail(noise, 1.0) is noise
    assert photometric.lose_detail(noise, 0.2).std() < noise.std() / 3
    assert photometric.lose_detail(noise, 0.2).shape == noise.shape
