"""Pictures made for tests: photo-like, each one different, and every way a file can be bad."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION, GPS = 0x0112, 0x8825


def scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Smooth random colours with texture: compresses and hashes like a photo."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def jpeg(seed: int, **options: object) -> bytes:
    return encode(scene(seed), quality=90, **options)


def with_exif(seed: int, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[GPS] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return encode(scene(seed), quality=90, exif=exif.tobytes())


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


BAD = {
    "empty.jpg": b"",
    "text.jpg": b"not a picture at all",
    "truncated.jpg": jpeg(901)[:2000],
    "truncated-but-ended.jpg": jpeg(902)[:2000] + b"\xff\xd9",
    "truncated.png": encode(scene(903), "PNG")[:9000],
    "huge.png": png_header(30_000, 30_000),
    "header-only.jpg": jpeg(904)[:30],
}
"""File name → bytes that must become a failed row."""

GOOD = {
    "photo.jpg": jpeg(1),
    "grey.jpg": encode(scene(2).convert("L")),
    "cmyk.jpg": encode(scene(3).convert("CMYK")),
    "progressive.jpg": jpeg(4, progressive=True),
    "alpha.png": encode(scene(5).convert("RGBA"), "PNG"),
    "palette.png": encode(scene(6).quantize(64), "PNG"),
    "sixteen.png": encode(Image.fromarray(np.asarray(scene(7).convert("L")).astype(np.uint16) << 8), "PNG"),
    "web.webp": encode(scene(8), "WEBP"),
    "av.avif": encode(scene(9), "AVIF"),
    "scan.tiff": encode(scene(10), "TIFF"),
    "paint.bmp": encode(scene(11), "BMP"),
    "moving.gif": encode(scene(12), "GIF", save_all=True, append_images=[scene(13)]),
    "misnamed.png": jpeg(14),
    "turned.jpg": with_exif(15, 6),
    "trailing.jpg": jpeg(16) + b"\xff\xd8 second picture or video of a phone",
    "名前 ünï.jpg": jpeg(17),
    "two.dots.in.name.jpg": jpeg(18),
}
"""File name → bytes that must be read."""


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
