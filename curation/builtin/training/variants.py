"""What the heads learn from: pictures recoloured, cropped, marked and composed, with what is then true of them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.builtin.training.collection import Picture
from curation.builtin.training.layouts import KINDS, composed
from curation.builtin.training.marks import watermarked

Image = NDArray[np.uint8]
UNKNOWN = -1
THUMBNAIL = 220  # pixels, longer side
TRUTHS = ("watermarked", "artistic", "generated", "composed")

# Share of each source among the variants.
SHARES = {
    "art": 0.24,
    "generated": 0.14,
    "plain": 0.16,
    "people-boxes": 0.13,
    "pose-sport": 0.1,
    "parts-fashion": 0.08,
    "mask-people": 0.04,
    "meme-template": 0.03,
    "watermark-houses": 0.08,
}


@dataclass(frozen=True)
class Variant:
    """uint8 `image` [H,W,3], 1, 0 or UNKNOWN for each of `TRUTHS`; if marked, the picture before and after marking."""

    image: Image
    truth: tuple[int, int, int, int]
    clean: Image | None = None
    marked: Image | None = None


class Variants:
    """Variant i depends on (seed, i) alone."""

    def __init__(self, pictures: list[Picture], seed: int) -> None:
        self.pictures, self.seed = pictures, seed
        self.by_source = {s: [p for p in pictures if p.source == s] for s in SHARES}

    def __getitem__(self, i: int) -> Variant:
        rng = np.random.default_rng((self.seed, i))
        shares = np.array(list(SHARES.values()))
        source = str(rng.choice(list(SHARES), p=shares / shares.sum()))
        picture = self._any(source, rng)
        mark, art, generated = natural_truth(picture)
        image = crop(picture.rgb(), rng)
        layout = 0
        if rng.random() < 0.25:
            kind = str(rng.choice(KINDS))
            others = [self._any(source if rng.random() < 0.5 else None, rng).rgb() for _ in range(8)]
            image, layout = composed(kind, [image, *others], rng), 1
            art, generated = UNKNOWN, UNKNOWN
            mark = UNKNOWN if mark else mark
        elif picture.source == "meme-template":
            layout = UNKNOWN
        # Never enlarged: a sharp mark on a soft picture would teach that sharpness is the mark. Down to thumbnails.
        side = max(image.shape[:2])
        image = resize(recolour_gently(image, rng), max(int(side * rng.uniform(0.4, 1.0)), min(side, THUMBNAIL)))
        if rng.random() < 0.45:
            marked = watermarked(image, rng)
            return Variant(weather(marked, rng), (1, art, generated, layout), image, marked)
        return Variant(weather(image, rng), (mark, art, generated, layout))

    def _any(self, source: str | None, rng: np.random.Generator) -> Picture:
        group = self.by_source[source] if source else self.pictures
        return group[int(rng.integers(len(group)))]


def natural_truth(picture: Picture) -> tuple[int, int, int]:
    """(watermarked, artistic, generated) of a picture as it is.

    A generated picture in a painter's style is both or neither, so it teaches nothing about art; memes are of every
    kind; houses said to be unmarked may carry other agencies' logos.
    """
    kind = picture.label.get("kind")
    mark = 0
    if picture.source == "watermark-houses":
        mark = 1 if str(picture.label.get("watermarked")) == "1" else UNKNOWN
    art = {"photo": 0, "watermark-test": 0, "art": 1}.get(str(kind), UNKNOWN)
    generated = {"photo": 0, "watermark-test": 0, "generated": 1}.get(str(kind), UNKNOWN)
    return mark, art, generated


def crop(image: Image, rng: np.random.Generator) -> Image:
    """Half of the time a part of it, of any shape; mirrored half of the time. Shapes then say nothing about sources."""
    height, width = image.shape[:2]
    if rng.random() < 0.6:
        h, w = int(height * rng.uniform(0.55, 1.0)), int(width * rng.uniform(0.55, 1.0))
        y, x = int((height - h) * rng.random()), int((width - w) * rng.random())
        image = image[y : y + h, x : x + w]
    return np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image)


def resize(image: Image, long_side: int) -> Image:
    """Scaled to this long side."""
    scale = long_side / max(image.shape[:2])
    size = max(16, round(image.shape[1] * scale)), max(16, round(image.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def recolour_gently(image: Image, rng: np.random.Generator) -> Image:
    """Light, contrast and saturation, sometimes grey or blurred or sharpened: changes that make no photo a painting."""
    out = image.astype(np.float32)
    if rng.random() < 0.7:
        out = (out - 128) * rng.uniform(0.75, 1.25) + 128 * rng.uniform(0.75, 1.2)
        grey = out.mean(-1, keepdims=True)
        out = grey + (out - grey) * (0.0 if rng.random() < 0.1 else rng.uniform(0.6, 1.4))
    draw = rng.random()
    if draw < 0.15:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.2)), np.float32)
    elif draw < 0.4:
        soft = np.asarray(cv2.GaussianBlur(out, (0, 0), rng.uniform(0.6, 1.5)), np.float32)
        out = out + (out - soft) * rng.uniform(0.3, 1.5)
    if rng.random() < 0.1:
        out += rng.normal(0, rng.uniform(2, 10), out.shape).astype(np.float32)
    return np.clip(out, 0, 255).astype(np.uint8)


def weather(image: Image, rng: np.random.Generator) -> Image:
    """What happens to files on their way: another size, JPEG pressing."""
    if rng.random() < 0.3:
        image = resize(image, int(max(image.shape[:2]) * rng.uniform(0.6, 1.1)))
    if rng.random() < 0.7:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(45, 96))])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image
