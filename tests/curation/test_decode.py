import io

import numpy as np
import pytest
from PIL import Image

from curation.decode import DamagedImage, EmptyFile, TooManyPixels, UnsupportedFormat, decode, open_image
from curation.jpeg import strip_metadata
from shards.crop import Encoded
from tests.curation.photos import BAD, GOOD, encode, scene, with_exif

VERDICTS = {
    "empty.jpg": EmptyFile,
    "text.jpg": UnsupportedFormat,
    "truncated.jpg": DamagedImage,
    "truncated-but-ended.jpg": DamagedImage,
    "truncated.png": DamagedImage,
    "huge.png": TooManyPixels,
    "header-only.jpg": DamagedImage,
}


@pytest.mark.parametrize("name", GOOD)
def test_every_format_becomes_upright_rgb(name: str) -> None:
    picture = decode(GOOD[name])
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.shape == (picture.height, picture.width, 3)
    assert (picture.width, picture.height) == ((120, 160) if name == "turned.jpg" else (160, 120))


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_have_a_verdict(name: str) -> None:
    with pytest.raises((VERDICTS[name], UnsupportedFormat) if name == "header-only.jpg" else VERDICTS[name]):
        decode(BAD[name])


def test_a_heic_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.rgb._HEIC_ADVICE", "; HEIC: pip install pillow-heif")
    with pytest.raises(UnsupportedFormat, match="decoder knows; HEIC: pip install pillow-heif"):
        decode(b"\0\0\0\x1cftypheic" + b"\0" * 16)
    with pytest.raises(UnsupportedFormat, match=r"decoder knows$"):
        decode(b"\0\0\0\x1cftypmp42" + b"\0" * 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_equals_pillows(orientation: int) -> None:
    data = with_exif(3, orientation)
    import io

    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    difference = np.abs(decode(data).rgb.astype(int) - expected)
    assert difference.max() <= 2


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_is_turned_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encode(scene(3), "TIFF", exif=exif))
    expected = np.rot90(np.asarray(scene(3)), {3: 2, 6: -1}[orientation])
    assert (found.rgb == expected).all()
    assert (found.height, found.width) == expected.shape[:2]


def test_large_jpeg_is_decoded_at_reduced_scale_but_reports_its_full_size() -> None:
    picture = decode(encode(scene(1, 4000, 3000)))
    assert (picture.width, picture.height) == (4000, 3000)
    assert 1024 <= max(picture.rgb.shape) < 2048
    assert picture.scale == (4000 / picture.rgb.shape[1],) * 2


@pytest.mark.parametrize(
    ("form", "width", "height"),
    [("JPEG", 1365, 2048), ("JPEG", 601, 3000), ("JPEG", 100, 20000), ("PNG", 1365, 2048), ("PNG", 130, 6000)],
)
def test_places_in_a_working_picture_are_places_in_the_photo(form: str, width: int, height: int) -> None:
    """Also where the sides do not shrink by the same ratio: the edge between black and white is found again."""
    edge = round(0.9 * height)
    photo = Image.new("RGB", (width, height), "black")
    photo.paste("white", (0, edge, width, height))
    picture = decode(encode(photo, form))
    column = picture.rgb[:, picture.rgb.shape[1] // 2, 0].astype(float) / 255
    assert picture.rgb.shape[0] < height
    assert (len(column) - column.sum()) * picture.scale[1] == pytest.approx(edge, abs=0.2 * picture.scale[1])
    across, down = picture.rgb.shape[1] * picture.scale[0], picture.rgb.shape[0] * picture.scale[1]
    assert width <= across + 1e-6
    assert height <= down + 1e-6


def noisy() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8))


@pytest.mark.parametrize("how", ["zeroed", "missing"])
def test_a_scan_that_is_out_of_step_is_damaged(how: str) -> None:
    """With restart markers libjpeg goes on behind the damage and speaks of extraneous bytes, as it does of padding."""
    buffer = io.BytesIO()
    noisy().save(buffer, "JPEG", restart_marker_rows=2)
    good, middle = buffer.getvalue(), len(buffer.getvalue()) // 2
    between = bytes(4096) if how == "zeroed" else b""
    with pytest.raises(DamagedImage):
        decode(good[:middle] + between + good[middle + 4096 :])


@pytest.mark.parametrize("padding", [bytes(600), b"\xff" * 7 + b"\0"])
def test_padding_before_the_end_marker_is_harmless(padding: bytes) -> None:
    good = encode(noisy())
    assert (decode(good[:-2] + padding + good[-2:]).rgb == decode(good).rgb).all()
    with pytest.raises(DamagedImage):
        decode(good[:-2] + b"left over by a damaged scan" * 20 + good[-2:])


def test_an_adobe_transform_that_there_is_not_is_taken_for_the_usual_one() -> None:
    """As every viewer does; what is packed says so in a way that training's decoder takes."""
    good = encode(scene(3))
    jfif = 4 + int.from_bytes(good[4:6], "big")
    odd = good[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x02" + good[jfif:]
    assert (decode(odd).rgb == decode(good).rgb).all()
    assert (Encoded(strip_metadata(odd)).decode() == decode(good).rgb).all()
    with pytest.raises(DamagedImage):
        decode(odd[: len(odd) // 2])


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16"])
def test_a_colour_that_means_nothing_lies_over_white(mode: str) -> None:
    clear = Image.new(mode, (40, 30), 0)
    assert decode(encode(clear, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)).rgb.min() == 255


def test_stray_bytes_between_segments_are_harmless() -> None:
    good = encode(noisy())
    tables = good.index(b"\xff\xdb")
    stray = good[:tables] + b"\0\0" + good[tables:]
    assert (decode(stray).rgb == decode(good).rgb).all()
    with pytest.raises(DamagedImage):
        decode(stray[: len(stray) // 2])


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    assert decode(encode(clear, "PNG")).rgb.min() == 255


def test_files_of_unknown_kinds_are_opened_by_pillow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported later, ultralytics replaces `Image.open` by a function that runs pip for them."""
    monkeypatch.setattr(Image, "open", lambda _: pytest.fail("not Pillow's own"))
    with pytest.raises(UnsupportedFormat):
        decode(b"no image")


def test_200_million_pixels_are_allowed_and_no_more() -> None:
    def header(width: int) -> bytes:
        file = io.BytesIO()
        Image.new("1", (8, 8)).save(file, "BMP")
        data = bytearray(file.getvalue())
        data[18:26] = width.to_bytes(4, "little") + (10_000).to_bytes(4, "little")
        return bytes(data)

    assert open_image(header(20_000))[0].width == 20_000
    with pytest.raises(TooManyPixels):
        open_image(header(20_001))


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_damage_is_found_in_pictures_with_a_second_one_too(kind: str) -> None:
    """Phones write them; Pillow would hide the decoder's complaint."""
    more = {"save_all": True, "append_images": [scene(2, 800, 600)]} if kind == "MPO" else {}
    data = encode(scene(1, 800, 600), kind, quality=90, **more)
    assert open_image(data)[1].format == kind
    assert decode(data).rgb.shape == (600, 800, 3)
    at = len(data) // 4
    with pytest.raises(DamagedImage):
        decode(data[:at] + bytes(4096) + data[at + 4096 :])


def test_training_turns_what_curation_turns_by_xmp_alone() -> None:
    """Or the boxes that curation found would lie beside the people."""
    told = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:RDF>"
    told += b'<rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    plain = encode(scene(1))
    data = plain[:2] + b"\xff\xe1" + (len(told) + 2).to_bytes(2, "big") + told + plain[2:]
    assert decode(data).rgb.shape == Encoded(data).decode().shape == (160, 120, 3)
