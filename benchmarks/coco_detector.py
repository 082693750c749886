"""A real COCO detector through the same engine, letterbox and NMS as any ultralytics one: how well does it find people?

    python benchmarks/coco_detector.py DATA

The weights (YOLOv5n v6: plain tensors and anchors) and the labelled photos are found under that folder. Prints the
precision and recall of person boxes at an overlap of 0.5, in fp32 and in the engine's own precision, and how many
photos change their answer to "is there a person over the threshold" between the two.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from ultralytics.utils import nms, ops

from curation.builtin.training.finish_people import matched
from curation.builtin.training.teacher import load_teacher
from curation.engines import Pixels, Precision, weights_identity
from curation.full.detector import LEAST_SCORE, MOST_BOXES, OVERLAP, SIDE, letterbox
from curation.full.network import Built, Network, Runner

SETS = ("people-coco-000", "people-voc-000", "people-video-000")
THRESHOLDS = (0.25, 0.4, 0.5, 0.7)
Run = Callable[[Sequence[NDArray[np.uint8]]], list[tuple[NDArray[np.float32], ...]]]
"""What a `Runner` does: pictures → each one's outputs."""


class CocoPeople(nn.Module):
    """The teacher with ultralytics' output: float32 [B,3,H,W] in 0…1 → [B,5,N], centre x, y, width, height, score."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.teacher = load_teacher(weights)

    def forward(self, x: Tensor) -> Tensor:
        boxes, scores = self.teacher(x)
        low, high = boxes[..., :2], boxes[..., 2:]
        return torch.cat([(low + high) / 2, high - low, scores[..., None]], 2).transpose(1, 2)


def find(runner: Run, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Person boxes as `Detector.people` gives them."""
    squares = [letterbox(image) for image in images]
    found = []
    for (output,), square, image in zip(runner(squares), squares, images, strict=True):
        (boxes,) = nms.non_max_suppression(torch.from_numpy(output)[None], LEAST_SCORE, OVERLAP, max_det=MOST_BOXES)
        boxes[:, :4] = ops.scale_boxes(square.shape[:2], boxes[:, :4], image.shape[:2])
        found.append(boxes[:, :5].numpy())
    return found


def labelled(folder: Path) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Photos on which every person is boxed, and the boxes [n,4]."""
    for name in SETS:
        with tarfile.open(folder / "dev" / f"{name}.tar") as tar:
            facts = {Path(m.name).stem: json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")}  # type: ignore[arg-type]
            for member in tar:
                fact = facts.get(Path(member.name).stem, {})
                if member.name.endswith(".jpg") and fact.get("persons_complete"):
                    data = tar.extractfile(member)
                    assert data is not None
                    picture = Image.open(io.BytesIO(data.read())).convert("RGB")
                    boxes = [[p[k] for k in ("x0", "y0", "x1", "y1")] for p in fact["persons"]]
                    yield np.asarray(picture), np.array(boxes, np.float32).reshape(-1, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    file = data / "weights" / "coco-detector-yolov5n.pt"
    network = Network(
        weights_identity(file.stem, file), lambda: Built(CocoPeople(file), (SIDE, SIDE), {}), lambda facts: Pixels()
    )
    photos, truths = map(list, zip(*labelled(data), strict=True))
    answers: dict[Precision, list[NDArray[np.float32]]] = {}
    for precision in ("fp32", "auto"):
        answers[precision] = find(Runner(network, threads=2, precision=precision), photos)
        for threshold in THRESHOLDS:
            kept = [boxes[boxes[:, 4] >= threshold] for boxes in answers[precision]]
            hits = sum(int(matched(boxes, truth).sum()) for boxes, truth in zip(kept, truths, strict=True))
            found, there = sum(map(len, kept)), sum(map(len, truths))
            print(
                f"{precision} score ≥ {threshold}: precision {hits / found:.3f}, "
                f"recall {hits / there:.3f} ({there} people)"
            )
    for threshold in THRESHOLDS:
        says = [[bool((boxes[:, 4] >= threshold).any()) for boxes in answers[p]] for p in ("fp32", "auto")]
        flips = sum(a != b for a, b in zip(*says, strict=True))
        print(f"photos of {len(photos)} whose answer at {threshold} differs between fp32 and auto: {flips}")


if __name__ == "__main__":
    main()
