"""Pictures that are not one photograph: collages, screenshots, memes, posters, frames, composed from single ones."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.builtin.training.lettering import face, lettered, name, phrase

Image = NDArray[np.uint8]
KINDS = ("collage", "screenshot", "poster", "meme", "framed")


def composed(kind: str, images: Sequence[Image], rng: np.random.Generator) -> Image:
    """A layout of `kind` (one of `KINDS`) from uint8 RGB pictures; a collage uses up to nine, the others the first."""
    return _MAKERS[kind](images, rng)


def _collage(images: Sequence[Image], rng: np.random.Generator) -> Image:
    """A grid or nested splits, with or without gutters, at times with round corners."""
    height, width = int(rng.integers(256, 512)), int(rng.integers(256, 512))
    gutter = int(rng.choice([0, 0, 2, 4, 8, 14]))
    out = np.full((height, width, 3), _paper(rng), np.uint8)
    count = min(len(images), int(rng.choice([2, 2, 3, 4, 4, 5, 6, 9])))
    for tile, image in zip(_tiles(height, width, count, rng), images, strict=False):
        y0, x0, y1, x1 = tile
        y0, x0 = y0 + (gutter if y0 == 0 and gutter else 0), x0 + (gutter if x0 == 0 and gutter else 0)
        y1, x1 = y1 - gutter, x1 - gutter
        if y1 - y0 >= 8 and x1 - x0 >= 8:
            out[y0:y1, x0:x1] = _cover(image, y1 - y0, x1 - x0, rng)
    if rng.random() < 0.15:
        out = _write(out, phrase(rng, 1, 4), rng, float(rng.uniform(0.05, 0.95)), 0.5, width * 0.8, height * 0.12)
    return out


def _tiles(height: int, width: int, count: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Split the largest tile until there are `count`; even grids half of the time."""
    if rng.random() < 0.5:
        rows = int(rng.choice([r for r in range(1, count + 1) if count % r == 0]))
        columns = count // rows
        ys, xs = np.linspace(0, height, rows + 1).astype(int), np.linspace(0, width, columns + 1).astype(int)
        return [(ys[r], xs[c], ys[r + 1], xs[c + 1]) for r in range(rows) for c in range(columns)]
    tiles = [(0, 0, height, width)]
    while len(tiles) < count:
        tiles.sort(key=lambda t: (t[2] - t[0]) * (t[3] - t[1]))
        y0, x0, y1, x1 = tiles.pop()
        if (y1 - y0) * rng.uniform(0.7, 1.4) > x1 - x0:
            cut = int(y0 + (y1 - y0) * rng.uniform(0.35, 0.65))
            tiles += [(y0, x0, cut, x1), (cut, x0, y1, x1)]
        else:
            cut = int(x0 + (x1 - x0) * rng.uniform(0.35, 0.65))
            tiles += [(y0, x0, y1, cut), (y0, cut, y1, x1)]
    return tiles


def _screenshot(images: Sequence[Image], rng: np.random.Generator) -> Image:
    """A page or an app: bars, lines of text, buttons, and the picture within."""
    tall = rng.random() < 0.5
    height, width = (int(rng.integers(420, 640)), int(rng.integers(240, 340))) if tall else (
        int(rng.integers(280, 420)),
        int(rng.integers(420, 640)),
    )  # fmt: skip
    dark = rng.random() < 0.3
    paper, ink = (int(rng.integers(10, 50)), 225) if dark else (int(rng.integers(235, 256)), 40)
    out = np.full((height, width, 3), paper, np.uint8)
    bar = int(rng.integers(18, 44))
    out[:bar] = rng.integers(0, 256, 3) if rng.random() < 0.5 else paper * 0.9
    for x in range(8, width - 20, int(rng.integers(30, 90))):
        cv2.circle(out, (x, bar // 2), int(rng.integers(3, 8)), rng.integers(60, 220, 3).tolist(), -1, cv2.LINE_AA)
    out = _write(out, name(rng), rng, bar / 2 / height, 0.5, width * 0.4, bar * 0.6, ink=ink)
    y = bar + int(rng.integers(4, 20))
    left = int(rng.integers(0, 24)) if tall else int(width * rng.uniform(0.0, 0.3))
    picture_height = int((height - y) * rng.uniform(0.3, 0.7))
    right = width - (left if tall else int(width * rng.uniform(0.0, 0.3)))
    out[y : y + picture_height, left:right] = _cover(images[0], picture_height, right - left, rng)
    line = int(rng.integers(9, 18))
    y += picture_height + line
    while y < height - line:
        if rng.random() < 0.15:
            colour = rng.integers(40, 230, 3).tolist()
            end = left + int(rng.integers(50, 140))
            cv2.rectangle(out, (left + 4, y), (end, min(y + 2 * line, height - 1)), colour, -1)
            y += 3 * line
            continue
        out = _write(out, phrase(rng, 3, 8), rng, y / height, None, (right - left) * 0.95, line, ink=ink, left=left + 6)
        y += int(line * rng.uniform(1.2, 1.8))
    return out


def _poster(images: Sequence[Image], rng: np.random.Generator) -> Image:
    """Blocks of colour or a filling picture, large type, several sizes: a cover, an advertisement, a flyer."""
    height, width = int(rng.integers(380, 600)), int(rng.integers(280, 460))
    if rng.random() < 0.5:
        out = _cover(images[0], height, width, rng).copy()
        if rng.random() < 0.5:
            band = slice(*sorted(int(v * height) for v in rng.uniform(0, 1, 2)))
            out[band] = out[band] * 0.3 + rng.integers(0, 256, 3) * 0.7
    else:
        out = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
        ramp = np.linspace(0.6, 1.0, height)[:, None, None] if rng.random() < 0.5 else np.float32(1)
        out = (out * ramp).astype(np.uint8)
        h, w = int(height * rng.uniform(0.3, 0.65)), int(width * rng.uniform(0.5, 0.95))
        y, x = int((height - h) * rng.random()), int((width - w) * rng.uniform(0.3, 0.7))
        out[y : y + h, x : x + w] = _cover(images[0], h, w, rng)
        for _ in range(rng.integers(0, 4)):
            corner = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            cv2.circle(out, corner, int(rng.integers(15, 80)), rng.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
    out = _write(out, phrase(rng, 1, 3).upper(), rng, rng.uniform(0.03, 0.25), 0.5, width * 0.92, height * 0.2)
    for _ in range(rng.integers(2, 7)):
        tall = height * rng.uniform(0.025, 0.1)
        out = _write(
            out, phrase(rng, 2, 6), rng, rng.uniform(0.2, 0.98), float(rng.choice([0.1, 0.5, 0.9])), width * 0.9, tall
        )
    return out


def _meme(images: Sequence[Image], rng: np.random.Generator) -> Image:
    """Large outlined words over the picture, or a caption on a bar above or below it."""
    image = _shrink(images[0], int(rng.integers(280, 512)))
    height, width = image.shape[:2]
    if rng.random() < 0.55:
        places = [0.02, 0.98] if rng.random() < 0.6 else [float(rng.choice([0.02, 0.98]))]
        for y in places:
            image = _write(
                image,
                phrase(rng, 2, 6).upper(),
                rng,
                y,
                0.5,
                width * 0.95,
                height * rng.uniform(0.1, 0.2),
                outlined=True,
            )
        return image
    lines = int(rng.integers(1, 4))
    bar = int(height * rng.uniform(0.1, 0.16)) * lines
    paper = 255 if rng.random() < 0.75 else 0
    above = rng.random() < 0.7
    sides = (bar, 0) if above else (0, bar)
    out = np.asarray(cv2.copyMakeBorder(image, *sides, 0, 0, cv2.BORDER_CONSTANT, value=(paper,) * 3), np.uint8)
    for i in range(lines):
        y = (i + 0.5) * bar / lines + (0 if above else height)
        out = _write(out, phrase(rng, 3, 7), rng, y / len(out), 0.5, width * 0.95, bar / lines * 0.75, ink=255 - paper)
    return out


def _framed(images: Sequence[Image], rng: np.random.Generator) -> Image:
    """A thick frame, a card, a blurred copy at the sides, or a picture in a picture."""
    image = _shrink(images[0], int(rng.integers(240, 440)))
    height, width = image.shape[:2]
    draw = rng.random()
    if draw < 0.3:
        top, bottom, left, right = (int(max(height, width) * rng.uniform(0.06, 0.2)) for _ in range(4))
        paper = _paper(rng).tolist()
        return np.asarray(
            cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=paper), np.uint8
        )
    if draw < 0.65:
        wide = int(height * rng.uniform(1.4, 2.0)) if height > width * 0.8 else width
        tall = height if wide != width else int(width * rng.uniform(1.3, 1.9))
        out = np.asarray(cv2.GaussianBlur(_cover(image, tall, wide, rng), (0, 0), 12), np.uint8)
        y, x = (tall - height) // 2, (wide - width) // 2
        out[max(y, 0) : max(y, 0) + height, max(x, 0) : max(x, 0) + width] = image[:tall, :wide]
        return out
    inset = images[1 % len(images)]
    h, w = int(height * rng.uniform(0.2, 0.45)), int(width * rng.uniform(0.2, 0.45))
    y, x = int((height - h) * rng.choice([0.03, 0.5, 0.97])), int((width - w) * rng.choice([0.03, 0.97]))
    edge = int(rng.integers(0, 6))
    out = image.copy()
    out[max(y - edge, 0) : y + h + edge, max(x - edge, 0) : x + w + edge] = _paper(rng)
    out[y : y + h, x : x + w] = _cover(inset, h, w, rng)
    return out


_MAKERS = {"collage": _collage, "screenshot": _screenshot, "poster": _poster, "meme": _meme, "framed": _framed}


def _paper(rng: np.random.Generator) -> NDArray[np.int64]:
    draw = rng.random()
    shade = 255 if draw < 0.45 else 0 if draw < 0.65 else -1
    return np.full(3, shade) if shade >= 0 else rng.integers(0, 256, 3)


def _cover(image: Image, height: int, width: int, rng: np.random.Generator) -> Image:
    """Scaled and cropped to fill exactly `height` x `width`."""
    scale = max(height / image.shape[0], width / image.shape[1])
    size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    large = np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=interpolation), np.uint8)
    y, x = int((size[1] - height) * rng.random()), int((size[0] - width) * rng.random())
    return large[y : y + height, x : x + width]


def _shrink(image: Image, long_side: int) -> Image:
    scale = long_side / max(image.shape[:2])
    size = max(16, round(image.shape[1] * scale)), max(16, round(image.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=interpolation), np.uint8)


def _write(
    out: Image,
    text: str,
    rng: np.random.Generator,
    y: float,
    x: float | None,
    width: float,
    height: float,
    ink: int | None = None,
    left: int = 0,
    outlined: bool = False,
) -> Image:
    """Write one line, its middle at the share `y` of the height; `x` as a share of the free room, or from `left`."""
    mask = lettered(text, face(rng), 40, 2 if outlined else 0)
    scale = min(width / mask.shape[1], height / mask.shape[0])
    size = max(4, round(mask.shape[1] * scale)), max(5, round(mask.shape[0] * scale))
    mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.float32)[: out.shape[0], : out.shape[1]]
    h, w = mask.shape
    top = int(np.clip(y * out.shape[0] - h / 2, 0, out.shape[0] - h))
    start = int(np.clip((out.shape[1] - w) * x if x is not None else left, 0, out.shape[1] - w))
    place = out[top : top + h, start : start + w].astype(np.float32)
    if ink is None:
        ink = 255 if outlined or place.mean() < 128 else 0
    if outlined:
        edge = np.asarray(cv2.dilate(mask, np.ones((5, 5))), np.float32)[..., None]
        place = place * (1 - edge)
    written = out.copy()
    colour = np.full(3, ink) if outlined or rng.random() < 0.7 or ink in (40, 225) else rng.integers(0, 256, 3)
    written[top : top + h, start : start + w] = place * (1 - mask[..., None]) + colour * mask[..., None]
    return written
