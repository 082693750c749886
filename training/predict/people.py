"""Who is in an image: boxes from a file, from a curated shard, or from the detector of the curation wing.

This is the one place where training looks into curation, and only when no boxes were given: the detector that chose
the photos is the one that finds the people in them. It is imported on first use.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from pyarrow.dataset import dataset

from shards.index import key_and_suffix
from training.config import UsageError
from training.predict.inputs import Input, Photo

MIN_SCORE = 0.5
"""Of a person; the built-in detector keeps 85 % of the photos with a large person there, and is right in 94 %
(docs/models.md)."""
WORK_SIDE = 1024
"""Longer side in pixels that the detector is shown at most; it looks at 448."""

FORMAT = (
    'a JSON list of {"uri": PATH, "boxes": [[x0, y0, x1, y1, score], …]} (score may be left out, tar samples add '
    '"member": KEY), a parquet table with these columns, or a curated folder'
)


class NoBoxes(ValueError):
    """The file of boxes does not speak of this image."""


class People(Protocol):
    """Find the people in images (H, W, 3) uint8 RGB: per image (n, 5) float32 x0, y0, x1, y1, score in its pixels, or
    an error of that image alone.
    """

    def __call__(self, items: Sequence[Input], images: Sequence[np.ndarray]) -> list[np.ndarray | NoBoxes]: ...


@dataclass(frozen=True)
class WholeImage:
    """Every image is one person."""

    def __call__(self, items: Sequence[Input], images: Sequence[np.ndarray]) -> list[np.ndarray | NoBoxes]:
        return [np.array([[0, 0, image.shape[1], image.shape[0], 1]], np.float32) for image in images]


@dataclass(frozen=True)
class Given:
    """Boxes from a file, by (absolute path or URL, tar member)."""

    boxes: dict[tuple[str, str], np.ndarray]
    file: str
    min_score: float = 0.0

    def __call__(self, items: Sequence[Input], images: Sequence[np.ndarray]) -> list[np.ndarray | NoBoxes]:
        return [self._of(item) for item in items]

    def _of(self, item: Input) -> np.ndarray | NoBoxes:
        found = self.boxes.get((_absolute(item.uri), item.member))
        if found is None:
            place = f"{item.uri} member {item.member}" if item.member else item.uri
            return NoBoxes(f"{self.file} has no entry for {place}")
        return found[found[:, 4] >= self.min_score]


class Detector:
    """Boxes that a curated shard brought along, else the built-in detector's, from a score on."""

    def __init__(self, min_score: float = MIN_SCORE, threads: int = 1) -> None:
        self.min_score, self.threads = min_score, threads
        self._networks: Any = None

    def __call__(self, items: Sequence[Input], images: Sequence[np.ndarray]) -> list[np.ndarray | NoBoxes]:
        known = [item.boxes if isinstance(item, Photo) else None for item in items]
        asked = [i for i, boxes in enumerate(known) if boxes is None]
        for i, boxes in zip(asked, self._detect([images[i] for i in asked]), strict=True):
            known[i] = boxes
        return [boxes[boxes[:, 4] >= self.min_score] for boxes in known if boxes is not None]

    def _detect(self, images: list[np.ndarray]) -> list[np.ndarray]:
        if not images:
            return []
        if self._networks is None:
            from curation.builtin import Builtin

            self._networks = Builtin(threads=self.threads)
        small, scales = zip(*(_shrunk(image) for image in images), strict=True)
        found = self._networks.people(self._networks.features(small, needs=("people",)))
        for boxes, scale in zip(found, scales, strict=True):
            boxes[:, :4] *= scale * 2
        return found


def choose_people(boxes: str, min_score: float | None, threads: int = 1) -> People:
    """boxes: "" for the detector (and the boxes of curated shards), "whole", or a file in FORMAT.

    min_score None: MIN_SCORE of the detector, everything in a file.
    """
    if boxes == "whole":
        return WholeImage()
    if boxes:
        return Given(read_boxes(Path(boxes)), boxes, min_score or 0.0)
    return Detector(MIN_SCORE if min_score is None else min_score, threads)


def read_boxes(file: Path) -> dict[tuple[str, str], np.ndarray]:
    """Boxes (n, 5) by (absolute path or URL, member) of a file in FORMAT, or of the parquet of a curated manifest
    (`person_boxes`). Relative paths count from the file's folder. Raises UsageError.
    """
    file = file / "manifest" if (file / "manifest").is_dir() else file
    rows = _rows(file)
    found: dict[tuple[str, str], np.ndarray] = {}
    for number, row in enumerate(rows):
        try:
            uri, member = str(row["uri"]), key_and_suffix(str(row.get("member") or ""))[0]  # curation's has a suffix
            column = "person_boxes" if "person_boxes" in row and "boxes" not in row else "boxes"
            boxes = [_box(box) for box in row[column] or ()]
        except KeyError as error:
            raise UsageError(f"entry {number} of {file} lacks {error}; give {FORMAT}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"entry {number} of {file} cannot be read ({error}); give {FORMAT}") from error
        key = (_absolute(uri, file.parent), member)
        both = np.concatenate([found.get(key, np.empty((0, 5), np.float32)), _stack(boxes)])
        _, first = np.unique(both, axis=0, return_index=True)  # an input that was given twice has two rows
        found[key] = both[np.sort(first)]
    return found


def inside(boxes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int]:
    """Boxes cut to the image, and how many had nothing of it (or were no numbers) and are gone."""
    finite = boxes[np.isfinite(boxes).all(1)].copy()
    finite[:, 0:4:2] = finite[:, 0:4:2].clip(0, width)
    finite[:, 1:4:2] = finite[:, 1:4:2].clip(0, height)
    kept = finite[(finite[:, 2] - finite[:, 0] >= 1) & (finite[:, 3] - finite[:, 1] >= 1)]
    return kept, len(boxes) - len(kept)


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        raise UsageError(f"the boxes {file} do not exist; give {FORMAT}, or the word 'whole'")
    try:
        if file.suffix == ".json":
            rows = json.loads(file.read_text())
        else:
            table = dataset(file, format="parquet")  # a folder such as OUT/manifest is one table too
            names = [n for n in table.schema.names if n in ("uri", "member", "boxes", "person_boxes", "kind", "status")]
            rows = [row for row in table.to_table(columns=names).to_pylist() if _tells(row)]
    except (OSError, ValueError) as error:  # pyarrow's and json's errors are ValueErrors
        raise UsageError(f"the boxes {file} cannot be read ({error}); give {FORMAT}") from error
    if not isinstance(rows, list):
        raise UsageError(f"the boxes {file} are not a list but a {type(rows).__name__}; give {FORMAT}")
    return rows


def _tells(row: dict[str, Any]) -> bool:
    """Whether a row of a table says who is there: not that of a video, of what failed, or of what was not asked."""
    if row.get("kind") in ("video", "webcam") or str(row.get("status")).startswith("failed"):
        return False
    return "person_boxes" not in row or "boxes" in row or row["person_boxes"] is not None


def _box(box: Any) -> list[float]:
    if isinstance(box, dict):
        box = [box["x0"], box["y0"], box["x1"], box["y1"], box.get("score", 1.0)]
    values = [float(v) for v in box]
    if len(values) not in (4, 5):
        raise ValueError(f"a box has {len(values)} numbers instead of x0, y0, x1, y1 and perhaps a score")
    return values if len(values) == 5 else [*values, 1.0]


def _stack(boxes: list[list[float]]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 5)


def _absolute(uri: str, folder: Path | None = None) -> str:
    if "://" in uri:
        return uri
    path = Path(uri).expanduser()
    return str((path if folder is None or path.is_absolute() else folder / path).resolve())


def _shrunk(image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The image, its longer side at most WORK_SIDE px, and how many of its pixels one of those is across and down."""
    height, width = image.shape[:2]
    ratio = WORK_SIDE / max(height, width)
    if ratio >= 1:
        return image, (1.0, 1.0)
    w, h = max(1, round(width * ratio)), max(1, round(height * ratio))
    return cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA), (width / w, height / h)
