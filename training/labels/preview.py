"""A picture of labels for a person to look at: photos beside what was labelled on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg

from manifests.store import Store
from shards.crop import Encoded
from shards.labelled import LabelledSample, LabelledShards, open_labelled
from training.labels.decode import depth_from_png, normals_from_png, parts_from_png
from training.labels.sets import IGNORE, ClassList, KeypointSet
from training.predict.compose import Person, Prediction
from training.predict.draw import Style, panel, shrink

PREVIEW_FILE = "preview.jpg"
_SIDE = 256


def write_preview(out: Path, count: int = 6) -> Path:
    """Draw some samples of packed shards, spread evenly over them, to `out`/preview.jpg."""
    data = open_labelled(str(out))
    ends = np.cumsum(data.shards.counts)
    rows = []
    for place in np.linspace(0, data.shards.count - 1, min(count, data.shards.count)).round().astype(int):
        number = int(np.searchsorted(ends, place, side="right"))
        rows.append(_draw(data, data.read(number, int(place - ends[number] + data.shards.counts[number]))))
    return save_sheet(rows, out)


def save_sheet(rows: Sequence[np.ndarray], out: Path) -> Path:
    """Stack pictures (h, w, 3), the narrower ones on white, and write them as `out`/preview.jpg."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    Store(out).write_bytes(PREVIEW_FILE, simplejpeg.encode_jpeg(np.ascontiguousarray(np.concatenate(padded)), 90))
    return out / PREVIEW_FILE


def draw_labels(found: Prediction, keypoints: KeypointSet | None, classes: ClassList | None) -> np.ndarray:
    """The panel that `predict` draws, of labels. found: keypoints' third column is 1 where labelled, else 0."""
    return panel(found, Style(keypoints, classes, min_keypoint=0.5, side=_SIDE))


def _draw(data: LabelledShards, sample: LabelledSample) -> np.ndarray:
    image = Encoded(sample.image).decode()
    height, width = image.shape[:2]
    scale = min(1.0, 2 * _SIDE / max(height, width))
    found = Prediction(shrink(image, (round(height * scale), round(width * scale))), ())
    if data.task == "pose":
        labelled = np.array(sample.row["keypoints"]).reshape(-1, 3)
        points = np.column_stack([(labelled[:, :2] + 0.5) * scale - 0.5, labelled[:, 2] > 0])
        x0, y0, x1, y1 = (side * scale for side in sample.box)
        names = KeypointSet.from_dict(data.labels["keypoints"])
        return draw_labels(replace(found, people=(Person((x0, y0, x1, y1), 1.0, points),)), names, None)
    found = replace(found, people=(Person(sample.box, 1.0),))
    if data.task == "parts":
        parts = parts_from_png(sample.label)
        parts[parts == IGNORE] = 0
        return draw_labels(replace(found, parts=parts), None, ClassList.from_dict(data.labels["classes"]))
    if data.task == "depth":
        depth = depth_from_png(sample.label, sample.row["near"], sample.row["far"])
        owner = np.isfinite(depth).astype(np.uint16)
        return draw_labels(replace(found, depth=depth, owner=owner), None, None)
    return draw_labels(replace(found, normals=normals_from_png(sample.label)), None, None)
