"""Watermarks the way agencies, sites and photographers put them on pictures."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.builtin.training.lettering import Mask, face, lettered, owner

Image = NDArray[np.uint8]


def watermarked(image: Image, rng: np.random.Generator) -> Image:
    """uint8 [H,W,3] with a mark: a single one, a corner stamp, tiles, a banner, or a stock agency's cross."""
    kind = rng.choice(["single", "corner", "tiles", "banner", "cross", "several"], p=[0.34, 0.2, 0.18, 0.1, 0.1, 0.08])
    return _KINDS[str(kind)](image, rng)


def _single(image: Image, rng: np.random.Generator) -> Image:
    """Across the middle or thereabouts, large, mostly see-through."""
    height, width = image.shape[:2]
    mark = _fit(_mark(rng), width * rng.uniform(0.15, 0.85), height * 0.5)
    mark = _turn(mark, rng.uniform(-45, 45) if rng.random() < 0.35 else 0.0)
    spread = 0.08 if rng.random() < 0.6 else 0.4
    y, x = (0.5 + rng.normal(0, spread) * 0.5 for _ in range(2))
    layer = _lay(np.zeros((height, width), np.float32), mark, y, x)
    return _blend(image, layer, rng.uniform(0.15, 0.65), rng)


def _corner(image: Image, rng: np.random.Generator) -> Image:
    """A small signature near an edge, often opaque."""
    height, width = image.shape[:2]
    mark = _fit(_mark(rng), width * rng.uniform(0.15, 0.45), height * 0.16)
    y, x = (float(rng.choice([0.0, 1.0])) for _ in range(2))
    x = 0.5 if rng.random() < 0.2 else x
    layer = _lay(np.zeros((height, width), np.float32), mark, y, x, margin=int(rng.integers(1, 14)))
    return _blend(image, layer, rng.uniform(0.4, 1.0), rng)


def _tiles(image: Image, rng: np.random.Generator) -> Image:
    """The same mark again and again, upright or slanted, faint."""
    height, width = image.shape[:2]
    mark = _fit(_mark(rng), width * rng.uniform(0.12, 0.4), height * 0.2)
    h, w = mark.shape
    gap_y, gap_x = int(h * rng.uniform(0.6, 4)) + 4, int(w * rng.uniform(0.15, 1.0)) + 4
    side = int(np.hypot(height, width)) + 2 * max(h, w)
    sheet = np.zeros((side, side), np.float32)
    for row, y in enumerate(range(0, side - h, h + gap_y)):
        for x in range((row % 2) * (w + gap_x) // 2, side - w, w + gap_x):
            sheet[y : y + h, x : x + w] = mark
    angle = rng.uniform(-50, 50) if rng.random() < 0.7 else 0.0
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1.0)
    sheet = np.asarray(cv2.warpAffine(sheet, turn, (side, side)), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    return _blend(image, sheet[top : top + height, left : left + width], rng.uniform(0.12, 0.5), rng)


def _banner(image: Image, rng: np.random.Generator) -> Image:
    """A strip along the top or the bottom with the owner's name, in the picture or added below it, as under a stock
    agency's thumbnails; often with another mark on the picture."""
    height, width = image.shape[:2]
    strip = max(12, int(height * rng.uniform(0.05, 0.12)))
    shade = int(rng.choice([0, 20, 255, int(rng.integers(0, 256))]))
    outside = rng.random() < 0.4
    picture = cv2.copyMakeBorder(image, 0, strip, 0, 0, cv2.BORDER_CONSTANT, value=(shade,) * 3) if outside else image
    out = np.asarray(picture, np.uint8).copy()
    rows = slice(len(out) - strip, len(out)) if outside or rng.random() < 0.8 else slice(0, strip)
    opacity = rng.uniform(0.4, 1.0)
    out[rows] = out[rows] * (1 - opacity) + shade * opacity
    mark = _fit(_mark(rng), width * rng.uniform(0.2, 0.7), strip * rng.uniform(0.35, 0.75))
    layer = _lay(np.zeros((strip, width), np.float32), mark, 0.5, float(rng.choice([0.0, 0.5, 1.0])), margin=4)
    ink = 0.0 if shade > 128 else 255.0
    out[rows] = out[rows] * (1 - layer[..., None]) + ink * layer[..., None]
    if rng.random() < 0.4:
        return out
    on_picture = [_single, _tiles, _cross][int(rng.integers(0, 3))]
    return on_picture(out, rng)


def _cross(image: Image, rng: np.random.Generator) -> Image:
    """Lines from corner to corner, or a net of them, with the agency's name in the middle."""
    height, width = image.shape[:2]
    layer = np.zeros((height, width), np.float32)
    thickness = int(rng.integers(1, 4))
    if rng.random() < 0.6:
        ends = [((0, 0), (width, height)), ((0, height), (width, 0))]
    else:
        step = int(max(height, width) * rng.uniform(0.15, 0.4))
        ends = [((x, 0), (x + height, height)) for x in range(-height, width, step)]
        ends += [((x, height), (x + height, 0)) for x in range(-height, width, step)]
    for a, b in ends:
        cv2.line(layer, a, b, 1.0, thickness, cv2.LINE_AA)
    layer *= rng.uniform(0.4, 1.0)
    mark = _fit(_mark(rng), width * rng.uniform(0.3, 0.7), height * 0.3)
    return _blend(image, np.maximum(layer, _lay(np.zeros_like(layer), mark, 0.5, 0.5)), rng.uniform(0.15, 0.5), rng)


def _several(image: Image, rng: np.random.Generator) -> Image:
    return _corner(_single(image, rng), rng)


_KINDS = {
    "single": _single,
    "corner": _corner,
    "tiles": _tiles,
    "banner": _banner,
    "cross": _cross,
    "several": _several,
}


def _mark(rng: np.random.Generator) -> Mask:
    """Text, a logo, or a logo with text, as a mask about 60 pixels tall."""
    tall = 60
    text = lettered(owner(rng), face(rng), tall, int(rng.choice([0, 0, 0, 2])), int(rng.choice([0, 0, 0, 1])))
    draw = rng.random()
    if draw < 0.55:
        return text
    logo = _logo(tall if draw < 0.9 else 2 * tall, rng)
    if draw < 0.65:
        return logo
    gap = int(rng.integers(4, 24))
    if rng.random() < 0.75:
        rows = max(len(logo), len(text))
        return np.concatenate([_centre(logo, rows, 0), np.zeros((rows, gap), np.float32), _centre(text, rows, 0)], 1)
    columns = max(logo.shape[1], text.shape[1])
    return np.concatenate([_centre(logo, 0, columns), np.zeros((gap, columns), np.float32), _centre(text, 0, columns)])


def _logo(size: int, rng: np.random.Generator) -> Mask:
    """A ring, disc, pin, star, polygon, camera or monogram."""
    canvas = np.zeros((size, size), np.float32)
    centre, radius = (size // 2, size // 2), size // 2 - 3
    kind = rng.integers(0, 6)
    thickness = int(rng.choice([-1, 3, 6]))
    if kind == 0:
        cv2.circle(canvas, centre, radius, 1.0, thickness, cv2.LINE_AA)
        if thickness < 0:
            cv2.circle(canvas, centre, int(radius * rng.uniform(0.2, 0.7)), 0.0, -1, cv2.LINE_AA)
    elif kind == 1:
        cv2.circle(canvas, (size // 2, size // 3), size // 3 - 2, 1.0, max(thickness, 4), cv2.LINE_AA)
        cv2.line(canvas, (size // 5, size // 2), (size // 2, size - 3), 1.0, 4, cv2.LINE_AA)
        cv2.line(canvas, (4 * size // 5, size // 2), (size // 2, size - 3), 1.0, 4, cv2.LINE_AA)
    elif kind in (2, 3):
        points, inner = int(rng.integers(3, 9)), 1.0 if kind == 2 else rng.uniform(0.3, 0.6)
        angles = np.arange(2 * points) * np.pi / points + rng.uniform(0, np.pi)
        reach = np.where(np.arange(2 * points) % 2, inner, 1.0) * radius
        corners = np.stack([centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles)], 1)
        if thickness < 0:
            cv2.fillPoly(canvas, [corners.astype(np.int32)], 1.0, cv2.LINE_AA)
        else:
            cv2.polylines(canvas, [corners.astype(np.int32)], True, 1.0, thickness, cv2.LINE_AA)
    elif kind == 4:
        cv2.rectangle(canvas, (2, size // 4), (size - 3, size - size // 6), 1.0, max(thickness, 3), cv2.LINE_AA)
        cv2.circle(canvas, (size // 2, size // 2 + size // 10), size // 5, 1.0, 3, cv2.LINE_AA)
    else:
        cv2.circle(canvas, centre, radius, 1.0, 3, cv2.LINE_AA)
        letter = _fit(lettered(owner(rng)[:2], face(rng), size // 2), radius, radius)
        canvas = np.maximum(canvas, _lay(np.zeros_like(canvas), letter, 0.5, 0.5))
    return canvas


def _blend(image: Image, layer: Mask, opacity: float, rng: np.random.Generator) -> Image:
    """Lay the mask over the picture in white, black, grey or coloured ink, at times shadowed or as a relief."""
    draw = rng.random()
    ink = np.full(3, 255.0) if draw < 0.62 else np.full(3, float(rng.integers(0, 60))) if draw < 0.76 else None
    ink = np.full(3, float(rng.integers(90, 200))) if ink is None and draw < 0.86 else ink
    ink = rng.uniform(0, 255, 3) if ink is None else ink
    out = image.astype(np.float32)
    style = rng.random()
    if style < 0.3:
        shadow = np.roll(layer, (1, 1), (0, 1))
        out *= 1 - 0.7 * opacity * shadow[..., None]
    elif style < 0.4:
        relief = (np.roll(layer, (-1, -1), (0, 1)) - np.roll(layer, (1, 1), (0, 1)))[..., None]
        return np.clip(out + 120 * opacity * relief + 30 * opacity * layer[..., None], 0, 255).astype(np.uint8)
    elif style < 0.5:
        edge = np.clip(np.asarray(cv2.dilate(layer, np.ones((3, 3)))) - layer, 0, 1)
        out = out * (1 - opacity * edge[..., None]) + (255 - ink) * opacity * edge[..., None]
    alpha = opacity * layer[..., None]
    return np.clip(out * (1 - alpha) + ink * alpha, 0, 255).astype(np.uint8)


def _fit(mark: Mask, width: float, height: float) -> Mask:
    """Scaled to be within `width` x `height` pixels, at least 6 pixels tall."""
    scale = min(width / mark.shape[1], height / mark.shape[0])
    size = max(4, round(mark.shape[1] * scale)), max(6, round(mark.shape[0] * scale))
    return np.asarray(cv2.resize(mark, size, interpolation=cv2.INTER_AREA), np.float32)


def _turn(mark: Mask, angle: float) -> Mask:
    if not angle:
        return mark
    h, w = mark.shape
    cos, sin = abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))
    size = int(w * cos + h * sin) + 2, int(w * sin + h * cos) + 2
    move = cv2.getRotationMatrix2D((w / 2, h / 2), angle, 1.0)
    move[:, 2] += size[0] / 2 - w / 2, size[1] / 2 - h / 2
    return np.asarray(cv2.warpAffine(mark, move, size), np.float32)


def _lay(layer: Mask, mark: Mask, y: float, x: float, margin: int = 0) -> Mask:
    """Put the mark at the share (y, x) of the free room, 0 top or left, 1 bottom or right, cut at the edges."""
    height, width = layer.shape
    h, w = mark.shape
    top = margin + round((height - h - 2 * margin) * y)
    left = margin + round((width - w - 2 * margin) * x)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + h, height), min(left + w, width)
    if y1 > y0 and x1 > x0:
        layer[y0:y1, x0:x1] = np.maximum(layer[y0:y1, x0:x1], mark[y0 - top : y1 - top, x0 - left : x1 - left])
    return layer


def _centre(mark: Mask, rows: int, columns: int) -> Mask:
    """Padded evenly to at least this size."""
    h, w = mark.shape
    up, left = max(rows - h, 0) // 2, max(columns - w, 0) // 2
    return np.pad(mark, ((up, max(rows - h, 0) - up), (left, max(columns - w, 0) - left)))
