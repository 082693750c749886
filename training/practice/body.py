"""A random person: proportions, pose, clothes; as solids with parts and colours, and the 17 joints of COCO.

Lengths are shares of the body's height (after Winter, Biomechanics and Motor Control of Human Movement, 2009, rounded).
Body frame: x to the person's left, y up, z to the front.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TypeVar

import numpy as np

from training.practice.geometry import Solid, ellipsoid, solid, turn

T = TypeVar("T")
SIDES = ("left", "right")
SKINS = ((255, 224, 196), (241, 194, 155), (224, 172, 125), (198, 134, 84), (141, 85, 46), (92, 54, 32), (62, 38, 26))
HAIRS = ((20, 16, 14), (50, 32, 20), (92, 56, 30), (150, 100, 50), (214, 178, 110), (150, 60, 30), (160, 160, 160))


@dataclass(frozen=True)
class Material:
    """colour, second: RGB 0..1. pattern: plain, rings, stripes or checks, `repeats` times along or around."""

    colour: np.ndarray
    second: np.ndarray
    pattern: str = "plain"
    repeats: float = 6.0
    shine: float = 0.1


@dataclass(frozen=True)
class Band:
    """From `start` on along the solid's axis (0 at its start, 1 at its end) it is this part, of this material."""

    start: float
    part: str
    material: Material


@dataclass(frozen=True)
class Piece:
    """One solid of a person. bands: in order along its axis. joints: those that are seen where this piece is. face: it
    has eyes and lips painted on, in its stretched space.
    """

    solid: Solid
    bands: tuple[Band, ...]
    joints: tuple[str, ...] = ()
    face: bool = False
    glasses: bool = False


@dataclass(frozen=True)
class Person:
    """pieces: its solids. joints: name → point (3,), camera frame, inside the body or, for the face, on its surface."""

    pieces: tuple[Piece, ...]
    joints: dict[str, np.ndarray]

    def points(self) -> np.ndarray:
        return np.stack(list(self.joints.values()))

    def moved(self, by: np.ndarray) -> "Person":
        pieces = tuple(replace(piece, solid=piece.solid.moved(by)) for piece in self.pieces)
        return Person(pieces, {name: joint + by for name, joint in self.joints.items()})


@dataclass(frozen=True)
class Looks:
    """What a person wears. sleeves, legs: how far clothes go down arms and legs, 0 none, 1 elbow or knee, 2 all."""

    skin: Material
    hair: Material
    upper: Material
    lower: Material
    shoe: Material
    extra: Material
    sleeves: float
    legs: float
    bare_torso: bool
    footwear: str  # shoe, sock or none
    hair_style: str  # none, short, long or bun
    hat: bool
    glasses: bool
    skirt: bool


@dataclass(frozen=True)
class Frames:
    """Where a person stands and how it is turned: the pelvis' place and frame, its height, how thick it is."""

    place: np.ndarray
    frame: np.ndarray
    height: float
    girth: float = field(default=1.0)


def pick(rng: np.random.Generator, options: Sequence[T], shares: Sequence[float]) -> T:
    """What rng.choice(options, p=shares) takes, without the time that it needs to make arrays of them."""
    *_, total = edges = list(accumulate(shares))
    return options[bisect([edge / total for edge in edges], rng.random())]


def dress(rng: np.random.Generator) -> Looks:
    skin_rgb = np.array(SKINS[rng.integers(len(SKINS))]) / 255 * rng.uniform(0.9, 1.05)
    skin = Material(skin_rgb, skin_rgb, shine=0.2)
    hair_rgb = np.array(HAIRS[rng.integers(len(HAIRS))]) / 255 * rng.uniform(0.8, 1.1)
    return Looks(
        skin=skin,
        hair=Material(hair_rgb, hair_rgb * 0.6, "stripes", 14, shine=0.25),
        upper=_cloth(rng),
        lower=_cloth(rng),
        shoe=_cloth(rng, plain=True),
        extra=_cloth(rng, plain=True),
        sleeves=pick(rng, [0.0, 0.6, 1.0, 1.5, 2.0], [0.2, 0.3, 0.1, 0.1, 0.3]),
        legs=pick(rng, [0.3, 0.7, 1.3, 2.0], [0.15, 0.25, 0.1, 0.5]),
        bare_torso=bool(rng.random() < 0.12),
        footwear=pick(rng, ["shoe", "sock", "none"], [0.7, 0.12, 0.18]),
        hair_style=pick(rng, ["none", "short", "long", "bun"], [0.1, 0.45, 0.3, 0.15]),
        hat=bool(rng.random() < 0.15),
        glasses=bool(rng.random() < 0.15),
        skirt=bool(rng.random() < 0.18),
    )


def _cloth(rng: np.random.Generator, plain: bool = False) -> Material:
    first, second = rng.random(3) ** rng.uniform(0.5, 2), rng.random(3)
    pattern = "plain" if plain else pick(rng, ["plain", "rings", "stripes", "checks"], [0.55, 0.2, 0.15, 0.1])
    return Material(first, second, pattern, float(rng.integers(3, 9)), shine=float(rng.uniform(0, 0.3)))


def pose(rng: np.random.Generator, at: Frames) -> Person:
    """A person with random joint angles and clothes."""
    looks, h, girth = dress(rng), at.height, at.girth
    joints: dict[str, np.ndarray] = {}
    pieces: list[Piece] = []
    spine = at.frame @ turn(x=rng.uniform(-10, 40) * rng.random(), y=rng.normal(0, 15), z=rng.normal(0, 8))
    neck = at.place + spine @ np.array([0, 0.29 * h, 0])
    pieces += _torso(at, spine, neck, looks)
    joints |= _head(rng, spine, neck, h, looks, pieces)
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        shoulder = neck + spine @ np.array([sign * 0.112 * h * girth**0.3, -0.028 * h, 0])
        joints |= _arm(rng, side, sign, spine, shoulder, h * girth**0.2, girth, looks, pieces)
        hip = at.place + at.frame @ np.array([sign * 0.055 * h * girth**0.5, 0, 0])
        joints |= _leg(rng, side, sign, at.frame, hip, h, girth, looks, pieces)
    if looks.skirt:
        pieces.append(_skirt(at, joints, looks))
    return Person(tuple(pieces), joints)


def _torso(at: Frames, spine: np.ndarray, neck: np.ndarray, looks: Looks) -> list[Piece]:
    h, girth = at.height, at.girth
    top = Band(-9, "Torso", looks.skin) if looks.bare_torso else Band(-9, "Upper_Clothing", looks.upper)
    flat = np.diag([1.0, 1.0, 1.55]) @ spine.T
    waist, chest = at.place + spine @ np.array([0, 0.06 * h, 0]), neck - spine @ np.array([0, 0.085 * h, 0])
    across = spine @ np.array([0.085 * h, 0, 0])
    under = neck - spine @ np.array([0, 0.035 * h, 0])
    hips = at.frame @ np.array([0.04 * h * girth**0.5, 0.005 * h, 0])
    lower = (Band(-9, "Lower_Clothing", looks.lower),)
    flat_hips = np.diag([1.0, 1.0, 1.3]) @ at.frame.T
    upper_joints = tuple(f"{side}_shoulder" for side in SIDES)
    hip_joints = tuple(f"{side}_hip" for side in SIDES)
    return [
        Piece(solid(waist, chest, 0.076 * h * girth, 0.088 * h * girth, flat), (top,), upper_joints + hip_joints),
        Piece(solid(under - across, under + across, 0.035 * h, 0.035 * h), (top,), upper_joints),
        Piece(
            solid(at.place - hips, at.place + hips, 0.068 * h * girth, 0.068 * h * girth, flat_hips), lower, hip_joints
        ),
    ]


def _head(
    rng: np.random.Generator, spine: np.ndarray, neck: np.ndarray, h: float, looks: Looks, pieces: list[Piece]
) -> dict[str, np.ndarray]:
    frame = spine @ turn(x=rng.normal(0, 14), y=rng.normal(0, 25), z=rng.normal(0, 10))
    skin = (Band(-9, "Face_Neck", looks.skin),)
    radii = (0.046 * h, 0.066 * h, 0.056 * h)
    centre = neck + spine @ np.array([0, 0.035 * h, 0]) + frame @ np.array([0, 0.07 * h, 0.012 * h])

    def on_head(direction: tuple[float, float, float], out: float = 1.0) -> np.ndarray:
        unit = np.array(direction) / np.linalg.norm(direction)
        return np.asarray(centre + frame @ (unit * np.array(radii) * out))

    tip = on_head((0, -0.1, 1), 1.13)
    pieces.append(Piece(solid(neck - spine @ np.array([0, 0.02 * h, 0]), centre, 0.032 * h, 0.03 * h), skin))
    face = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
    pieces.append(Piece(ellipsoid(centre, frame, radii), skin, face, face=True, glasses=looks.glasses))
    pieces.append(Piece(solid(on_head((0, 0.12, 1), 0.97), tip, 0.004 * h, 0.009 * h), skin, face))
    joints = {"nose": tip + frame @ np.array([0, 0, 0.009 * h])}
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        joints[f"{side}_eye"] = on_head(EYES[side])
        ear = on_head((sign, -0.05, -0.12), 1.02)
        pieces.append(Piece(ellipsoid(ear, frame, (0.008 * h, 0.018 * h, 0.012 * h)), skin, (f"{side}_ear",)))
        joints[f"{side}_ear"] = ear + frame @ np.array([sign * 0.008 * h, 0, 0])
    hair = (Band(-9, "Hair", looks.hair),)
    if looks.hair_style != "none":
        back = centre + frame @ np.array([0, 0.016 * h, -0.014 * h])
        pieces.append(Piece(ellipsoid(back, frame, (0.05 * h, 0.062 * h, 0.054 * h)), hair))
    if looks.hair_style == "long":
        low = centre + frame @ np.array([0, -0.02 * h, -0.03 * h])
        end = low - spine @ np.array([0, rng.uniform(0.06, 0.16) * h, 0.02 * h])
        wide = np.diag([1.0, 1.0, 1.8]) @ frame.T
        pieces.append(Piece(solid(low, end, 0.05 * h, 0.042 * h, wide), hair))
    if looks.hair_style == "bun":
        bun = centre + frame @ np.array([0, 0.06 * h, -0.05 * h])
        pieces.append(Piece(solid(bun, bun, 0.026 * h, 0.026 * h), hair))
    if looks.hat:
        brim = centre + frame @ np.array([0, 0.034 * h, 0])
        apparel = (Band(-9, "Apparel", looks.extra),)
        pieces.append(
            Piece(
                ellipsoid(brim + frame @ np.array([0, 0.014 * h, -0.006 * h]), frame, (0.055 * h, 0.05 * h, 0.062 * h)),
                apparel,
            )
        )
        pieces.append(
            Piece(
                ellipsoid(brim + frame @ np.array([0, 0, 0.03 * h]), frame, (0.048 * h, 0.006 * h, 0.06 * h)), apparel
            )
        )
    return joints


EYES = {"left": (0.42, 0.16, 0.9), "right": (-0.42, 0.16, 0.9)}
"""Directions of the eyes from the head's centre, in its stretched space."""


def _arm(
    rng: np.random.Generator,
    side: str,
    sign: float,
    spine: np.ndarray,
    shoulder: np.ndarray,
    h: float,
    girth: float,
    looks: Looks,
    pieces: list[Piece],
) -> dict[str, np.ndarray]:
    raised = rng.random() < 0.3
    out = rng.uniform(60, 165) if raised else rng.uniform(3, 60)
    frame = spine @ turn(x=-rng.uniform(-35, 100) * rng.random(), z=sign * out) @ turn(y=rng.uniform(-70, 70))
    down = np.array([0.0, -1.0, 0.0])
    bend = rng.choice([rng.uniform(0, 25), rng.uniform(20, 140)])
    forearm = frame @ turn(x=-bend)
    elbow = shoulder + frame @ down * 0.172 * h
    wrist = elbow + forearm @ down * 0.145 * h
    finger = wrist + forearm @ turn(x=rng.uniform(-40, 40), z=rng.uniform(-20, 20)) @ down * 0.075 * h
    name = side.capitalize()
    thick = girth**0.5 * h
    sleeves = 0.0 if looks.bare_torso else looks.sleeves
    upper_arm = _covered(f"{name}_Upper_Arm", looks.skin, sleeves, "Upper_Clothing", looks.upper)
    lower_arm = _covered(f"{name}_Lower_Arm", looks.skin, sleeves - 1, "Upper_Clothing", looks.upper)
    hand = (Band(-9, f"{name}_Hand", looks.skin),)
    joints = {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}
    shoulder_name, elbow_name, wrist_name = joints
    pieces.append(Piece(solid(shoulder, elbow, 0.034 * thick, 0.026 * thick), upper_arm, (shoulder_name, elbow_name)))
    pieces.append(Piece(solid(elbow, wrist, 0.0265 * thick, 0.018 * thick), lower_arm, (elbow_name, wrist_name)))
    pieces.append(Piece(solid(wrist, finger, 0.0185 * thick, 0.016 * thick), hand, (wrist_name,)))
    return joints


def _leg(
    rng: np.random.Generator,
    side: str,
    sign: float,
    pelvis: np.ndarray,
    hip: np.ndarray,
    h: float,
    girth: float,
    looks: Looks,
    pieces: list[Piece],
) -> dict[str, np.ndarray]:
    lifted = rng.random() < 0.3
    forward = rng.uniform(10, 95) if lifted else rng.uniform(-25, 25)
    frame = pelvis @ turn(x=-forward, z=sign * rng.uniform(-3, 32)) @ turn(y=sign * rng.uniform(-10, 35))
    shin = frame @ turn(x=rng.uniform(20, 110) if lifted else rng.uniform(0, 35))
    down = np.array([0.0, -1.0, 0.0])
    knee = hip + frame @ down * 0.24 * h
    ankle = knee + shin @ down * 0.235 * h
    sole = shin @ turn(x=rng.uniform(-10, 30), y=sign * rng.uniform(0, 20))
    heel, toe = ankle + sole @ np.array([0, -0.018, -0.016]) * h, ankle + sole @ np.array([0, -0.024, 0.098]) * h
    name = side.capitalize()
    thick = girth**0.6 * h
    thigh = _covered(f"{name}_Upper_Leg", looks.skin, looks.legs, "Lower_Clothing", looks.lower)
    calf = _covered(f"{name}_Lower_Leg", looks.skin, looks.legs - 1, "Lower_Clothing", looks.lower)
    part, material = {
        "shoe": (f"{name}_Shoe", looks.shoe),
        "sock": (f"{name}_Sock", looks.extra),
        "none": (f"{name}_Foot", looks.skin),
    }[looks.footwear]
    if looks.footwear != "none" and looks.legs < 2:
        calf = (*calf, Band(0.72, f"{name}_Sock", looks.extra))
    joints = {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}
    hip_name, knee_name, ankle_name = joints
    foot = (Band(-9, part, material),)
    pieces.append(Piece(solid(hip, knee, 0.056 * thick, 0.037 * thick), thigh, (hip_name, knee_name)))
    pieces.append(Piece(solid(knee, ankle, 0.0375 * thick, 0.024 * thick), calf, (knee_name, ankle_name)))
    pieces.append(Piece(solid(heel, toe, 0.024 * h, 0.017 * h), foot, (ankle_name,)))
    return joints


def _skirt(at: Frames, joints: dict[str, np.ndarray], looks: Looks) -> Piece:
    """From the hips to a little above the middle between the knees."""
    h = at.height
    hem = (joints["left_knee"] + joints["right_knee"]) / 2
    end = at.place + 0.8 * (hem - at.place)
    axis = (end - at.place) / np.linalg.norm(end - at.place)
    flat_hem = np.eye(3) + 4 * np.outer(axis, axis)
    bands = (Band(-9, "Lower_Clothing", looks.lower),)
    cone = solid(at.place, end, 0.075 * h * at.girth, 0.12 * h * at.girth, flat_hem)
    return Piece(cone, bands, ("left_hip", "right_hip"))


def _covered(bare: str, skin: Material, reach: float, cloth: str, material: Material) -> tuple[Band, ...]:
    """A limb covered by cloth from its start up to `reach` (0 … 1) of its length."""
    if reach <= 0:
        return (Band(-9, bare, skin),)
    covered = Band(-9, cloth, material)
    return (covered,) if reach >= 1 else (covered, Band(reach, bare, skin))
