"""Practice pictures: keypoints, parts, depth and normals must tell one story, to the pixel."""

from functools import cache

import numpy as np
import pytest

from training.labels.sets import ClassList
from training.practice.crowd import crowd
from training.practice.geometry import Camera, Solid, Solids, ellipsoid, solid, turn
from training.practice.scene import Rendered, coco17, render

PICTURES = 12
CLASSES = ClassList.load("sapiens28").names
FACE = {"Face_Neck", "Apparel", "Upper_Lip", "Lower_Lip"}
CLOTHES = {"Upper_Clothing", "Lower_Clothing"}


@cache
def picture(index: int) -> Rendered:
    return render(5, index)


def parts_of(joint: str) -> set[str]:
    """Classes that may be seen at a visible joint: its own side's limbs, or the clothes over them."""
    side, _, name = joint.partition("_")
    own = {
        "shoulder": ("Upper_Arm",), "elbow": ("Upper_Arm", "Lower_Arm"), "wrist": ("Lower_Arm", "Hand"),
        "hip": ("Upper_Leg",), "knee": ("Upper_Leg", "Lower_Leg"), "ankle": ("Lower_Leg", "Foot", "Shoe", "Sock"),
    }.get(name)  # fmt: skip
    return FACE if own is None else {f"{side.capitalize()}_{part}" for part in own} | CLOTHES | {"Torso"}


def test_keypoints_and_maps_share_their_pixels() -> None:
    camera = Camera(33, 24, 40.0)
    depth = np.random.default_rng(0).uniform(1, 5, (33, 24))
    rows, columns = np.indices(depth.shape)
    np.testing.assert_allclose(camera.project(camera.unproject(depth)), np.stack([columns, rows], -1), atol=1e-9)


def test_a_visible_joint_lies_on_its_part_of_its_person() -> None:
    checked = 0
    for index in range(PICTURES):
        for person in picture(index).people:
            for name, (x, y, seen) in zip(coco17().names, person.keypoints, strict=True):
                if seen == 2:
                    row, column = round(y), round(x)
                    assert person.mask[row, column]
                    assert CLASSES[picture(index).parts[row, column]] in parts_of(name), name
                    checked += 1
    assert checked > 100


def test_a_visible_joint_is_at_most_a_limb_behind_the_surface() -> None:
    """Depth at the keypoint's pixel against what the skeleton says: both in metres from one camera."""
    rng = np.random.default_rng([5, 0])
    shape = int(rng.integers(208, 305)), int(rng.integers(160, 289))
    camera = Camera(*shape, float(rng.uniform(0.9, 1.8)) * max(shape))
    _, people = crowd(rng, camera)
    assert (picture(0).camera, len(people)) == (camera, len(picture(0).people))
    for person, instance in zip(people, picture(0).people, strict=True):
        for name, (x, y, seen) in zip(coco17().names, instance.keypoints, strict=True):
            if seen == 2:
                behind = -person.joints[name][2] - picture(0).depth[round(y), round(x)]
                assert -0.03 < behind < 0.25, name


def test_people_parts_depth_and_normals_cover_the_same_pixels() -> None:
    for index in range(PICTURES):
        shown = picture(index)
        people = np.isfinite(shown.depth)
        assert ((shown.parts > 0) == people).all()
        assert (np.isfinite(shown.normals).all(axis=2) == people).all()
        assert (sum(person.mask.astype(int) for person in shown.people) == people).all()
        assert np.allclose(np.linalg.norm(shown.normals[people], axis=1), 1, atol=1e-5)


def test_normals_agree_with_finite_differences_of_the_depth() -> None:
    errors = []
    for index in range(PICTURES):
        shown = picture(index)
        points = shown.camera.unproject(shown.depth.astype(np.float64))
        across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
        measured = np.cross(down, across)
        measured /= np.linalg.norm(measured, axis=2, keepdims=True)
        cosine = (measured * shown.normals[1:-1, 1:-1]).sum(axis=2)
        errors.append(np.degrees(np.arccos(np.clip(cosine[np.isfinite(cosine)], -1, 1))))
    pooled = np.concatenate(errors)
    assert np.median(pooled) < 2  # thin limbs bend within a pixel; creases and outlines are off by more
    assert (pooled < 15).mean() > 0.8


def test_what_is_seen_faces_the_camera() -> None:
    for index in range(PICTURES):
        shown = picture(index)
        rays = shown.camera.unproject(np.ones_like(shown.depth))
        facing = -(rays * shown.normals).sum(axis=2)
        assert np.nanmin(facing) > -1e-6


def test_a_picture_depends_on_seed_and_number_alone() -> None:
    again = render(5, 3)
    assert (again.image == picture(3).image).all()
    assert (again.parts == picture(3).parts).all()
    assert render(6, 3).image.shape != again.image.shape or (render(6, 3).image != again.image).any()


def test_pictures_vary() -> None:
    shown = [picture(index) for index in range(PICTURES)]
    assert {len(one.people) for one in shown} >= {1, 2}
    assert len({one.image.shape for one in shown}) == PICTURES
    present = {CLASSES[number] for one in shown for number in np.unique(one.parts)}
    assert len(present) >= 22, set(CLASSES) - present
    states = {state for one in shown for person in one.people for state in person.keypoints[:, 2]}
    assert states == {0, 1, 2}


def test_place_alone_does_not_tell_a_person() -> None:
    """Calling a pixel a person wherever that is the more likely answer over all pictures finds little of them."""
    people = np.stack([np.isfinite(render(9, index, size=(96, 72)).depth) for index in range(40)])
    guess = np.broadcast_to(people.mean(axis=0) > 0.4, people.shape)
    assert (guess & people).sum() / (guess | people).sum() < 0.4


# -- the solid ---------------------------------------------------------------------------------------------------------


def solids() -> list[Solid]:
    frame = turn(x=20, y=40, z=10)
    flat = np.diag([1.0, 1.0, 1.6]) @ frame.T
    return [
        solid(np.array([-0.4, 0.1, -3.0]), np.array([0.5, -0.3, -2.6]), 0.25, 0.1),
        solid(np.array([0.0, 0.0, -2.0]), np.array([0.1, 0.05, -4.0]), 0.2, 0.4),
        solid(np.array([-0.2, -0.4, -3.0]), np.array([0.2, 0.5, -3.2]), 0.3, 0.35, flat),
        ellipsoid(np.array([0.2, 0.1, -3.0]), frame, (0.3, 0.5, 0.2)),
        solid(np.array([0.0, 0.0, -3.0]), np.array([0.05, 0.0, -3.0]), 0.5, 0.1),
    ]


def inside(shape: Solid, points: np.ndarray) -> np.ndarray:
    """By brute force: in one of many balls along the axis."""
    local = (points - shape.start) @ shape.stretch.T
    axis = shape.stretch @ (shape.end - shape.start)
    steps = np.linspace(0, 1, 401)
    radii = shape.r0 + steps * (shape.r1 - shape.r0)
    return np.array([(np.linalg.norm(p - steps[:, None] * axis, axis=1) < radii).any() for p in local])


@pytest.mark.parametrize("number", range(5))
def test_rays_enter_a_solid_where_a_march_along_them_does(number: int) -> None:
    shape, camera = solids()[number], Camera(24, 24, 40.0)
    depth, rays = Solids(solids()).hit(number, *camera.slopes()), camera.unproject(np.ones((24, 24)))
    assert 30 < np.isfinite(depth).sum() < 560
    steps = np.arange(0.5, 6, 0.01)
    for row, column in np.random.default_rng(0).integers(0, 24, (40, 2)):
        within = inside(shape, steps[:, None] * rays[row, column])
        marched = steps[within.argmax()] if within.any() else np.inf
        if np.isfinite(marched) or np.isfinite(depth[row, column]):
            if not np.isfinite(marched):  # grazed between two steps
                assert not inside(shape, (depth[row, column] - 1e-3) * rays[row, column][None])[0]
                continue
            assert depth[row, column] == pytest.approx(marched, abs=0.011)


@pytest.mark.parametrize("number", range(5))
def test_normals_point_out_of_the_solid(number: int) -> None:
    shape, camera = solids()[number], Camera(40, 40, 36.0)
    several = Solids(solids())
    depth = several.hit(number, *camera.slopes())
    seen = np.isfinite(depth)
    points = camera.unproject(depth)[seen][::7]
    numbers = np.full(len(points), number)
    normals = several.normals(numbers, several.local(numbers, points))
    assert not inside(shape, points + 2e-3 * normals).any()
    assert inside(shape, points - 2e-3 * normals).mean() > 0.98
    top, left, bottom, right = several.bounds(camera)[number]
    outside = seen.copy()
    outside[top:bottom, left:right] = False
    assert not outside.any()
