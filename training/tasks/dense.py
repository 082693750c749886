"""What a model is shown of densely labelled samples: one way for parts, depth and normals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.crop import BrokenImage, Encoded
from shards.draws import key_of, uniforms
from shards.labelled import LabelledSample
from training.tasks.background import Backgrounds, paste
from training.tasks.jitter import Zoom, dense_view
from training.tasks.photometric import distort_colours, lose_detail
from training.tasks.view import View, fit, read_image

_PASTE = 31  # what a key's draws are for


@dataclass(frozen=True)
class Dense:
    """In what the dense tasks differ.

    target: its name. read: a sample's labels (H, W, …), given the label set. to_view: those as a view shows them.
    people: which pixels of a target (rows, columns, …) are somebody's, (rows, columns) bool; nothing: its value
    elsewhere. rotation: degrees by which views are turned at most, so often. background_chance: how often people get
    another background, where there are some.
    """

    target: str
    read: Callable[[LabelledSample, Any], np.ndarray]
    to_view: Callable[[np.ndarray, View, Any], np.ndarray]
    people: Callable[[np.ndarray], np.ndarray]
    nothing: float
    rotation: float
    rotation_chance: float
    background_chance: float


@dataclass(frozen=True)
class Draw:
    """What a model of `size` (rows, columns) is shown of a sample.

    Augmented: zoom, rotation and mirroring (`dense_view`), sometimes another background, colours.
    """

    task: Dense
    size: tuple[int, int]
    labels: Any
    augmented: bool
    backgrounds: Backgrounds | None = None

    def view(self, sample: LabelledSample, key: int = 0) -> View:
        """Raises BrokenImage."""
        return self._zoom(sample, key).view

    def __call__(self, sample: LabelledSample, key: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The view, (rows, columns, 3) uint8 RGB, and its target (rows, columns, …). Raises BrokenImage."""
        zoomed = self._zoom(sample, key)
        view = zoomed.view
        given = self.task.read(sample, self.labels)
        image = read_labelled(sample, view, given.shape)
        target = self.task.to_view(given, view, self.labels)
        if self.augmented:
            if self.backgrounds and uniforms(key_of(key, _PASTE), 1)[0] < self.task.background_chance:
                people = self.task.people(target) & view.holds(*given.shape[:2])
                image = paste(image, people, self.backgrounds.picture(self.size, key))
                target[~people] = self.task.nothing
            image = distort_colours(lose_detail(image, zoomed.detail), key)
        return image, {self.task.target: target}

    def _zoom(self, sample: LabelledSample, key: int) -> Zoom:
        if not self.augmented:
            return Zoom(fit(sample.box, self.size), 1.0)
        return dense_view(sample.box, self.size, key, self.task.rotation, self.task.rotation_chance)


def read_labelled(sample: LabelledSample, view: View, shape: tuple[int, ...]) -> np.ndarray:
    """A view of the sample's photo: (rows, columns, 3) uint8. Raises BrokenImage, too where the labels' shape is not
    the photo's.
    """
    photo = Encoded(sample.image)
    if shape[:2] != (photo.height, photo.width):
        raise BrokenImage(
            f"the label has {shape[1]} x {shape[0]} pixels where the photo has {photo.width} x {photo.height}"
        )
    return read_image(photo, view)
