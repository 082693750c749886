import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from curation.jpeg import strip_metadata, with_profile
from tests.curation.photos import encode, jpeg, scene, with_exif


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"taken by me"}, {"subsampling": 0}])
def test_pixels_stay_bit_for_bit(options: dict[str, object]) -> None:
    data = jpeg(1, **options)
    assert np.array_equal(pixels(strip_metadata(data)), pixels(data))
    assert b"taken by me" not in strip_metadata(data)


def test_position_goes_and_colour_profile_stays() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (59.0, 54.0, 48.0)}
    bare = strip_metadata(encode(scene(2), exif=exif.tobytes(), icc_profile=profile))
    image = Image.open(io.BytesIO(bare))
    assert image.info["icc_profile"] == profile
    assert not image.getexif()
    assert b"Exif" not in bare


def test_what_a_phone_appends_goes() -> None:
    assert strip_metadata(jpeg(3) + b"ftypmp4 with a position") == strip_metadata(jpeg(3))


def test_a_thumbnail_inside_jfif_goes() -> None:
    """It may show what was cropped away."""
    plain = jpeg(4)
    end = 4 + int.from_bytes(plain[4:6], "big")
    body = plain[6:18] + bytes([4, 4]) + b"secret" * 8
    data = plain[:2] + b"\xff\xe0" + (len(body) + 2).to_bytes(2, "big") + body + plain[end:]
    assert b"secret" not in strip_metadata(data)
    assert strip_metadata(data) == strip_metadata(plain)
    assert strip_metadata(plain)[:end] == plain[:end]


def test_nothing_left_to_strip_changes_nothing() -> None:
    once = strip_metadata(with_exif(4, 1))
    assert strip_metadata(once) == once


@pytest.mark.parametrize("data", [b"", b"GIF89a", jpeg(5)[:500], jpeg(5)[:-2]])
def test_what_is_not_a_whole_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="JPEG"):
        strip_metadata(data)


@pytest.mark.parametrize("size", [500, 65_519, 200_000])
def test_a_profile_of_any_size_is_read_back(size: int) -> None:
    """By Pillow, and over JFIF's segment as well as in a JPEG without it."""
    profile = np.random.default_rng(0).bytes(size)
    with_jfif = jpeg(6)
    assert with_jfif[2:4] == b"\xff\xe0"
    without = with_jfif[:2] + with_jfif[4 + int.from_bytes(with_jfif[4:6], "big") :]
    for data in (with_jfif, without):
        made = with_profile(data, profile)
        assert Image.open(io.BytesIO(made)).info["icc_profile"] == profile
        assert np.array_equal(pixels(made), pixels(data))
        assert strip_metadata(made) == made
    with pytest.raises(ValueError, match="does not fit"):
        with_profile(with_jfif, bytes(17_000_000))
