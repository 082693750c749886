"""Practice people whose true labels are handed to the composer as if a perfect model had said them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.config import TASKS
from training.labels.sets import ClassList, KeypointSet
from training.practice.scene import Rendered, render
from training.predict.compose import Composer, Prediction
from training.tasks.view import View, fit, turn_vectors, warp_labels, warp_points

SIZE = (256, 192)
COCO, SAPIENS = KeypointSet.load("coco17"), ClassList.load("sapiens28")


@dataclass(frozen=True)
class Scene:
    rendered: Rendered
    boxes: np.ndarray


def scene(seed: int, index: int = 0, size: tuple[int, int] = (320, 400)) -> Scene:
    """A practice picture and the boxes (n, 5) of its people who are larger than 20 px."""
    rendered = render(seed, index, size=size)
    boxes = [_box(person.mask) for person in rendered.people if person.mask.sum() > 400]
    return Scene(rendered, np.array(boxes, np.float32).reshape(-1, 5))


def true_outputs(made: Rendered, number: int, view: View) -> dict[str, np.ndarray]:
    """What a perfect model would say of person `number` through a view, at the view's own resolution."""
    person = made.people[number]
    at = warp_points(person.keypoints[:, :2], view)
    shape = (SIZE[0] // 4, SIZE[1] // 4)
    step = [(SIZE[1] - 1) / (shape[1] - 1), (SIZE[0] - 1) / (shape[0] - 1)]
    x, y = np.arange(shape[1])[None] * step[0], np.arange(shape[0])[:, None] * step[1]
    heat = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 8.0**2)) for px, py in at]
    parts = warp_labels(made.parts, view, 0)
    logits = (parts[None] == np.arange(len(SAPIENS.names))[:, None, None]).astype(np.float32)
    depth = np.nan_to_num(warp_labels(made.depth, view, 0.0))[None]
    normals = turn_vectors(np.nan_to_num(warp_labels(made.normals, view, 0.0)), view).transpose(2, 0, 1)
    return {
        "pose": np.array(heat, np.float32),
        "parts": logits,
        "depth": depth.astype(np.float32),
        "normals": np.ascontiguousarray(normals, np.float32),
    }


def compose(made: Scene, tasks: Sequence[str] = TASKS) -> Prediction:
    """The prediction of a perfect model for a scene."""
    composer = Composer(made.rendered.image, made.boxes, tasks)
    shown = [n for n, person in enumerate(made.rendered.people) if person.mask.sum() > 400]
    for place, number in enumerate(shown):
        view = fit(tuple(float(v) for v in composer.boxes[place][:4]), SIZE)
        outputs = true_outputs(made.rendered, number, view)
        composer.put(place, composer.decode(place, {t: outputs[t] for t in tasks}, dict.fromkeys(tasks, view)))
    return composer.done()


def _box(mask: np.ndarray) -> tuple[float, ...]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1), 0.9
