"""One practice picture: which surface each pixel sees, and the labels that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from training.labels.sets import ClassList, KeypointSet
from training.practice.backdrop import backdrop
from training.practice.body import EYES, Material, Person, Piece
from training.practice.crowd import crowd, obstacles
from training.practice.geometry import Camera, Solids
from training.practice.look import BACKDROP, expose, shade, shadows, through_lens
from training.tasks.background import Backgrounds

_THING = -2
"""The number of pixels where what stands before people is seen; theirs are numbered from 0."""

_NEAR_FACE = 0.03
"""Metres by which a point of the face may lie behind what is seen there and still be seen."""

_TO_GUESS = 5
"""Visible keypoints from which on the hidden ones of a person are labelled too."""


@dataclass(frozen=True)
class Instance:
    """A person that is seen. keypoints: (17, 3) x, y, v as COCO's: 2 visible, 1 hidden, 0 outside the picture, or
    hidden on a person of whom too little is seen to guess it. mask: (H, W) bool, the pixels where it is seen.
    """

    keypoints: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Rendered:
    """A picture and its labels, exact at pixel centres.

    image: (H, W, 3) uint8 RGB. parts: (H, W) uint8, ids of Sapiens' 28 classes. depth: (H, W) float32, metres along the
    optical axis, NaN off people. normals: (H, W, 3) float32, unit, x right, y up, z towards the camera, NaN off people.
    """

    image: np.ndarray
    parts: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    people: tuple[Instance, ...]
    camera: Camera


@dataclass
class _Surface:
    """The nearest surface at every pixel: its depth, inf without one, and the number of its piece, -1 without one."""

    depth: np.ndarray
    piece: np.ndarray


@lru_cache
def coco17() -> KeypointSet:
    return KeypointSet.load("coco17")


@lru_cache
def part_ids() -> dict[str, int]:
    return {name: number for number, name in enumerate(ClassList.load("sapiens28").names)}


def render(seed: int, index: int, photos: Backgrounds | None = None, size: tuple[int, int] | None = None) -> Rendered:
    """Picture `index` of a seed: a pure function. size: rows and columns; otherwise it varies about 256 x 224."""
    rng = np.random.default_rng([seed, index])
    height, width = size or (int(rng.integers(208, 305)), int(rng.integers(160, 289)))
    camera = Camera(height, width, float(rng.uniform(0.9, 1.8)) * max(height, width))
    ground, people = crowd(rng, camera)
    in_front = obstacles(rng, people)
    pieces = [piece for person in people for piece in person.pieces] + in_front
    solids = Solids([piece.solid for piece in pieces])
    seen = _trace(camera, solids)
    there = seen.piece >= 0
    ids, albedo, shine, towards = _paint(camera, pieces, solids, seen)
    behind = backdrop(rng, height, width, photos)
    shadows(behind, camera, ground, people)
    shaded = np.zeros((height, width, 3), np.float32)
    shaded[there] = shade(rng, albedo, shine, towards, seen.depth[there], behind)
    owners = [number for number, person in enumerate(people) for _ in person.pieces]
    who = np.array([*owners, *(_THING for _ in in_front), BACKDROP])[seen.piece]
    picture = through_lens(rng, shaded, behind, who, seen.depth)
    parts, normals = np.zeros((height, width), np.uint8), np.zeros((height, width, 3), np.float32)
    parts[there], normals[there] = ids, towards
    off = who < 0
    parts[off], normals[off] = 0, np.nan
    found = tuple(_instance(camera, person, number, pieces, seen, who) for number, person in enumerate(people))
    return Rendered(
        expose(rng, picture),
        parts,
        np.where(off, np.nan, seen.depth).astype(np.float32),
        normals,
        tuple(instance for instance in found if instance.mask.any()),
        camera,
    )


# -- what each pixel sees ----------------------------------------------------------------------------------------------


def _trace(camera: Camera, solids: Solids) -> _Surface:
    shape = (camera.height, camera.width)
    seen = _Surface(np.full(shape, np.inf), np.full(shape, -1))
    x, y = camera.slopes()
    for number, (top, left, bottom, right) in enumerate(solids.bounds(camera)):
        if top >= bottom or left >= right:
            continue
        window = np.s_[top:bottom, left:right]
        depth = solids.hit(number, x[left:right], y[top:bottom])
        nearer = depth < seen.depth[window]
        seen.depth[window][nearer] = depth[nearer]
        seen.piece[window][nearer] = number
    return seen


def _paint(
    camera: Camera, pieces: Sequence[Piece], solids: Solids, seen: _Surface
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Class ids (n,), colours (n, 3), shine (n,) and normals (n, 3) of the n pixels at which something is seen."""
    x, y = camera.slopes()
    rows, columns = np.nonzero(seen.piece >= 0)
    number, depth = seen.piece[rows, columns], seen.depth[rows, columns]
    local = solids.local(number, np.stack([x[columns] * depth, y[rows] * depth, -depth], axis=1))
    along = solids.along(number, local)
    bands = [band for piece in pieces for band in piece.bands]
    band = _band(pieces, number, along)
    ids = np.array([part_ids()[one.part] for one in bands], np.uint8)[band]
    colours = _texture([one.material for one in bands], band, along, local)
    for painted, piece in enumerate(pieces):
        if piece.face:
            front = (number == painted) & (local[:, 2] > 0)
            ids[front], colours[front] = _draw_face(piece.glasses, local[front], ids[front], colours[front])
    shine = np.array([one.material.shine for one in bands])[band]
    return ids, colours, shine, solids.normals(number, local)


def _band(pieces: Sequence[Piece], number: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Of all pieces' bands in a row, which ones points of pieces (n,) are in that lie so far along them (n,)."""
    counts = np.array([len(piece.bands) for piece in pieces])
    band = (np.cumsum(counts) - counts)[number]
    for later in range(1, counts.max()):
        starts = [piece.bands[later].start if later < len(piece.bands) else np.inf for piece in pieces]
        band += along >= np.array(starts)[number]
    return np.asarray(band)


def _texture(materials: Sequence[Material], band: np.ndarray, along: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of points (n,), band: the number of their material."""
    colours = np.array([(one.colour, one.colour + (one.second - one.colour)) for one in materials])
    repeats = np.array([one.repeats for one in materials])[band]
    rings = np.array([one.pattern in {"rings", "checks"} for one in materials])[band]
    stripes = np.array([one.pattern in {"stripes", "checks"} for one in materials])[band]
    around = np.arctan2(local[:, 2], local[:, 0]) / np.pi
    second = np.floor(along * repeats).astype(int) & rings ^ np.floor(around * repeats).astype(int) & stripes
    return np.asarray(colours[band, second])


def _draw_face(glasses: bool, local: np.ndarray, ids: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put eyes, brows, lips and glasses on a head's front: by direction from the head's centre, where a mirror image
    tells left from right.
    """
    for eye in EYES.values():
        offset = local - np.array(eye) / np.linalg.norm(eye)
        across, up = offset[:, 0], offset[:, 1]
        white = (across / 0.17) ** 2 + (up / 0.09) ** 2 < 1
        colours[white] = (0.95, 0.95, 0.93)
        colours[white & (across**2 + up**2 < 0.006)] = (0.1, 0.07, 0.06)
        colours[(np.abs(up - 0.19) < 0.035) & (np.abs(across) < 0.2)] *= 0.35
        if glasses:
            ring = (across / 0.27) ** 2 + (up / 0.22) ** 2
            rim = (ring < 1) & (ring > 0.5)
            colours[rim], ids[rim] = (0.08, 0.08, 0.1), part_ids()["Apparel"]
    up = local[:, 1] + 0.52
    mouth = (np.abs(local[:, 0]) < 0.26) & (np.abs(up) < 0.1)
    upper, lower = mouth & (up >= 0), mouth & (up < 0)
    ids[upper], ids[lower] = part_ids()["Upper_Lip"], part_ids()["Lower_Lip"]
    colours[mouth] = colours[mouth] * 0.5 + np.array([0.35, 0.05, 0.08])
    colours[upper] *= 0.8
    return ids, colours


# -- labels ------------------------------------------------------------------------------------------------------------


def _instance(
    camera: Camera, person: Person, number: int, pieces: Sequence[Piece], seen: _Surface, who: np.ndarray
) -> Instance:
    mask = who == number
    keypoints = np.zeros((len(coco17().names), 3))
    points = np.stack([person.joints[name] for name in coco17().names])
    for row, (name, point, (x, y)) in enumerate(zip(coco17().names, points, camera.project(points), strict=True)):
        column, line = round(float(x)), round(float(y))
        if not (0 <= column < camera.width and 0 <= line < camera.height):
            continue
        piece = seen.piece[line, column]
        shows = bool(mask[line, column]) and name in pieces[piece].joints
        if name in {"nose", "left_eye", "right_eye", "left_ear", "right_ear"}:
            shows = shows and -point[2] < seen.depth[line, column] + _NEAR_FACE
        keypoints[row] = x, y, 2 if shows else 1
    if (keypoints[:, 2] == 2).sum() < _TO_GUESS:
        keypoints[keypoints[:, 2] == 1] = 0
    return Instance(keypoints, mask)
