"""What becomes of one image's bytes on their way into a shard."""

import io

import pytest
from PIL import Image, ImageCms

from curation.decode import open_image
from curation.pack import pack_image
from curation.recipe import Packing
from tests.curation.photos import ORIENTATION, encode, jpeg, scene

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def packed(data: bytes) -> tuple[Image.Image, bool]:
    header = open_image(data)[0]
    row = {
        "original_width": header.upright_size[0],
        "original_height": header.upright_size[1],
        "format": header.format,
        "exif_orientation": header.orientation,
    }
    made, _, _, transcoded = pack_image(data, row, Packing())
    return Image.open(io.BytesIO(made)), transcoded


def turned(profile: bytes) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encode(scene(1), exif=exif.tobytes(), icc_profile=profile)


@pytest.mark.parametrize(
    "data",
    [
        turned(PROFILE),
        encode(scene(2), "PNG", icc_profile=PROFILE),
        encode(scene(2).convert("RGBA"), "PNG", icc_profile=PROFILE),
        encode(scene(3), "WEBP", icc_profile=PROFILE),
    ],
    ids=["turned", "png", "transparent", "webp"],
)
def test_what_is_encoded_anew_keeps_its_colour_profile(data: bytes) -> None:
    image, transcoded = packed(data)
    assert transcoded
    assert image.info["icc_profile"] == PROFILE
    assert not image.getexif()


def test_a_profile_of_other_colours_goes_with_them() -> None:
    """Grey levels and inks become RGB; their profile would be refused, or misread."""
    grey = PROFILE[:16] + b"GRAY" + PROFILE[20:]
    inks = PROFILE[:16] + b"CMYK" + PROFILE[20:]
    for data in (
        encode(scene(4).convert("L"), "PNG", icc_profile=grey),
        encode(scene(5).convert("CMYK"), icc_profile=inks),
    ):
        image, transcoded = packed(data)
        assert transcoded
        assert "icc_profile" not in image.info


def test_without_a_profile_none_is_made_up() -> None:
    assert "icc_profile" not in packed(turned(b""))[0].info
    assert packed(jpeg(6))[1] is False
