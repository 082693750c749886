"""What the three dense tasks share: their pictures, and how little of a person's box they may trust."""

import numpy as np

from shards.crop import BrokenImage, Encoded
from shards.draws import key_of, uniforms
from shards.labelled import LabelledSample
from training.tasks.background import Backgrounds, paste
from training.tasks.jitter import Zoom, dense_view
from training.tasks.photometric import distort_colours, lose_detail
from training.tasks.view import View, fit, read_image

_PASTE = 31  # what a key's draws are for


def zoom(
    sample: LabelledSample, size: tuple[int, int], key: int, augmented: bool, rotation: float, rotation_chance: float
) -> Zoom:
    """The view of a sample in training or, not augmented, in measuring."""
    if not augmented:
        return Zoom(fit(sample.box, size), 1.0)
    return dense_view(sample.box, size, key, rotation, rotation_chance)


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


def replaces_background(key: int, chance: float) -> bool:
    return bool(uniforms(key_of(key, _PASTE), 1)[0] < chance)


def paste_over(backgrounds: Backgrounds, image: np.ndarray, person: np.ndarray, key: int) -> np.ndarray:
    """The person, a (rows, columns) bool mask, before the background that the key stands for."""
    return paste(image, person, backgrounds.picture((image.shape[0], image.shape[1]), key))


def disturb(image: np.ndarray, detail: float, key: int) -> np.ndarray:
    """A picture of training: less of its detail, other colours."""
    return distort_colours(lose_detail(image, detail), key)
