"""The built-in profile: pixels in, answers out. No thresholds, no files but weights.

Three backbones, each run at most once per picture: our person detector, PP-OCR's text detector and nudenet's body-part
detector. Heads of ours read the features of the last two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from curation.builtin.boxes import keep_best, letterbox
from curation.builtin.detector import PeopleDetector
from curation.builtin.heads import Head, load_head, pooled
from curation.builtin.text import text_boxes
from curation.builtin.watermark import GRID, MarkHead, load_mark_head, mark_cells
from curation.builtin.wheels import nudenet_file, ppocr_file
from curation.engines import Engine, Pixels, Precision, compile_onnx, compile_torch, weights_identity

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

ANSWERS = ("people", "watermark", "style", "text", "safety")
WEIGHTS = Path(__file__).parent / "weights"
VERSION = 1  # of everything between the pixels and the answers: raise it when an answer may change

PEOPLE_SIZE, TEXT_SIZE, BODY_SIZE = 480, 512, 320
LEAST_PERSON, PERSON_OVERLAP = 0.05, 0.6
TEXT_PIXELS = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), bgr=True)
TEXT_MAPS = {"p2o.pd_op.add.27.0": 8, "p2o.pd_op.add.50.0": 16, "p2o.pd_op.add.63.0": 32}  # tensor → stride
BODY_MAPS = {
    "/model.4/cv2/act/Mul_output_0": 8,
    "/model.6/cv2/act/Mul_output_0": 16,
    "/model.9/cv2/act/Mul_output_0": 32,
    "/model.15/cv2/act/Mul_output_0": 8,
    "/model.18/cv2/act/Mul_output_0": 16,
    "/model.21/cv2/act/Mul_output_0": 32,
}
# nudenet's classes of bare buttocks, female breast and genitalia, anus, male genitalia.
UNSAFE_CLASSES = (2, 3, 4, 6, 14)


@dataclass(frozen=True)
class Features:
    """What the backbones said about a batch of B pictures; a field is None where its backbone was not asked for."""

    sizes: tuple[tuple[int, int], ...]  # (height, width) of each picture
    person_boxes: Floats | None = None  # [B,N,4] in pixels of the detector's square
    person_logits: Floats | None = None  # [B,N]
    anybody: Floats | None = None  # [B], what the whole picture adds to every person's logit
    text_map: Floats | None = None  # [B,512,512], chance of text
    text_pooled: Floats | None = None  # [B,2016]
    marked: Floats | None = None  # [B], chance of a watermark
    unsafe: Floats | None = None  # [B]
    body_pooled: Floats | None = None  # [B,2688]

    def of(self, field: str) -> Floats:
        """A field that must have been computed."""
        value = getattr(self, field)
        if value is None:
            raise ValueError(f"{field} was not computed: name the answer in `needs` when calling features()")
        return value


class Builtin:
    """The built-in networks of one process, each compiled on first use.

    `threads` is how many pictures are worked on at once by each network.
    """

    def __init__(self, threads: int = 1, precision: Precision = "auto") -> None:
        self.threads = threads
        self.precision = precision

    @cached_property
    def identities(self) -> dict[str, str]:
        """Answer → `name@<12 hex>` of its weights and of what is done around them."""
        files = {
            "people": (WEIGHTS / "people.safetensors", WEIGHTS / "presence.safetensors", nudenet_file()),
            "watermark": (WEIGHTS / "watermark.safetensors", ppocr_file()),
            "style": (WEIGHTS / "style.safetensors", ppocr_file(), nudenet_file()),
            "text": (ppocr_file(),),
            "safety": (nudenet_file(),),
        }
        return {name: weights_identity(name, *paths, version=VERSION) for name, paths in files.items()}

    def features(self, images: Sequence[Image], needs: Iterable[str] = ANSWERS) -> Features:
        """Run the backbones that `needs` call for, once per picture.

        `images` are uint8 RGB [H,W,3] of any size, upright; `needs` are names out of `ANSWERS`.
        """
        needs = set(needs)
        if unknown := needs - set(ANSWERS):
            raise ValueError(f"unknown answers {sorted(unknown)}; there are {', '.join(ANSWERS)}")
        fields: dict[str, Floats] = {}
        if "people" in needs:
            squares = np.stack([letterbox(image, PEOPLE_SIZE)[0] for image in images])
            fields["person_boxes"], fields["person_logits"] = self._people(squares)
        if needs & {"text", "watermark", "style"}:
            chance, *maps = self.text_maps(images)
            fields["text_map"] = chance
            if "style" in needs:
                fields["text_pooled"] = _pool(maps, TEXT_MAPS, TEXT_SIZE, images)
            if "watermark" in needs:
                fields["marked"] = self._marks(images, chance, maps)
        if needs & {"people", "safety", "style"}:
            squares = np.stack([letterbox(image, BODY_SIZE, fill=0)[0] for image in images])
            parts, *maps = self._body(squares)
            fields["unsafe"] = parts[:, [4 + c for c in UNSAFE_CLASSES]].max((1, 2))
            fields["body_pooled"] = _pool(maps, BODY_MAPS, BODY_SIZE, images)
        if "people" in needs:
            fields["anybody"] = self._presence_head.calibrated(fields["body_pooled"])[:, 0]
        return Features(tuple((i.shape[0], i.shape[1]) for i in images), **fields)

    def text_maps(self, images: Sequence[Image]) -> tuple[Floats, ...]:
        """PP-OCR's chance of text [B,512,512], then its maps at strides 8, 16 and 32 [B,C,h,w]."""
        squares = np.stack([letterbox(image, TEXT_SIZE, fill=0)[0] for image in images])
        chance, *maps = self._text(squares)
        return chance[:, 0], *maps

    def people(self, f: Features) -> list[Floats]:
        """Per picture [n,5]: x0,y0,x1,y1 in its pixels and a score of at least 0.05, best first."""
        found = []
        chances = 1 / (1 + np.exp(-(f.of("person_logits") + f.of("anybody")[:, None])))
        for (height, width), boxes, scores in zip(f.sizes, f.of("person_boxes"), chances, strict=True):
            rows = keep_best(boxes, scores, LEAST_PERSON, PERSON_OVERLAP)
            rows[:, :4] *= max(height, width) / PEOPLE_SIZE
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
        features = np.concatenate([f.of("text_pooled"), f.of("body_pooled")], 1)
        artistic, generated, composed = self._style_head(features).T
        return artistic, 1 - (1 - generated) * (1 - composed)

    def text(self, f: Features) -> list[Floats]:
        """Per picture [n,9]: x,y of a text region's four corners, clockwise, in its pixels, then its score."""
        found = []
        for (height, width), chance in zip(f.sizes, f.of("text_map"), strict=True):
            h, w = inside(height, width, TEXT_SIZE, 1)
            rows = text_boxes(np.ascontiguousarray(chance[:h, :w]))
            rows[:, :8] *= max(height, width) / TEXT_SIZE
            rows[:, 0:8:2] = rows[:, 0:8:2].clip(0, width)
            rows[:, 1:8:2] = rows[:, 1:8:2].clip(0, height)
            found.append(rows)
        return found

    def safety(self, f: Features) -> Floats:
        """[B] nudenet's best score for a bare intimate body part."""
        return f.of("unsafe")

    def _marks(self, images: Sequence[Image], chance: Floats, maps: Sequence[Floats]) -> Floats:
        answers = []
        for b, image in enumerate(images):
            rows, columns = inside(image.shape[0], image.shape[1], TEXT_SIZE, TEXT_SIZE // GRID)
            answers.append(self._watermark_head(mark_cells(chance[b], [m[b] for m in maps]), rows, columns))
        return np.array(answers, np.float32)

    @cached_property
    def _people(self) -> Engine:
        net = PeopleDetector()
        net.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS / "people.safetensors").items()})
        return compile_torch(net, (PEOPLE_SIZE, PEOPLE_SIZE), Pixels(), self.threads, self.precision)

    @cached_property
    def _text(self) -> Engine:
        size = (TEXT_SIZE, TEXT_SIZE)
        return compile_onnx(ppocr_file(), size, tuple(TEXT_MAPS), TEXT_PIXELS, self.threads, self.precision)

    @cached_property
    def _body(self) -> Engine:
        size = (BODY_SIZE, BODY_SIZE)
        return compile_onnx(nudenet_file(), size, tuple(BODY_MAPS), Pixels(), self.threads, self.precision)

    @cached_property
    def _watermark_head(self) -> MarkHead:
        return load_mark_head(WEIGHTS / "watermark.safetensors")

    @cached_property
    def _presence_head(self) -> Head:
        return load_head(WEIGHTS / "presence.safetensors")

    @cached_property
    def _style_head(self) -> Head:
        return load_head(WEIGHTS / "style.safetensors")


def _pool(maps: list[Floats], strides: dict[str, int], size: int, images: Sequence[Image]) -> Floats:
    """Pooled features of every picture over the part of each map that saw it, [B,3·channels]."""
    rows = []
    for b, image in enumerate(images):
        height, width = image.shape[:2]
        cells = [inside(height, width, size, stride) for stride in strides.values()]
        rows.append(np.concatenate([pooled(m[b], *c) for m, c in zip(maps, cells, strict=True)]))
    return np.stack(rows)


def inside(height: int, width: int, size: int, stride: int) -> tuple[int, int]:
    """How many rows and columns of a map at `stride` lie on the picture in a letterbox of `size`."""
    scale = size / max(height, width)
    h, w = (max(1, round(side * scale / stride)) for side in (height, width))
    return min(h, size // stride), min(w, size // stride)
