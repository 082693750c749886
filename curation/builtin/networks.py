"""The built-in profile: pixels in, answers out. No thresholds, no files but weights.

Three networks, each run at most once per picture and call: our person detector, PP-OCR's text detector and, for
`safety` alone, nudenet's body-part detector. Heads of ours read the features of the first two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from curation.builtin import detector
from curation.builtin.backbone import Backbone, Outputs
from curation.builtin.boxes import input_shape, keep_best, shown_size
from curation.builtin.detector import STRIDES, PeopleDetector, likely_boxes
from curation.builtin.heads import Head, load_head, pooled, related
from curation.builtin.text import text_boxes
from curation.builtin.watermark import CELL, MarkHead, load_mark_head, mark_cells
from curation.builtin.wheels import nudenet_file, ppocr_file
from curation.converted import compile_once
from curation.engines import Pixels, Precision, compile_onnx, weights_identity

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

ANSWERS = ("people", "watermark", "style", "text", "safety")
WEIGHTS = Path(__file__).parent / "weights"
VERSION = 7  # of everything between the pixels and the answers: raise it when an answer may change

PEOPLE_SIZE, TEXT_SIZE, BODY_SIZE = 448, 512, 320
TEXT_SHAPES, TEXT_MARGIN = (3 / 4,), 16  # with less padding PP-OCR takes more textures for text
LEAST_PERSON, PERSON_OVERLAP = 0.05, 0.45
TEXT_PIXELS = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), bgr=True)
TEXT_MAPS = ("p2o.pd_op.add.27.0", "p2o.pd_op.add.50.0", "p2o.pd_op.add.63.0")  # tensors at STRIDES
# nudenet's classes of bare buttocks, female breast and genitalia, anus, male genitalia.
UNSAFE_CLASSES = (2, 3, 4, 6, 14)


@dataclass(frozen=True)
class Features:
    """What the networks said about a batch of B pictures; a field is None where its network was not asked for."""

    sizes: tuple[tuple[int, int], ...]  # (height, width) of each picture
    person_cells: list[Outputs] | None = None  # B (sides [64,N], logits [N]) of the detector's cells
    people_pooled: Floats | None = None  # [B,1344]
    people_related: Floats | None = None  # [B,2016]
    anybody: Floats | None = None  # [B], what the whole picture adds to every person's logit
    text_map: list[Floats] | None = None  # B maps [h,w], chance of text
    text_pooled: Floats | None = None  # [B,2016]
    marked: Floats | None = None  # [B], chance of a watermark
    unsafe: Floats | None = None  # [B]

    def of(self, field: str) -> Any:
        """A field that must have been computed."""
        value = getattr(self, field)
        if value is None:
            raise ValueError(f"{field} was not computed: name the answer in `needs` when calling features()")
        return value


class Builtin:
    """The built-in networks of one process, each compiled on first use.

    `threads` is how many pictures are worked on at once by each network; `weights` is the folder of our own.
    """

    def __init__(self, threads: int = 1, precision: Precision = "auto", weights: Path = WEIGHTS) -> None:
        self.threads = threads
        self.precision = precision
        self.weights = weights

    @cached_property
    def identities(self) -> dict[str, str]:
        """Answer → `name@<12 hex>` of its weights and of what is done around them."""
        files = {
            "people": (self.weights / "people.safetensors", self.weights / "presence.safetensors"),
            "watermark": (self.weights / "watermark.safetensors", ppocr_file()),
            "style": (self.weights / "style.safetensors", ppocr_file(), self.weights / "people.safetensors"),
            "text": (ppocr_file(),),
            "safety": (nudenet_file(),),
        }
        return {name: weights_identity(name, *paths, version=VERSION) for name, paths in files.items()}

    def features(self, images: Sequence[Image], needs: Iterable[str] = ANSWERS) -> Features:
        """Run the networks that `needs` call for, once per picture.

        `images` are uint8 RGB [H,W,3] of any size, upright; `needs` are names out of `ANSWERS`.
        """
        needs = set(needs)
        if unknown := needs - set(ANSWERS):
            raise ValueError(f"unknown answers {sorted(unknown)}; there are {', '.join(ANSWERS)}")
        fields: dict[str, Any] = {}
        if needs & {"people", "style"}:
            outputs = self._people(images)
            fields["person_cells"] = [(sides, logits) for sides, logits, *_ in outputs]
            maps = [of_picture for _, _, *of_picture in outputs]
            fields["people_pooled"] = _pool(maps, PEOPLE_SIZE, images)
            if "style" in needs:
                fields["people_related"] = _relate([finest for finest, *_ in maps], PEOPLE_SIZE, images)
            if "people" in needs:
                fields["anybody"] = self._presence_head.calibrated(fields["people_pooled"])[:, 0]
        if needs & {"text", "watermark", "style"}:
            chances, maps = self.text_maps(images)
            fields["text_map"] = chances
            if "style" in needs:
                fields["text_pooled"] = _pool(maps, TEXT_SIZE, images)
            if "watermark" in needs:
                fields["marked"] = self._marks(images, chances, maps)
        if "safety" in needs:
            fields["unsafe"] = np.array([s[[4 + c for c in UNSAFE_CLASSES]].max() for (s,) in self._body(images)])
        return Features(tuple((i.shape[0], i.shape[1]) for i in images), **fields)

    def text_maps(self, images: Sequence[Image]) -> tuple[list[Floats], list[list[Floats]]]:
        """For each picture PP-OCR's chance of text [h,w] and its maps at strides 8, 16 and 32 [C,h/8,w/8], …"""
        outputs = self._text(images)
        return [chance[0] for chance, *_ in outputs], [maps for _, *maps in outputs]

    def people(self, f: Features) -> list[Floats]:
        """Per picture [n,5]: x0,y0,x1,y1 in its pixels and a score of at least 0.05, best first."""
        found = []
        for (height, width), (sides, logits), anybody in zip(
            f.sizes, f.of("person_cells"), f.of("anybody"), strict=True
        ):
            shape = input_shape(height, width, PEOPLE_SIZE)
            boxes, scores = likely_boxes(sides, logits + anybody, shape, LEAST_PERSON)
            rows = keep_best(boxes, scores, LEAST_PERSON, PERSON_OVERLAP)
            h, w = shown_size(height, width, PEOPLE_SIZE)
            rows[:, :4] *= (width / w, height / h) * 2
            rows[:, 0:4:2] = rows[:, 0:4:2].clip(0, width)
            rows[:, 1:4:2] = rows[:, 1:4:2].clip(0, height)
            found.append(rows)
        return found

    def watermark(self, f: Features) -> Floats:
        """[B] chance that the picture carries a watermark."""
        return f.of("marked")

    def style(self, f: Features) -> tuple[Floats, Floats]:
        """([B] chance of a painting, drawing or cartoon, [B] chance of a picture that no camera took as it is).

        The second is the chance of at least one of: generated by a network; composed (collage, screenshot, poster, …).
        """
        artistic, generated, composed = self._style_head(style_features(f)).T
        return artistic, 1 - (1 - generated) * (1 - composed)

    def text(self, f: Features) -> list[Floats]:
        """Per picture [n,9]: x,y of a text region's four corners, clockwise, in its pixels, then its score."""
        found = []
        for (height, width), chance in zip(f.sizes, f.of("text_map"), strict=True):
            h, w = shown_size(height, width, TEXT_SIZE)
            rows = text_boxes(np.ascontiguousarray(chance[:h, :w]))
            rows[:, :8] *= (width / w, height / h) * 4
            rows[:, 0:8:2] = rows[:, 0:8:2].clip(0, width)
            rows[:, 1:8:2] = rows[:, 1:8:2].clip(0, height)
            found.append(rows)
        return found

    def safety(self, f: Features) -> Floats:
        """[B] nudenet's best score for a bare intimate body part."""
        return f.of("unsafe")

    def _marks(self, images: Sequence[Image], chances: list[Floats], maps: list[list[Floats]]) -> Floats:
        answers = []
        for image, chance, of_picture in zip(images, chances, maps, strict=True):
            rows, columns = inside(image.shape[0], image.shape[1], TEXT_SIZE, CELL)
            answers.append(self._watermark_head(*mark_cells(chance, of_picture), rows, columns))
        return np.array(answers, np.float32)

    @cached_property
    def _people(self) -> Backbone:
        weights = self.weights / "people.safetensors"
        identity = weights_identity("people", weights, Path(detector.__file__))

        def build() -> PeopleDetector:
            net = PeopleDetector()
            net.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
            return net

        return Backbone(
            lambda shape: compile_once(identity, build, shape, Pixels(), self.threads, self.precision), PEOPLE_SIZE
        )

    @cached_property
    def _text(self) -> Backbone:
        return Backbone(
            lambda shape: compile_onnx(ppocr_file(), shape, TEXT_MAPS, TEXT_PIXELS, self.threads, self.precision),
            TEXT_SIZE,
            fill=0,
            margin=TEXT_MARGIN,
            narrow=TEXT_SHAPES,
        )

    @cached_property
    def _body(self) -> Backbone:
        return Backbone(
            lambda shape: compile_onnx(nudenet_file(), shape, (), Pixels(), self.threads, self.precision),
            BODY_SIZE,
            fill=0,
        )

    @cached_property
    def _watermark_head(self) -> MarkHead:
        return load_mark_head(self.weights / "watermark.safetensors")

    @cached_property
    def _presence_head(self) -> Head:
        return load_head(self.weights / "presence.safetensors")

    @cached_property
    def _style_head(self) -> Head:
        return load_head(self.weights / "style.safetensors")


def style_features(f: Features) -> Floats:
    """What the style head reads, [B,5376]: features of the text detector, then of the person detector."""
    return np.concatenate([f.of("text_pooled"), f.of("people_pooled"), f.of("people_related")], 1)


def _relate(finest: list[Floats], size: int, images: Sequence[Image]) -> Floats:
    """How the channels of every picture's finest map go together, [B,C·(C-1)/2]."""
    cells = [inside(image.shape[0], image.shape[1], size, STRIDES[0]) for image in images]
    return np.stack([related(m, *c) for m, c in zip(finest, cells, strict=True)])


def _pool(maps: list[list[Floats]], size: int, images: Sequence[Image]) -> Floats:
    """Pooled features of every picture over the part of each of its maps that saw it, [B,3·channels]."""
    rows = []
    for of_picture, image in zip(maps, images, strict=True):
        cells = [inside(image.shape[0], image.shape[1], size, stride) for stride in STRIDES]
        rows.append(np.concatenate([pooled(m, *c) for m, c in zip(of_picture, cells, strict=True)]))
    return np.stack(rows)


def inside(height: int, width: int, size: int, stride: int) -> tuple[int, int]:
    """How many rows and columns of a map at `stride` lie on a picture whose long side became `size`."""
    scale = size / max(height, width)
    h, w = (max(1, round(side * scale / stride)) for side in (height, width))
    return min(h, size // stride), min(w, size // stride)
