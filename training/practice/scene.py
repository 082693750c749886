"""One practice picture: who is where, which surface each pixel sees, and how that looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from training.labels.sets import ClassList, KeypointSet
from training.practice.backdrop import backdrop
from training.practice.body import EYES, Band, Frames, Material, Person, Piece, pick, pose
from training.practice.geometry import Camera, Solids, solid, turn
from training.tasks.background import Backgrounds

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
    people = _crowd(rng, camera)
    obstacles = _obstacles(rng, camera, people)
    pieces = [piece for person in people for piece in person.pieces] + obstacles
    solids = Solids([piece.solid for piece in pieces])
    seen = _trace(camera, solids)
    there = seen.piece >= 0
    ids, albedo, shine, towards = _paint(camera, pieces, solids, seen)
    behind = backdrop(rng, height, width, photos)
    image = _expose(rng, _shade(rng, albedo, shine, towards), there, behind)
    nobody = [-1] * (len(obstacles) + 1)  # obstacles are no people, and pixels without a piece have number -1
    who = np.array([n for n, person in enumerate(people) for _ in person.pieces] + nobody)[seen.piece]
    parts, normals = np.zeros((height, width), np.uint8), np.zeros((height, width, 3), np.float32)
    parts[there], normals[there] = ids, towards
    off = who < 0
    parts[off], normals[off] = 0, np.nan
    found = tuple(_instance(camera, person, number, pieces, seen, who) for number, person in enumerate(people))
    return Rendered(
        image,
        parts,
        np.where(off, np.nan, seen.depth).astype(np.float32),
        normals,
        tuple(instance for instance in found if instance.mask.any()),
        camera,
    )


# -- who is where ------------------------------------------------------------------------------------------------------


def _crowd(rng: np.random.Generator, camera: Camera) -> list[Person]:
    """One to three people, the later ones farther away."""
    people: list[Person] = []
    centres: list[np.ndarray] = []
    share = rng.uniform(0.6, 1.15)
    for _ in range(pick(rng, [1, 2, 3], [0.5, 0.3, 0.2])):
        person, centre = _stand(rng, camera, share, centres)
        people.append(person)
        centres.append(centre)
        share *= rng.uniform(0.55, 0.85)
    return people


def _stand(
    rng: np.random.Generator, camera: Camera, share: float, others: Sequence[np.ndarray]
) -> tuple[Person, np.ndarray]:
    """A person whose body fills this share of the picture's height, and its middle, each side of the picture from -1
    to 1: of three random places that which is farthest from the others'; now and then cut by the picture's edge.
    """
    height, girth = rng.uniform(1.5, 1.95), rng.uniform(0.85, 1.3)
    around = rng.normal(0, 40) if rng.random() < 0.75 else rng.uniform(90, 270)
    tilt = rng.uniform(-90, 90) if rng.random() < 0.1 else rng.normal(0, 7)
    frame = turn(x=rng.normal(0, 10), z=tilt) @ turn(y=around)
    distance = camera.focal * height / (share * camera.height)
    own = np.random.default_rng(int(rng.integers(2**62)))
    person = pose(own, Frames(np.array([0.0, 0.0, -distance]), frame, height, girth))
    points = person.points()
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    reach = distance / camera.focal * np.array([camera.width, camera.height]) / 2
    room = np.maximum(reach - (points.max(axis=0) - points.min(axis=0))[:2] / 2, 0.15 * reach)
    drafts = rng.uniform(-1, 1, (3, 2)) * room * (1.5 if rng.random() < 0.25 else 1.0)
    target = max(drafts, key=lambda draft: min((np.linalg.norm(draft / reach - other) for other in others), default=0))
    return person.moved(np.array([*(target - middle[:2]), -distance - middle[2]])), target / reach


def _obstacles(rng: np.random.Generator, camera: Camera, people: Sequence[Person]) -> list[Piece]:
    """Now and then a beam or a ball in front of somebody."""
    if rng.random() > 0.25:
        return []
    person = people[int(rng.integers(len(people)))]
    target = person.points()[rng.integers(len(person.joints))] * rng.uniform(0.6, 0.85)
    along = turn(z=rng.uniform(0, 180)) @ np.array([1.0, 0, 0]) * rng.choice([0.0, rng.uniform(0.2, 2.0)])
    radius = float(rng.uniform(0.03, 0.12))
    colour = rng.random(3)
    pattern = str(rng.choice(["plain", "rings", "checks"]))
    band = Band(-9, "Background", Material(colour, rng.random(3), pattern, shine=0.2))
    return [Piece(solid(target - along, target + along, radius, radius * float(rng.uniform(0.6, 1))), (band,))]


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


# -- how it looks ------------------------------------------------------------------------------------------------------


def _shade(rng: np.random.Generator, albedo: np.ndarray, shine: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """One lamp from above, a sky, and a gloss: (n, 3) linear."""
    lamp = turn(x=rng.uniform(-75, 15), y=rng.uniform(-80, 80)) @ np.array([0, 0, 1.0])
    sky = rng.uniform(0.25, 0.6)
    lit = np.maximum(normals @ lamp, 0)
    glint = np.maximum(2 * lit * normals[:, 2] - lamp[2], 0) ** 20
    light = sky * (0.75 + 0.25 * normals[:, 1]) + (1.1 - sky) * lit
    tint = 1 + rng.normal(0, 0.06, 3)
    return np.asarray(albedo * light[:, None] * tint + (shine * glint)[:, None])


def _expose(rng: np.random.Generator, shaded: np.ndarray, there: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Put what is seen before the backdrop, soften the edges as a lens does, and add exposure and noise: uint8."""
    picture[there] = shaded
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.45, 0.9)))
    picture -= 0.5
    picture *= rng.uniform(0.8, 1.15)
    picture += 0.5
    picture += rng.uniform(-0.08, 0.08)
    picture += rng.normal(0, rng.uniform(0.003, 0.03), picture.shape)
    picture *= 255
    return np.asarray(np.clip(np.rint(picture, out=picture), 0, 255, out=picture).astype(np.uint8))


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
