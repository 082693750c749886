"""Held-out pictures with what is true of them: for calibration and for the model card, never for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curation.builtin.training.collection import Picture, read_collection
from curation.builtin.training.layouts import KINDS, composed
from curation.builtin.training.variants import UNKNOWN, Image, natural_truth

PHOTO_SOURCES = ("people-coco", "people-voc", "people-video", "parts-fashion", "plain", "pose-sport")
MARK_SOURCES = ("watermark", "people-coco", "people-voc", "plain")
LAYOUTS = 200


def held_out_pictures(data: Path) -> list[tuple[Picture | str, Image, tuple[int, int, int, int]]]:
    """Held-out pictures with their truths, and layouts of them: (picture or layout kind, pixels, truths)."""
    pictures = [p for p in read_collection(data, "dev") if p.source not in ("depth-kitchen", "people-4k", "text")]
    out: list[tuple[Picture | str, Image, tuple[int, int, int, int]]] = []
    for picture in pictures:
        _, art, generated = natural_truth(picture)
        mark = int(picture.label.get("watermarked", 0)) if picture.source in MARK_SOURCES else UNKNOWN
        layout = 0 if picture.source in PHOTO_SOURCES else UNKNOWN
        if picture.source == "watermark":
            art, generated = UNKNOWN, UNKNOWN
        out.append((picture, picture.rgb(), (mark, art, generated, layout)))
    photos = [p for p in pictures if p.source in PHOTO_SOURCES]
    rng = np.random.default_rng(7)
    for i in range(LAYOUTS):
        kind = KINDS[i % len(KINDS)]
        images = [photos[int(j)].rgb() for j in rng.integers(len(photos), size=9)]
        out.append((kind, composed(kind, images, rng), (UNKNOWN, UNKNOWN, UNKNOWN, 1)))
    return out
