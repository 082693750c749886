"""A pinhole camera and the one solid that people are made of: a ball whose radius changes as it moves along a line.

Camera frame: x right, y up, z towards the camera, which sits at the origin; what it sees has negative z. Depth is the
distance along -z. A ray is o + t·(X, Y, -1), so its parameter t is the depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np


@dataclass(frozen=True)
class Camera:
    """height, width: pixels. focal: in pixels. The optical axis meets the middle of the picture."""

    height: int
    width: int
    focal: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """(…, 3) points → (…, 2) pixels x, y; the first pixel's centre is (0, 0)."""
        across = (self.width - 1) / 2 + self.focal * points[..., 0] / -points[..., 2]
        down = (self.height - 1) / 2 - self.focal * points[..., 1] / -points[..., 2]
        return np.stack([across, down], axis=-1)

    def slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """x of every column's rays (columns,) and y of every row's (rows,): the ray through a pixel is (x, y, -1)."""
        x = (np.arange(self.width) - (self.width - 1) / 2) / self.focal
        y = ((self.height - 1) / 2 - np.arange(self.height)) / self.focal
        return x, y

    def unproject(self, depth: np.ndarray) -> np.ndarray:
        """(H, W) depths → (H, W, 3) points."""
        x, y = self.slopes()
        return np.stack([x * depth, y[:, None] * depth, -depth], axis=-1)


@dataclass(frozen=True)
class Solid:
    """A ball that moves from `start` to `end` (camera frame) while its radius goes from `r0` to `r1`.

    The radii hold in a space that `stretch`, (3, 3), maps camera vectors to: the identity for limbs; for flat bodies
    and ellipsoids it turns into the body's axes and divides by their proportions.
    """

    start: np.ndarray
    end: np.ndarray
    r0: float
    r1: float
    stretch: np.ndarray

    def moved(self, by: np.ndarray) -> "Solid":
        return Solid(self.start + by, self.end + by, self.r0, self.r1, self.stretch)


class Solids:
    """Solids in arrays, so that what is small for each of them is computed for all at once.

    The side of a solid is the cone ρ·cos α + y·sin α = r0 that touches both end balls, with y along the axis, ρ away
    from it and sin α = (r0 - r1) / length. Where an end ball holds the other there is no side, and the start's counts.

    Balls and cone are quadrics: a·t² + 2b·t + c at depth t of a ray, below 0 inside. With the rays (x, y, -1), a, b and
    b² - a·c are polynomials of x and y, kept as matrices M for (1, y, y²) · M · (1, x, x²).
    """

    def __init__(self, solids: Sequence[Solid]) -> None:
        self._ends = np.stack([[one.start, one.end] for one in solids])
        self._r0, self._r1 = np.array([(one.r0, one.r1) for one in solids]).T
        self._stretch = np.stack([one.stretch for one in solids])
        self._axis = _times(self._stretch, self._ends[:, 1] - self._ends[:, 0])
        self._length = np.sqrt(_dot(self._axis, self._axis))
        self._has_side = self._length > np.abs(self._r0 - self._r1)
        length = np.where(self._has_side, self._length, np.inf)
        self._sine = (self._r0 - self._r1) / length
        back = self._stretch.transpose(0, 2, 1)  # a vector · the stretched ray is back @ vector · the ray
        unit, self._metric = self._axis / length[:, None], back @ self._stretch
        start, end = -_times(self._stretch, self._ends[:, 0]), -_times(self._stretch, self._ends[:, 1])
        toward, away = _times(back, start), _dot(start, start)
        self._rise, self._y0 = _times(back, unit), _dot(start, unit)
        cosine2, lift = 1 - self._sine**2, self._r0 * self._sine
        ball0 = _quadric(self._metric, toward, away - self._r0**2)
        ball1 = _quadric(self._metric, _times(back, end), _dot(end, end) - self._r1**2)
        side = _quadric(
            cosine2[:, None, None] * self._metric - _outer(self._rise),
            cosine2[:, None] * toward - (self._y0 - lift)[:, None] * self._rise,
            cosine2 * away - self._y0**2 + 2 * lift * self._y0 - self._r0**2,
        )
        self._quadrics = np.stack([ball0, ball1, side], axis=2)
        self._low, self._high = lift, self._length + self._r1 * self._sine  # the side's ends, along the axis

    def bounds(self, camera: Camera) -> np.ndarray:
        """Rectangles of pixels (n, 4), top, left, bottom, right, outside of which the solids are not seen.

        A solid is the hull of its end balls, and planes X = slope·-Z through the camera touch a ball where slope²·a +
        2·slope·b + c = 0; likewise for Y.
        """
        radii = np.stack([self._r0, self._r1], axis=1)
        spread = np.linalg.inv(self._metric)[:, None] * radii[..., None, None] ** 2  # the balls' dual quadrics
        across, z = self._ends[..., :2], self._ends[..., 2:]
        a, b = z**2 - spread[..., 2:, 2], across * z - spread[..., :2, 2]
        half = np.sqrt(np.maximum(b**2 - a * (across**2 - spread[..., [0, 1], [0, 1]]), 0))
        ahead = (a > 0).all(axis=1)  # what reaches beside the camera may be seen anywhere
        a = np.where(a > 0, a, 1)
        low, high = ((-b - half) / a).min(axis=1), ((-b + half) / a).max(axis=1)
        size, down = np.array([camera.width, camera.height]), np.array([1, -1])
        edges = (size - 1) / 2 + camera.focal * down * np.stack([low, high])
        first, last = np.floor(edges.min(axis=0)), np.ceil(edges.max(axis=0)) + 1
        left_top = np.where(ahead, np.clip(first, 0, size), 0)
        right_bottom = np.where(ahead, np.clip(last, 0, size), size)
        return np.hstack([left_top[:, ::-1], right_bottom[:, ::-1]]).astype(int)

    def hit(self, number: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Depths (rows, columns) at which rays (x, y, -1) from the camera enter a solid, nan where they miss."""
        quadrics = self._quadrics[number] if self._has_side[number] else self._quadrics[number, :, :1]
        with np.errstate(invalid="ignore", divide="ignore"):
            a, b, square = np.stack([y**0, y, y**2], axis=1) @ quadrics @ np.stack([x**0, x, x**2])
            depths = (-b - np.sqrt(square)) / a
            if len(depths) == 1:
                return np.asarray(depths[0])
            side = depths[2]
            across, up, near = self._rise[number]
            height = self._y0[number] + side * (across * x + (up * y - near)[:, None])
            side[(height < self._low[number]) | (height > self._high[number]) | (side <= 0)] = np.nan
            return np.fmin.reduce(depths)

    def local(self, number: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) of the camera frame in the stretched spaces of solids (n,), seen from their starts."""
        return _times(self._stretch[number], points - self._ends[number, 0])

    def along(self, number: np.ndarray, local: np.ndarray) -> np.ndarray:
        """How far along their solids' axes points (n, 3) of the stretched spaces lie: 0 at `start`, 1 at `end`."""
        return np.asarray(_dot(local, self._axis[number]) / np.maximum(self._length**2, 1e-12)[number])

    def normals(self, number: np.ndarray, local: np.ndarray) -> np.ndarray:
        """Unit normals (n, 3), camera frame, at surface points of the stretched spaces."""
        span = np.where(self._has_side, self._high - self._low, np.inf)
        y = self.along(number, local) * self._length[number]
        at = np.clip((y - self._low[number]) / span[number], 0, 1)
        outward = local - at[:, None] * self._axis[number]  # from the centre of the ball that touches the surface here
        normal = np.einsum("ni,nij->nj", outward, self._stretch[number])
        return np.asarray(normal / np.sqrt(_dot(normal, normal))[:, None])


def solid(start: np.ndarray, end: np.ndarray, r0: float, r1: float, stretch: np.ndarray | None = None) -> Solid:
    return Solid(start, end, r0, r1, np.eye(3) if stretch is None else stretch)


def ellipsoid(centre: np.ndarray, frame: np.ndarray, radii: tuple[float, float, float]) -> Solid:
    """frame: (3, 3), columns are the ellipsoid's axes in the camera frame."""
    return Solid(centre, centre, 1.0, 1.0, frame.T / np.array(radii)[:, None])


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("nij,nj->ni", matrices, vectors))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("ni,ni->n", a, b))


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :, None] * vectors[:, None]


def _quadric(square: np.ndarray, linear: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Polynomials a, b and b² - a·c of quadrics with a = ray·square·ray and b = linear·ray: (n, 3, 3, 3)."""
    a, b = _polynomial(square), np.zeros_like(square)
    b[:, 0, 0], b[:, 0, 1], b[:, 1, 0] = -linear[:, 2], linear[:, 0], linear[:, 1]
    return np.stack([a, b, _polynomial(_outer(linear) - square * constant[:, None, None])], axis=1)


def _polynomial(form: np.ndarray) -> np.ndarray:
    """ray·form·ray as polynomials of the rays' x and y, form (n, 3, 3) symmetric."""
    terms = np.zeros_like(form)
    terms[:, 0, 0], terms[:, 1, 1] = form[:, 2, 2], 2 * form[:, 0, 1]
    terms[:, 0, 1], terms[:, 0, 2] = -2 * form[:, 0, 2], form[:, 0, 0]
    terms[:, 1, 0], terms[:, 2, 0] = -2 * form[:, 1, 2], form[:, 1, 1]
    return terms


def turn(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Rotation about z, then x, then y, in degrees: (3, 3), Ry·Rx·Rz."""
    (sx, cx), (sy, cy), (sz, cz) = ((sin(radians(angle)), cos(radians(angle))) for angle in (x, y, z))
    return np.array(
        [
            [cy * cz + sy * sx * sz, sy * sx * cz - cy * sz, sy * cx],
            [cx * sz, cx * cz, -sx],
            [cy * sx * sz - sy * cz, sy * sz + cy * sx * cz, cy * cx],
        ]
    )
