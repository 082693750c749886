"""Labels as they were found, before they are checked: one `Given` per photo."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

NOWHERE = "label without its image"
UNLABELLED = "image without a label"
BROKEN_IMAGE = "image cannot be read"
BROKEN_LABEL = "label cannot be read"
SIZE = "label and image differ in size"
UNKNOWN_CLASS = "unknown class"
EMPTY = "nothing is labelled"
OUTSIDE = "box outside the image"
CROWD = "a crowd, not a person"
OTHER = "another category"


class LabelError(ValueError):
    """Why a label is refused. reason: one of this module's, by which refusals are counted; the text is the sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class GivenPerson:
    """A person as it was labelled. member: what the file calls it. keypoints: flat x, y, v. box: x0, y0, x1, y1, or
    None where only keypoints are known. area: pixels, NaN where unknown. crowd: it stands for many. refused: why the
    file's values cannot be read.
    """

    member: str
    keypoints: tuple[float, ...]
    box: tuple[float, float, float, float] | None = None
    area: float = float("nan")
    crowd: bool = False
    refused: LabelError | None = None


@dataclass(frozen=True)
class Given:
    """A photo and its label.

    uri: the label's file, or the photo's where there is no label. member: the label's name within it. image: reads the
    photo's bytes. people: of a keypoint file. dense: reads a dense label; (H, W) class ids as in the file, (H, W) float
    depth or (H, W, 3) float normals, NaN where there is none. size: rows and columns that the label file claims. Both
    readers raise LabelError.
    """

    uri: str
    member: str
    image: Callable[[], bytes]
    people: tuple[GivenPerson, ...] = ()
    dense: Callable[[], np.ndarray] | None = None
    size: tuple[int, int] | None = None
    refused: LabelError | None = field(default=None)
