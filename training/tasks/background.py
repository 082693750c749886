"""Random backgrounds: the labelled person before another picture."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from shards.crop import BrokenImage, RandomCrop
from shards.draws import key_of, uniforms
from training.config import UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_CHOICE, _CROP = 21, 22  # what a key's draws are for


@dataclass(frozen=True)
class Backgrounds:
    """Pictures without people, of which random parts become backgrounds."""

    paths: tuple[Path, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> "Backgrounds":
        """Every picture below a folder. Raises UsageError where there is none."""
        found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        paths = tuple(sorted(p for p in found if not p.name.startswith(".")))  # as macOS leaves them beside each
        if not paths:
            raise UsageError(f"{folder} holds no background pictures; give a folder of {', '.join(SUFFIXES)} files")
        return cls(paths)

    def picture(self, size: tuple[int, int], key: int) -> np.ndarray:
        """The part of one of the pictures that a key stands for: (rows, columns, 3) uint8 RGB. Raises BrokenImage."""
        path = self.paths[int(uniforms(key_of(key, _CHOICE), 1)[0] * len(self.paths))]
        try:
            return RandomCrop(size)(path.read_bytes(), key_of(key, _CROP))
        except (OSError, BrokenImage) as error:
            raise BrokenImage(f"the background {path} cannot be read ({error}); take it out of the folder") from error


def paste(person: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The masked part of a picture before a background, the seam one pixel soft.

    person, background: (H, W, 3) uint8. mask: (H, W) bool, True on the person.
    """
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)[..., None]
    return np.rint(background + alpha * (person.astype(np.float32) - background)).astype(np.uint8)
