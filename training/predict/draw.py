"""Pictures of a prediction: the panel (input | pose | parts | depth | normals) and the overlay.

Left limbs are orange, right ones blue, the middle green. Parts have the colours of their class list over the grey
photo. Depth is brightest where it is nearest, scaled for each person; normals are (n + 1) / 2 as RGB; where nobody is,
grey.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.labels.sets import ClassList, KeypointSet
from training.predict.compose import Person, Prediction

TITLES = {"pose": "pose", "parts": "body parts", "depth": "depth", "normals": "surface normals"}
LEFT, RIGHT, MIDDLE = (255, 140, 26), (38, 132, 255), (64, 200, 90)
NOBODY = 205
"""Grey of depth and normals where nobody is."""
INK, PAPER, SOFT = (30, 30, 30), (255, 255, 255), (110, 110, 110)
HEAD, FOOT, GAP = 26, 22, 4
"""Pixels of the strip with titles above a panel, of the strip with keys below it, and between its pictures."""

NARROWEST = 130
"""Pixels of a column at least, so that titles and keys fit."""

PARTS_OPACITY = 0.7
FADE = 0.55
"""How far the photo fades to white around coloured parts."""


@dataclass(frozen=True)
class Style:
    """What drawing needs to know beside a prediction. min_keypoint: keypoints of a lower score are not drawn. side:
    pixels of a panel picture's longer side.
    """

    keypoints: KeypointSet | None = None
    classes: ClassList | None = None
    min_keypoint: float = 0.3
    side: int = 512


def panel(found: Prediction, style: Style) -> np.ndarray:
    """(h, w, 3) uint8 RGB: the photo and every task that was asked, side by side under their titles; even sides."""
    height, width = _fitted(found.image.shape[:2], style.side)
    small = shrink(found.image, (height, width))
    columns = [("input", small, _count(found.people))]
    if style.keypoints is not None:
        columns.append((TITLES["pose"], draw_pose(small, found, style), "sides"))
    if found.parts is not None and style.classes is not None:
        seen = len(np.setdiff1d(np.unique(found.parts), [0]))
        picture = draw_parts(small, found.parts, style.classes)
        columns.append((TITLES["parts"], picture, f"{seen} of {len(style.classes.names) - 1} classes"))
    if found.depth is not None and found.owner is not None:
        picture = draw_depth(_nearest(found.depth, small), _nearest(found.owner, small), scales(found))
        columns.append((TITLES["depth"], picture, "ramp"))
    if found.normals is not None:
        columns.append((TITLES["normals"], draw_normals(_nearest(found.normals, small)), "axes"))
    return _sheet(columns)


def overlay(found: Prediction, style: Style) -> np.ndarray:
    """(H, W, 3) uint8 RGB: parts, skeletons and boxes over the photo at its full size."""
    picture = found.image
    if found.parts is not None and style.classes is not None:
        picture = blend_parts(picture, found.parts, style.classes, 0.5)
    picture = _draw_boxes(picture, found)
    return draw_pose(picture, found, style) if style.keypoints is not None else picture


# -- one picture per task ----------------------------------------------------------------------------------------------


def draw_pose(picture: np.ndarray, found: Prediction, style: Style) -> np.ndarray:
    """Skeletons over a picture of the whole image at any scale; the best-scored person last, on top."""
    assert style.keypoints is not None
    scale = picture.shape[1] / found.image.shape[1]
    drawn = picture.copy()
    for person in sorted(found.people, key=lambda p: p.score):
        if person.keypoints is not None:
            _draw_skeleton(drawn, person, style.keypoints, style.min_keypoint, scale)
    return drawn


def draw_parts(picture: np.ndarray, parts: np.ndarray, classes: ClassList) -> np.ndarray:
    """Class colours over the grey photo, which fades around them. parts: (H, W) ids at any scale."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
    faded = (grey * (1 - FADE) + 255 * FADE).astype(np.uint8)
    people = np.where(_nearest(parts, picture)[..., None] > 0, grey, faded)
    return blend_parts(people, parts, classes, PARTS_OPACITY)


def blend_parts(picture: np.ndarray, parts: np.ndarray, classes: ClassList, opacity: float) -> np.ndarray:
    """Class colours over a picture wherever a class but the background is."""
    palette = np.array(classes.colours, np.float32)
    ids = _nearest(parts, picture)
    share = (ids > 0)[..., None] * np.float32(opacity)
    return (picture * (1 - share) + palette[ids] * share + 0.5).astype(np.uint8)


def draw_depth(depth: np.ndarray, owner: np.ndarray, limits: Sequence[tuple[float, float]]) -> np.ndarray:
    """(H, W) relative depth, NaN where nobody is → RGB in the colours of inferno, each person between their own
    (near, far) limits.
    """
    near = np.array([0.0, *(low for low, _ in limits)], np.float32)
    far = np.array([1.0, *(high for _, high in limits)], np.float32)
    share = (depth - near[owner]) / np.maximum(far - near, 1e-6)[owner]
    return _inferno(1 - np.nan_to_num(share), np.isfinite(depth))


def draw_normals(normals: np.ndarray) -> np.ndarray:
    """(H, W, 3) unit vectors, NaN where nobody is → RGB (n + 1) / 2."""
    known = np.isfinite(normals).all(2, keepdims=True)
    colours = (np.nan_to_num(normals).clip(-1, 1) + 1) * 127.5 + 0.5
    return np.where(known, colours, NOBODY).astype(np.uint8)


def scales(found: Prediction) -> list[tuple[float, float]]:
    """Per person the depths that become the brightest and the darkest colour: the 1st and 99th percentile."""
    limits = []
    for number in range(1, len(found.people) + 1):
        mine = found.owner == number
        values = found.depth[mine & np.isfinite(found.depth)] if found.depth is not None else np.empty(0)
        low, high = np.percentile(values, (1, 99)) if len(values) else (0.0, 1.0)
        limits.append((float(low), float(high)))
    return limits


def side_colours(keypoints: KeypointSet) -> list[tuple[int, int, int]]:
    """Colour of every keypoint by the side that its name says: left and right, or the words l and r."""

    def side(name: str) -> tuple[int, int, int]:
        words = re.split(r"[^a-z]+", name)
        return LEFT if "left" in name or "l" in words else RIGHT if "right" in name or "r" in words else MIDDLE

    return [side(name.lower()) for name in keypoints.names]


def shrink(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture at (rows, columns), averaged where it gets smaller."""
    if picture.shape[:2] == size:
        return picture
    smaller = picture.shape[0] >= size[0]
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


# -- strokes -----------------------------------------------------------------------------------------------------------

_SHIFT = 4  # cv2 draws at sixteenths of a pixel


def _draw_skeleton(picture: np.ndarray, person: Person, names: KeypointSet, least: float, scale: float) -> None:
    assert person.keypoints is not None
    points = (person.keypoints[:, :2] + 0.5) * scale - 0.5
    shown = person.keypoints[:, 2] >= least
    colours = side_colours(names)
    tall = max(person.box[3] - person.box[1], person.box[2] - person.box[0]) * scale
    width = int(np.clip(round(tall / 110), 1, 12))
    places = [tuple(int(v) for v in np.round(p * (1 << _SHIFT))) for p in points.clip(-1e6, 1e6)]
    bones = [(a, b) for a, b in names.skeleton if shown[a] and shown[b]]
    for stroke, dark in ((width + 2, True), (width, False)):
        for a, b in bones:
            colour = INK if dark else colours[a] if colours[a] == colours[b] else _bone(colours[a], colours[b])
            cv2.line(picture, places[a], places[b], colour, stroke, cv2.LINE_AA, _SHIFT)
    dense = len(names.names) > 60  # faces and hands of many points
    for i in np.flatnonzero(shown):
        in_skeleton = not dense or any(i in bone for bone in names.skeleton)
        radius = max(width, 2) if in_skeleton else max(width // 2, 1)
        if in_skeleton:
            cv2.circle(picture, places[i], (radius + 1) << _SHIFT, INK, -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(picture, places[i], radius << _SHIFT, colours[i], -1, cv2.LINE_AA, _SHIFT)


def _bone(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    """Between the sides: green; between a side and the middle: the side's colour."""
    return MIDDLE if MIDDLE not in (a, b) else a if b == MIDDLE else b


def _draw_boxes(picture: np.ndarray, found: Prediction) -> np.ndarray:
    drawn = Image.fromarray(picture)
    draw = ImageDraw.Draw(drawn)
    longest = max(picture.shape[:2])
    line, font = max(1, round(longest / 500)), _font(max(11, round(longest / 60)))
    for number, person in enumerate(found.people, start=1):
        x0, y0, x1, y1 = person.box
        draw.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=PAPER, width=line)
        label, corner = f"{number}  {person.score:.2f}", (x0 + 2 * line, y0 + line)
        left, top, right, bottom = draw.textbbox(corner, label, font=font)
        draw.rectangle((left - line, top - line, right + line, bottom + line), fill=PAPER)
        draw.text(corner, label, font=font, fill=INK)
    return np.array(drawn)


# -- the sheet ---------------------------------------------------------------------------------------------------------


def _sheet(columns: list[tuple[str, np.ndarray, str]]) -> np.ndarray:
    """Pictures of one size, side by side, a title above and a key below each."""
    height, across = columns[0][1].shape[:2]
    width = max(across, NARROWEST)
    sides = (len(columns) * (width + GAP) - GAP, HEAD + height + FOOT)
    sheet = Image.new("RGB", (sides[0] + sides[0] % 2, sides[1] + sides[1] % 2), PAPER)  # video codecs want them even
    draw = ImageDraw.Draw(sheet)
    for number, (title, picture, key) in enumerate(columns):
        left = number * (width + GAP)
        draw.text((left + width / 2, HEAD / 2), title, fill=INK, anchor="mm", font=_font(14))
        sheet.paste(Image.fromarray(picture), (left + (width - across) // 2, HEAD))
        _draw_key(sheet, draw, key, left, HEAD + height, width)
    return np.array(sheet)


def _draw_key(sheet: Image.Image, draw: ImageDraw.ImageDraw, key: str, left: int, top: int, width: int) -> None:
    centre, middle = left + width / 2, top + FOOT / 2
    if key == "sides":
        words = (("their left", LEFT), ("right", RIGHT), ("middle", MIDDLE))
        _chips(draw, words, centre, middle)
    elif key == "axes":
        _chips(draw, (("right", (255, 128, 128)), ("up", (128, 255, 128)), ("to us", (128, 128, 255))), centre, middle)
    elif key == "ramp":
        long = int(min(100, width * 0.4))
        ramp = _inferno(np.linspace(1, 0, long, dtype=np.float32)[None].repeat(9, 0), np.ones((9, long), bool))
        sheet.paste(Image.fromarray(ramp), (int(centre - long / 2), int(middle - 4)))
        draw.text((centre - long / 2 - 6, middle), "near", fill=SOFT, anchor="rm", font=_font(12))
        draw.text((centre + long / 2 + 6, middle), "far", fill=SOFT, anchor="lm", font=_font(12))
    else:
        draw.text((centre, middle), key, fill=SOFT, anchor="mm", font=_font(12))


def _chips(
    draw: ImageDraw.ImageDraw, words: Sequence[tuple[str, tuple[int, int, int]]], centre: float, middle: float
) -> None:
    font = _font(12)
    widths = [draw.textlength(word, font=font) + 24 for word, _ in words]
    x = centre - (sum(widths) - 10) / 2
    for (word, colour), wide in zip(words, widths, strict=True):
        draw.rectangle((x, middle - 4, x + 9, middle + 5), fill=colour)
        draw.text((x + 13, middle), word, fill=SOFT, anchor="lm", font=font)
        x += wide


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _count(people: tuple[Person, ...]) -> str:
    return {0: "nobody found", 1: "1 person"}.get(len(people), f"{len(people)} people")


def _fitted(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    scale = side / max(shape[0], shape[1])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _nearest(values: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """A map at the picture's size; labels and vectors are picked, never mixed."""
    if values.shape[:2] == picture.shape[:2]:
        return values
    lengths = zip(picture.shape[:2], values.shape[:2], strict=True)
    rows, columns = (((np.arange(wanted) + 0.5) * there / wanted).astype(int) for wanted, there in lengths)
    return values[rows[:, None], columns[None]]


def _inferno(bright: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W) float 0 dark … 1 bright → RGB; grey where not known."""
    colours = cv2.applyColorMap((bright.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.where(known[..., None], colours, NOBODY).astype(np.uint8)
