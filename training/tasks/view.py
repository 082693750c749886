"""How a model sees a person: the affine map from the upright photo to the model's input, and its way back.

A coordinate is that of a pixel's centre, so the first pixel lies at (0, 0) and the view's last at (columns - 1,
rows - 1). The box spans from the first centre to the last: the unbiased coordinates of UDP (Huang et al. 2020).
The map turns, scales alike in both directions and may mirror; it never stretches or shears.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from shards.crop import BrokenImage, Encoded

PADDING = 1.25
"""A person's box grows by this factor before the model sees it."""

_SHARP = 0.75  # bilinear sampling below this scale aliases, so pixels are averaged first

Box = tuple[float, float, float, float]
Region = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class View:
    """matrix: (2, 3) float64, from (x, y, 1) in the photo to (x, y) in the view. size: rows and columns of the
    view. flipped: mirrored left to right. angle: degrees by which the photo is turned anticlockwise.
    """

    matrix: np.ndarray
    size: tuple[int, int]
    flipped: bool = False
    angle: float = 0.0

    @property
    def scale(self) -> float:
        """Pixels of the view for one pixel of the photo."""
        return _scale(self.matrix)

    @property
    def inverse(self) -> np.ndarray:
        """(2, 3) float64, from the view to the photo."""
        return cv2.invertAffineTransform(self.matrix)

    def region(self, height: int, width: int) -> Region:
        """The pixels of a photo that the view can see, as x0, y0, x1, y1 with x1 and y1 excluded.

        Empty (x0 == x1 or y0 == y1) where the view looks past the photo.
        """
        return _bounds(self.inverse, self.size, (height, width))

    def shows(self, region: Region) -> np.ndarray:
        """Which pixels of a region of the photo lie inside the view: (y1 - y0, x1 - x0) bool."""
        x0, y0, x1, y1 = region
        x, y = np.arange(x0, x1), np.arange(y0, y1)
        shown = np.ones((len(y), len(x)), bool)
        for (a, b, c), side in zip(self.matrix, self.size[::-1], strict=True):
            at = a * x + (b * y + c)[:, None] if a and b else a * x + c if a else (b * y + c)[:, None]
            shown &= (at >= -0.5 - 1e-6) & (at <= side - 0.5 + 1e-6)
        return shown

    def holds(self, height: int, width: int) -> np.ndarray:
        """Which pixels of the view lie inside a photo: (rows, columns) bool."""
        back = View(self.inverse, (height, width))
        return back.shows((0, 0, self.size[1], self.size[0]))


# -- choosing a view ---------------------------------------------------------------------------------------------------


def fit(box: Box, size: tuple[int, int], padding: float = PADDING) -> View:
    """The upright view of a box (x0, y0, x1, y1 in pixels of the photo), widened to the view's aspect and padded.

    The box may reach beyond the photo; what lies there is black. Raises BrokenImage where it has no extent or is
    not finite.
    """
    return look(*frame(box, size, padding), size)


def frame(box: Box, size: tuple[int, int], padding: float = PADDING) -> tuple[tuple[float, float], float]:
    """Centre and width, in pixels of the photo, of the padded box in the view's aspect. Raises as `fit`."""
    x0, y0, x1, y1 = map(float, box)
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 < x0 or y1 < y0 or (x1 == x0 and y1 == y0):
        raise BrokenImage(f"the box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) has no extent; give x0 y0 x1 y1 in pixels")
    width = max(x1 - x0, (y1 - y0) * (size[1] - 1) / (size[0] - 1))
    return ((x0 + x1) / 2, (y0 + y1) / 2), width * padding


def look(
    centre: tuple[float, float], width: float, size: tuple[int, int], angle: float = 0.0, flipped: bool = False
) -> View:
    """The view whose middle is a point of the photo and which is so many of its pixels wide.

    The photo is first turned anticlockwise by `angle` degrees about the centre, then mirrored.
    """
    rows, columns = size
    scale = (columns - 1) / width
    cosine, sine = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    linear = np.array([[cosine, sine], [-sine, cosine]])  # y points down
    if flipped:
        linear[0] *= -1
    offset = np.array([(columns - 1) / 2, (rows - 1) / 2]) - linear @ np.array(centre)
    return View(np.column_stack([linear, offset]), size, flipped, angle)


# -- from the photo to the view ----------------------------------------------------------------------------------------


def read_image(image: Encoded, view: View) -> np.ndarray:
    """A view of an encoded photo, decoded no larger than it must be: (rows, columns, 3) uint8 RGB.

    Raises BrokenImage.
    """
    share = min(view.scale, 1.0)
    return warp_image(image.decode(share, share), view, (image.height, image.width))


def warp_image(pixels: np.ndarray, view: View, original: tuple[int, int] | None = None) -> np.ndarray:
    """A view of a photo: (rows, columns, 3) uint8; black beyond its edges.

    pixels: (H, W, 3) uint8, perhaps decoded smaller than the photo. original: rows and columns of the photo
    itself. Where the view is smaller than the pixels they are averaged first, so that nothing aliases.
    """
    matrix = view.matrix if original is None else _compose(view.matrix, _undecoded(pixels.shape[:2], original))
    part, matrix = _cut(pixels, matrix, view.size)
    if part is None:
        return np.zeros((*view.size, 3), np.uint8)
    if (scale := _scale(matrix)) < _SHARP:
        small = tuple(max(round(side * scale / _SHARP), 1) for side in part.shape[:2])
        matrix = _compose(matrix, _enlarging(small, part.shape[:2]))
        part = cv2.resize(part, small[::-1], interpolation=cv2.INTER_AREA)
    return cv2.warpAffine(part, matrix, view.size[::-1], flags=cv2.INTER_LINEAR)


def warp_labels(labels: np.ndarray, view: View, fill: float) -> np.ndarray:
    """A view of labels, each pixel from its nearest: (H, W) or (H, W, C) to (rows, columns) or (rows, columns, C).

    fill: the value beyond the edges of the photo. Vectors are moved, not turned: see `turn_vectors`.
    """
    part, matrix = _cut(labels, view.matrix, view.size)
    if part is None:
        return np.full((*view.size, *labels.shape[2:]), fill, labels.dtype)
    border = (float(fill),) * 4
    return cv2.warpAffine(part, matrix, view.size[::-1], flags=cv2.INTER_NEAREST, borderValue=border)


def warp_points(points: np.ndarray, view: View) -> np.ndarray:
    """Points of the photo in the view: (..., 2) x, y to (..., 2) float64."""
    return _apply(view.matrix, points)


def turn_vectors(vectors: np.ndarray, view: View) -> np.ndarray:
    """Vectors of the photo (..., 3; x right, y up, z towards the camera) as they point in the view: turned with
    it, x negated where it is mirrored.
    """
    return vectors @ _turn(view).T.astype(vectors.dtype)


# -- from the view back to the photo -----------------------------------------------------------------------------------


def points_to_image(points: np.ndarray, view: View) -> np.ndarray:
    """Points of the view in the photo: (..., 2) x, y to (..., 2) float64."""
    return _apply(view.inverse, points)


def vectors_to_image(vectors: np.ndarray, view: View) -> np.ndarray:
    """Vectors of the view (..., 3; x right, y up, z towards the camera) as they point in the photo."""
    return vectors @ _turn(view).astype(vectors.dtype)


def map_to_image(values: np.ndarray, view: View, region: Region) -> np.ndarray:
    """A map over the view, resampled at the pixels of a region of the photo.

    values: (h, w) or (h, w, C ≤ 4) float32 at any resolution; the map's edges lie on the view's, as when it is
    resized. Returns (y1 - y0, x1 - x0) or (…, C); beyond the view the nearest value repeats (see `View.shows`).
    """
    x0, y0, x1, y1 = region
    if x1 <= x0 or y1 <= y0:
        return np.empty((max(y1 - y0, 0), max(x1 - x0, 0), *values.shape[2:]), values.dtype)
    to_view = _enlarging(values.shape[:2], view.size)
    matrix = _compose(view.inverse, to_view)
    matrix[:, 2] -= x0, y0
    size = (x1 - x0, y1 - y0)
    return cv2.warpAffine(values, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


# -- affine maps -------------------------------------------------------------------------------------------------------


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def _compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The map that does `first`, then `second`."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def _scale(matrix: np.ndarray) -> float:
    return math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))


def _turn(view: View) -> np.ndarray:
    """The view's rotation and mirroring of vectors whose y points up: (3, 3), orthogonal."""
    turn = np.eye(3)
    turn[:2, :2] = view.matrix[:, :2] / view.scale * [[1, -1], [-1, 1]]
    return turn


def _enlarging(small: tuple[int, ...], large: tuple[int, ...]) -> np.ndarray:
    """The map from the pixels of a resized picture to those it was resized from: edges lie on edges."""
    down, across = large[0] / small[0], large[1] / small[1]
    return np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2]])


def _undecoded(small: tuple[int, ...], large: tuple[int, int]) -> np.ndarray:
    """The map from the pixels of a photo decoded smaller to its own. Those of a JPEG decoder are 8 / n wide each; the
    last one reaches beyond the photo where that does not divide it.
    """
    for n in (8, 4, 3, 2, 1):
        if all(-(-side * n // 8) == found for side, found in zip(large, small, strict=True)):
            wide = 8 / n
            return np.array([[wide, 0, (wide - 1) / 2], [0, wide, (wide - 1) / 2]])
    return _enlarging(small, large)


def _bounds(inverse: np.ndarray, size: tuple[int, int], within: tuple[int, int], margin: float = 0.0) -> Region:
    """The box of a picture's pixels whose centres a view, widened by a margin, holds."""
    bottom, right = size[0] - 0.5, size[1] - 0.5
    corners = _apply(inverse, np.array([[-0.5, -0.5], [right, -0.5], [-0.5, bottom], [right, bottom]]))
    limit = np.array([within[1], within[0]])
    low = np.clip(np.ceil(corners.min(0) - margin - 1e-6), 0, limit).astype(int)
    high = np.clip(np.floor(corners.max(0) + margin + 1e-6) + 1, low, limit).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _cut(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray | None, np.ndarray]:
    """The part of a picture that a view samples and the map from that part; None where it samples nothing."""
    margin = 2 + 2 / max(_scale(matrix), 1e-6)
    x0, y0, x1, y1 = _bounds(cv2.invertAffineTransform(matrix), size, pixels.shape[:2], margin)
    if x0 == x1 or y0 == y1:
        return None, matrix
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (x0, y0)
    return pixels[y0:y1, x0:x1], moved
