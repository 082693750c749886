"""A real COCO detector through the same engine, letterbox and NMS as any ultralytics one: how well does it find people?

    python benchmarks/coco_detector.py SHARED/data

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
from ultralytics.nn.modules import C3, SPPF, Conv
from ultralytics.utils import nms, ops

from curation.engines import Pixels, Precision, weights_identity
from curation.full.detector import LEAST_SCORE, SIDE, letterbox
from curation.full.network import Built, Network, Runner

SETS = ("people-coco-000", "people-voc-000", "people-video-000")
STRIDES = (8, 16, 32)
OVERLAP = 0.6
THRESHOLDS = (0.25, 0.4, 0.5, 0.7)
Run = Callable[[Sequence[NDArray[np.uint8]]], list[tuple[NDArray[np.float32], ...]]]
"""What a `Runner` does: pictures → each one's outputs."""


class YoloV5n(nn.Module):
    """YOLOv5n v6, persons only: float32 [B,3,H,W] in 0…1 → [B,5,N], centre x, y, width, height in pixels, score."""

    def __init__(self, anchors: Tensor) -> None:
        super().__init__()
        layers = {
            0: Conv(3, 16, 6, 2, 2),
            1: Conv(16, 32, 3, 2),
            2: C3(32, 32, 1),
            3: Conv(32, 64, 3, 2),
            4: C3(64, 64, 2),
            5: Conv(64, 128, 3, 2),
            6: C3(128, 128, 3),
            7: Conv(128, 256, 3, 2),
            8: C3(256, 256, 1),
            9: SPPF(256, 256, 5),
            10: Conv(256, 128, 1, 1),
            13: C3(256, 128, 1, False),
            14: Conv(128, 64, 1, 1),
            17: C3(128, 64, 1, False),
            18: Conv(64, 64, 3, 2),
            20: C3(128, 128, 1, False),
            21: Conv(128, 128, 3, 2),
            23: C3(256, 256, 1, False),
        }
        self.model = nn.ModuleDict({str(number): layer for number, layer in layers.items()})
        self.model["24"] = nn.ModuleDict({"m": nn.ModuleList(nn.Conv2d(c, 255, 1) for c in (64, 128, 256))})
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        net = self.model
        for number in "0123":
            x = net[number](x)
        c3 = net["4"](x)
        c4 = net["6"](net["5"](c3))
        top = net["10"](net["9"](net["8"](net["7"](c4))))
        middle = net["14"](net["13"](torch.cat([nn.functional.interpolate(top, scale_factor=2.0), c4], 1)))
        p3 = net["17"](torch.cat([nn.functional.interpolate(middle, scale_factor=2.0), c3], 1))
        p4 = net["20"](torch.cat([net["18"](p3), middle], 1))
        p5 = net["23"](torch.cat([net["21"](p4), top], 1))
        heads = net["24"]["m"]
        return torch.cat([self._boxes(heads[i](p), i) for i, p in enumerate((p3, p4, p5))], 2)

    def _boxes(self, raw: Tensor, level: int) -> Tensor:
        height, width = raw.shape[2:]
        y = raw.unflatten(1, (3, 85)).sigmoid()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([columns, rows]).to(y)
        centre = (y[:, :, :2] * 2 - 0.5 + grid) * STRIDES[level]
        size = (y[:, :, 2:4] * 2) ** 2 * self.anchors[level][None, :, :, None, None]
        person = y[:, :, 5:6]
        score = torch.where(
            person >= y[:, :, 5:].amax(2, keepdim=True), y[:, :, 4:5] * person, torch.zeros_like(person)
        )
        return torch.cat([centre, size, score], 2).permute(0, 2, 1, 3, 4).flatten(2)


def load(file: Path) -> YoloV5n:
    saved = torch.load(file, map_location="cpu", weights_only=True)
    anchors = torch.as_tensor(saved["anchors"]).float().view(3, 3, 2)
    if float(anchors.max()) < 60:  # in cells of their level
        anchors = anchors * torch.tensor(STRIDES).view(3, 1, 1)
    net = YoloV5n(anchors)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    state = {name: value.float() for name, value in saved["state_dict"].items() if "anchor" not in name}
    names = {name[name.index("model.") :] if "model." in name else f"model.{name}": v for name, v in state.items()}
    net.load_state_dict(names)
    return net.eval()


def find(runner: Run, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Person boxes as `Detector.people` gives them."""
    squares = [letterbox(image) for image in images]
    found = []
    for (output,), square, image in zip(runner(squares), squares, images, strict=True):
        (boxes,) = nms.non_max_suppression(torch.from_numpy(output)[None], LEAST_SCORE, OVERLAP)
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


def matched(found: NDArray[np.float32], truth: NDArray[np.float32]) -> int:
    """How many found boxes, best first, overlap a person that no better one has taken by at least half."""
    free, hits = set(range(len(truth))), 0
    for box in found:
        overlaps = {i: overlap(box, truth[i]) for i in free}
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= 0.5:
            free.discard(best)
            hits += 1
    return hits


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    file = data / "weights" / "coco-detector-yolov5n.pt"
    network = Network(
        weights_identity(file.stem, file), lambda: Built(load(file), (SIDE, SIDE), {}), lambda facts: Pixels()
    )
    photos, truths = map(list, zip(*labelled(data), strict=True))
    answers: dict[Precision, list[NDArray[np.float32]]] = {}
    for precision in ("fp32", "auto"):
        answers[precision] = find(Runner(network, threads=2, precision=precision), photos)
        for threshold in THRESHOLDS:
            kept = [boxes[boxes[:, 4] >= threshold] for boxes in answers[precision]]
            hits = sum(matched(boxes, truth) for boxes, truth in zip(kept, truths, strict=True))
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
