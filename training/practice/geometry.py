"""A pinhole camera and the one solid that people are made of: a ball whose radius changes as it moves along a line.

Camera frame: x right, y up, z towards the camera, which sits at the origin; what it sees has negative z. Depth is the
distance along -z. A ray is o + t·(X, Y, -1), so its parameter t is the depth.
"""

from dataclasses import dataclass

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

    def rays(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """Directions of the rays through a rectangle's pixel centres: (rows, columns, 3), z = -1."""
        x = (np.arange(left, right) - (self.width - 1) / 2) / self.focal
        y = ((self.height - 1) / 2 - np.arange(top, bottom)) / self.focal
        rays = np.empty((len(y), len(x), 3))
        rays[..., 0], rays[..., 1], rays[..., 2] = x[None], y[:, None], -1.0
        return rays

    def unproject(self, depth: np.ndarray) -> np.ndarray:
        """(H, W) depths → (H, W, 3) points."""
        return self.rays(0, 0, self.height, self.width) * depth[..., None]


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

    def bounds(self, camera: Camera) -> tuple[int, int, int, int]:
        """A rectangle of pixels (top, left, bottom, right) outside of which the solid is not seen."""
        reach = max(self.r0, self.r1) * float(np.linalg.norm(np.linalg.inv(self.stretch), 2))
        centres = np.stack([self.start, self.end])
        distance = np.maximum(-centres[:, 2] - reach, 0.05)
        pixels = camera.project(centres)
        slack = camera.focal * reach / distance * (1 + np.abs(centres[:, :2] / centres[:, 2:]).max(axis=1)) + 1
        low, high = (pixels - slack[:, None]).min(axis=0), (pixels + slack[:, None]).max(axis=0)
        left, top = np.clip(np.floor(low), 0, [camera.width, camera.height]).astype(int)
        right, bottom = np.clip(np.ceil(high) + 1, 0, [camera.width, camera.height]).astype(int)
        return int(top), int(left), int(bottom), int(right)

    def hit(self, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rays (…, 3) from the camera enter the solid: depth (…), inf where they miss, and the point (…, 3)
        in the stretched space, seen from `start`.

        The side of the solid is the cone ρ·cos α + y·sin α = r0 that touches both end balls, with y along the axis,
        ρ away from it and sin α = (r0 - r1) / length.
        """
        origin, direction = self.stretch @ -self.start, rays @ self.stretch.T
        axis = self.stretch @ (self.end - self.start)
        length = float(np.linalg.norm(axis))
        squared = (direction**2).sum(axis=-1)
        toward = direction @ origin
        depth = _ball(squared, toward, float(origin @ origin), self.r0)
        if length > abs(self.r0 - self.r1):
            offset = origin - axis
            depth = np.minimum(depth, _ball(squared, direction @ offset, float(offset @ offset), self.r1))
            axis /= length
            sine = (self.r0 - self.r1) / length
            cosine2 = 1 - sine**2
            y0, dy = float(origin @ axis), direction @ axis
            a = cosine2 * squared - dy**2
            b = cosine2 * toward - y0 * dy + self.r0 * sine * dy
            c = cosine2 * float(origin @ origin) - y0**2 + 2 * self.r0 * sine * y0 - self.r0**2
            with np.errstate(invalid="ignore", divide="ignore"):
                root = np.sqrt(b**2 - a * c)
                for t in ((-b - root) / a, (-b + root) / a):
                    y = y0 + t * dy
                    on_side = (y >= self.r0 * sine) & (y <= length + self.r1 * sine) & (t > 0)
                    depth = np.where(on_side & (t < depth), t, depth)
        with np.errstate(invalid="ignore"):
            return depth, origin + depth[..., None] * direction

    def along(self, local: np.ndarray) -> np.ndarray:
        """How far along the axis points (n, 3) of the stretched space lie: 0 at `start`, 1 at `end`."""
        axis = self.stretch @ (self.end - self.start)
        return np.asarray(local @ axis / max(float(axis @ axis), 1e-12))

    def normals(self, local: np.ndarray) -> np.ndarray:
        """Unit normals (n, 3), camera frame, at surface points of the stretched space."""
        axis = self.stretch @ (self.end - self.start)
        length = float(np.linalg.norm(axis))
        outward = local
        if length > abs(self.r0 - self.r1):
            sine = (self.r0 - self.r1) / length
            y = local @ (axis / length)
            at = np.clip((y - self.r0 * sine) / (length + (self.r1 - self.r0) * sine), 0, 1)
            outward = local - at[:, None] * axis  # from the centre of the ball that touches the surface here
        normal = outward @ self.stretch
        return np.asarray(normal / np.linalg.norm(normal, axis=1, keepdims=True))


def solid(start: np.ndarray, end: np.ndarray, r0: float, r1: float, stretch: np.ndarray | None = None) -> Solid:
    return Solid(start, end, r0, r1, np.eye(3) if stretch is None else stretch)


def ellipsoid(centre: np.ndarray, frame: np.ndarray, radii: tuple[float, float, float]) -> Solid:
    """frame: (3, 3), columns are the ellipsoid's axes in the camera frame."""
    return Solid(centre, centre, 1.0, 1.0, frame.T / np.array(radii)[:, None])


def _ball(squared: np.ndarray, toward: np.ndarray, away: float, radius: float) -> np.ndarray:
    """Depth at which rays enter a ball, inf where they miss. toward: ray · centre's offset; away: its square."""
    under = toward**2 - squared * (away - radius**2)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(under >= 0, (-toward - np.sqrt(under)) / squared, np.inf))


def turn(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Rotation about z, then x, then y, in degrees: (3, 3), Ry·Rx·Rz."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians([x, y, z])), np.sin(np.radians([x, y, z]))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z)
