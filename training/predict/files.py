"""Results on disk. Every map states its convention inside the file (PNG text) and in run.json."""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from training.labels.decode import depth_to_png, normals_to_png
from training.labels.sets import ClassList, KeypointSet
from training.predict.compose import Person, Prediction
from training.predict.draw import Style, overlay, panel
from training.predict.results import write_files

CONVENTIONS = {
    "coordinates": "pixels of the upright image; the centre of the first pixel is (0, 0)",
    "box": "x0, y0, x1, y1 in pixels of the upright image, x1 and y1 exclusive",
    "keypoints.json": "per person box, its score, and x, y, score of every keypoint in the order of keypoint_names",
    "parts.png": "palette PNG; a pixel's index is its class, 0 is the background",
    "people.png": "palette PNG (16-bit grey for more than 255 people); 0 is nobody, i is the i-th person",
    "depth.npy": "float32 (rows, columns); relative within one person, about 0 near to 1 far, so two people's values "
    "do not compare (people.png tells them apart); NaN where nobody is",
    "depth.png": "16-bit grey; 0 is nobody, v is near + (v - 1) / 65534 * (far - near), with near and far in the PNG's "
    "text and in manifest.parquet; relative within one person",
    "normals.npy": "float16 (rows, columns, 3) unit vectors; x right, y up, z towards the camera; NaN where nobody is",
    "normals.png": "16-bit RGB; 0, 0, 0 is nobody, c is (c - 1) / 65534 * 2 - 1; x right, y up, z towards the camera",
}

JPEG_QUALITY = 92


@dataclass(frozen=True)
class Written:
    """files: relative to the output folder. near, far: ends of depth.png, NaN where it was not written."""

    files: tuple[str, ...]
    near: float = float("nan")
    far: float = float("nan")


def write_photo(out: Path, name: str, uri: str, found: Prediction, style: Style, pictures: bool, data: bool) -> Written:
    """All files of one photo. pictures: panel and overlay; data: the rest."""
    made: dict[str, bytes] = {}
    near = far = float("nan")
    if pictures:
        made["panel.jpg"], made["overlay.jpg"] = jpeg(panel(found, style)), jpeg(overlay(found, style))
    if data:
        if style.keypoints is not None:
            made["keypoints.json"] = keypoints_json(found, uri, style.keypoints)
        if found.owner is not None:
            made["people.png"] = people_png(found.owner)
        if found.parts is not None and style.classes is not None:
            made["parts.png"] = palette_png(found.parts, style.classes)
        if found.depth is not None:
            made["depth.npy"] = npy(found.depth)
            made["depth.png"], near, far = depth_png(found.depth)
        if found.normals is not None:
            made["normals.npy"] = npy(found.normals.astype(np.float16))
            made["normals.png"] = with_text(normals_to_png(found.normals), {"Convention": CONVENTIONS["normals.png"]})
    files = {f"{name}.{suffix}": content for suffix, content in made.items()}
    write_files(out, files)
    return Written(tuple(files), near, far)


def keypoints_json(found: Prediction, uri: str, names: KeypointSet) -> bytes:
    """The people of an image with names, boxes and scores, UTF-8."""
    height, width = found.image.shape[:2]
    value = {
        "image": uri,
        "width": width,
        "height": height,
        "keypoint_names": list(names.names),
        "people": people_list(found.people),
    }
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def people_list(people: tuple[Person, ...]) -> list[dict[str, object]]:
    """Plain values, to 0.01 px and 0.0001 of score."""
    listed: list[dict[str, object]] = []
    for person in people:
        entry: dict[str, object] = {"box": [round(v, 2) for v in person.box], "score": round(person.score, 4)}
        if person.keypoints is not None:
            rows = person.keypoints.astype(float).tolist()
            entry["keypoints"] = [[round(x, 2), round(y, 2), round(score, 4)] for x, y, score in rows]
        listed.append(entry)
    return listed


def palette_png(parts: np.ndarray, classes: ClassList) -> bytes:
    """Class ids (H, W) uint8 as a PNG that shows the classes' colours."""
    text = {"Convention": CONVENTIONS["parts.png"], "Classes": json.dumps(list(classes.names))}
    return _indexed(parts, np.array(classes.colours, np.uint8), text)


def people_png(owner: np.ndarray) -> bytes:
    """Numbers of people (H, W) uint16 as a PNG, each in a colour of its own."""
    text = {"Convention": CONVENTIONS["people.png"]}
    if owner.max(initial=0) > 255:
        return with_text(_pillow(Image.fromarray(owner)), text)
    hues = (np.arange(255) * 0.618034 % 1 * 255).astype(np.uint8)
    hsv = np.stack([hues, np.full(255, 190, np.uint8), np.full(255, 235, np.uint8)], 1)[None]
    colours = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))[0]
    return _indexed(owner.astype(np.uint8), np.concatenate([np.zeros((1, 3), np.uint8), colours]), text)


def depth_png(depth: np.ndarray) -> tuple[bytes, float, float]:
    """PNG, near and far of a (H, W) map, NaN where nobody is; all 0, with near 0 and far 1, where nobody is at all."""
    if np.isfinite(depth).any():
        png, near, far = depth_to_png(depth)
    else:
        png, near, far = _pillow(Image.fromarray(np.zeros(depth.shape, np.uint16))), 0.0, 1.0
    return with_text(png, {"Convention": CONVENTIONS["depth.png"], "Near": repr(near), "Far": repr(far)}), near, far


def with_text(png: bytes, text: Mapping[str, str]) -> bytes:
    """A PNG with tEXt chunks after its header (PNG specification, third edition, 11.3.3.2)."""
    chunks = b""
    for key, value in text.items():
        body = b"tEXt" + key.encode("latin-1") + b"\0" + value.encode("latin-1", "replace")
        chunks += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    after_header = 8 + 25  # signature; length, name, 13 bytes and checksum of IHDR
    return png[:after_header] + chunks + png[after_header:]


def jpeg(picture: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=JPEG_QUALITY, colorsubsampling="444")


def npy(values: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _indexed(ids: np.ndarray, colours: np.ndarray, text: Mapping[str, str]) -> bytes:
    image = Image.fromarray(ids, "P")
    image.putpalette(colours.tobytes())
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    return _pillow(image, info)


def _pillow(image: Image.Image, info: PngInfo | None = None) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", pnginfo=info, compress_level=4)
    return buffer.getvalue()
