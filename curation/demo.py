"""The demo's photos: those that installed packages carry, and copies of them made bad on purpose."""

import io
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from curation.errors import UsageError

PEOPLE = (
    ("ultralytics", "assets/bus.jpg"),
    ("ultralytics", "assets/zidane.jpg"),
    ("skimage", "data/astronaut.png"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
OTHERS = (
    ("skimage", "data/coffee.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/page.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/camera.png"),
)
GPS_TAG, ORIENTATION_TAG = 0x8825, 0x0112


def make_photos(folder: Path) -> Path:
    """Write the demo's photos into a new folder. Raises UsageError where it is there or a package is missing."""
    if folder.exists():
        raise UsageError(f"{folder} is there already; give a new folder or remove it")
    for name in ("1-people", "2-others", "3-made-bad"):
        (folder / name).mkdir(parents=True)
    people = {}
    for package, path in PEOPLE:
        data = _carried(package, path)
        people[Path(path).stem] = Image.open(io.BytesIO(data)).convert("RGB")
        (folder / "1-people" / Path(path).name).write_bytes(data)
    for package, path in OTHERS:
        (folder / "2-others" / Path(path).name).write_bytes(_carried(package, path))
    for make in (_watermarked, _poster, _painted, _collage, _damaged, _rotated, _copies, _windows):
        for name, data in make(people).items():
            (folder / "3-made-bad" / name).write_bytes(data)
    return folder


Photos = dict[str, Image.Image]


def _watermarked(people: Photos) -> dict[str, bytes]:
    return {f"watermark-{name}.jpg": _jpeg(_tiled_mark(photo, "© sample stock")) for name, photo in people.items()}


def _poster(people: Photos) -> dict[str, bytes]:
    photo = people["grace_hopper"].copy()
    draw = ImageDraw.Draw(photo)
    size = photo.width // 9
    for line, text in enumerate(("SUMMER", "SALE NOW", "50 % OFF", "ALL WEEK")):
        at = (photo.width // 2, int(size * (1 + 1.4 * line)))
        draw.text(at, text, "white", _font(size), anchor="mm", stroke_width=3, stroke_fill="black")
    return {"poster.jpg": _jpeg(photo)}


def _painted(people: Photos) -> dict[str, bytes]:
    photo = people["astronaut"]
    flat = photo.filter(ImageFilter.ModeFilter(9)).quantize(12).convert("RGB").filter(ImageFilter.MedianFilter(7))
    edges = ImageOps.invert(photo.convert("L").filter(ImageFilter.FIND_EDGES)).point(lambda v: 255 if v > 190 else 0)
    cartoon = Image.composite(flat, Image.new("RGB", flat.size), edges)
    sketch = ImageOps.colorize(edges.filter(ImageFilter.SMOOTH), "black", "white")
    return {"cartoon.png": _encode(cartoon, "PNG"), "sketch.png": _encode(sketch, "PNG")}


def _collage(people: Photos) -> dict[str, bytes]:
    sheet = Image.new("RGB", (1200, 1200), "white")
    for index, photo in enumerate(people.values()):
        tile = ImageOps.fit(photo, (585, 585))
        sheet.paste(tile, (10 + 595 * (index % 2), 10 + 595 * (index // 2)))
    return {"collage.jpg": _jpeg(sheet)}


def _damaged(people: Photos) -> dict[str, bytes]:
    photo = people["zidane"]
    whole = _jpeg(photo)
    return {
        "truncated.jpg": whole[: len(whole) * 2 // 3],
        "empty.jpg": b"",
        "not-an-image.jpg": b"This is a text file with the wrong name.\n",
        "tiny.jpg": _jpeg(photo.resize((64, 36))),
        "blurred.jpg": _jpeg(photo.filter(ImageFilter.GaussianBlur(14))),
    }


def _rotated(people: Photos) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    exif[GPS_TAG] = {1: "N", 2: (59.0, 54.0, 48.0), 3: "E", 4: (10.0, 45.0, 8.0)}
    turned = people["zidane"].transpose(Image.Transpose.ROTATE_90).filter(ImageFilter.GaussianBlur(0.6))
    return {"rotated-by-exif.jpg": _jpeg(turned, exif=exif.tobytes())}


def _copies(people: Photos) -> dict[str, bytes]:
    photo = people["zidane"]
    smaller = photo.resize((photo.width * 4 // 5, photo.height * 4 // 5))
    return {"zidane-copy.jpg": _carried(*PEOPLE[1]), "zidane-smaller.jpg": _jpeg(smaller, quality=70)}


def _windows(people: Photos) -> dict[str, bytes]:
    """A screenshot: a photo inside a drawn browser window, with menus and lines of text."""
    shot = Image.new("RGB", (1366, 900), "#f3f3f3")
    draw = ImageDraw.Draw(shot)
    draw.rectangle((0, 0, 1366, 46), fill="#3b4252")
    draw.rectangle((220, 10, 1100, 36), fill="white")
    draw.text((234, 14), "https://example.org/news/2024/portrait", "#555555", _font(16))
    shot.paste(ImageOps.fit(people["grace_hopper"], (520, 600)), (60, 120))
    for line in range(22):
        draw.text(
            (640, 120 + 30 * line),
            "Lorem ipsum dolor sit amet consectetur elit"[: 30 + 7 * line % 14],
            "#222222",
            _font(20),
        )
    return {"screenshot.png": _encode(shot, "PNG")}


def _tiled_mark(photo: Image.Image, text: str) -> Image.Image:
    side = max(photo.size)
    font = _font(side // 22)
    layer = Image.new("RGBA", (2 * side, 2 * side))
    draw = ImageDraw.Draw(layer)
    for row in range(0, 2 * side, side // 6):
        for column in range(0, 2 * side, side // 2):
            draw.text((column + row % 3 * 80, row), text, (255, 255, 255, 150), font)
    layer = layer.rotate(30).crop((side // 2, side // 2, side // 2 + photo.width, side // 2 + photo.height))
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def _carried(package: str, path: str) -> bytes:
    try:
        spec = find_spec(package)  # not imported: ultralytics changes Pillow and skimage takes seconds
        return Path(spec.submodule_search_locations[0], path).read_bytes()  # type: ignore[union-attr,index]
    except (AttributeError, FileNotFoundError):
        raise UsageError(
            f"the demo needs the photo {path} of the package {package!r}; pip install 'sapiens-curation[demo]'"
        ) from None


def _font(size: int) -> ImageFont.FreeTypeFont:
    data = resources.files("matplotlib").joinpath("mpl-data/fonts/ttf/DejaVuSans-Bold.ttf").read_bytes()
    return ImageFont.truetype(io.BytesIO(data), size)


def _jpeg(photo: Image.Image, quality: int = 92, exif: bytes = b"") -> bytes:
    return _encode(photo, "JPEG", quality=quality, exif=exif)


def _encode(photo: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()
