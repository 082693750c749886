"""The engines against eager fp32 torch, network by network, with the tolerance of each.

CLIP's (cosine over 0.999 in bf16, 1e-4 in fp32) is in test_clip.py, CRAFT's in bf16 in test_craft.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from curation.engines import Precision, eager, traced_if_possible
from curation.full.craft import TextDetector, canvas
from curation.full.detector import Detector, letterbox
from curation.full.network import Runner

Photos = list[NDArray[np.uint8]]


def in_torch(runner: Runner, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    built = runner.network.build()
    (output,) = eager(built.module, runner.network.pixels(built.facts))(picture[None])
    return output[0]


@pytest.mark.parametrize(("precision", "score", "pixels"), [("fp32", 1e-4, 0.05), ("auto", 0.03, 4.0)])
def test_yolo(yolo_pt: Path, photos: Photos, precision: Precision, score: float, pixels: float) -> None:
    """Of every anchor that may become a box: its score, and its centre and size, on average."""
    runner, picture = Detector(yolo_pt, precision=precision)._runner, letterbox(photos[3])
    ((found,),), wanted = runner([picture]), in_torch(runner, picture)
    likely = wanted[4] > 0.05
    assert likely.sum() > 20
    assert np.abs(found[4] - wanted[4])[likely].mean() < score
    assert np.abs(found[:4] - wanted[:4])[:, likely].mean() < pixels


def test_craft_in_fp32(craft_pth: Path, photos: Photos, library: str) -> None:
    picture = canvas(photos[2])[0]
    runner = TextDetector(craft_pth, precision="fp32")._runner
    ((found,),), wanted = runner([picture]), in_torch(runner, picture)
    assert runner._source.library.name == library
    assert np.abs(found - wanted).max() < 1e-3


def test_torch_traces_each_network_once_for_all_sizes(
    yolo_pt: Path, craft_pth: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a GPU needs: no preparation for every picture size or batch."""
    for runner in (Detector(yolo_pt)._runner, TextDetector(craft_pth)._runner):
        module = runner.network.build().module
        traced = traced_if_possible(module, torch.zeros(2, 3, 64, 96), torch.float32)
        with torch.inference_mode():
            for shape in ((1, 3, 64, 96), (4, 3, 96, 64), (3, 3, 96, 96)):
                x = torch.rand(shape)
                torch.testing.assert_close(traced(x), module(x), atol=1e-4, rtol=1e-4)
    assert not caplog.records


def test_the_step_from_maps_to_boxes_is_ultralytics_own_and_stays_in_fp32(yolo_pt: Path) -> None:
    """In bf16 corners would move by whole pixels."""
    head = Detector(yolo_pt)._runner.network.build().module.model.model[-1]
    feats = [torch.zeros(2, 1, 640 // stride, 480 // stride) for stride in (8, 16, 32)]
    anchors = sum(f.shape[2] * f.shape[3] for f in feats)
    torch.manual_seed(0)
    maps = {"boxes": torch.randn(2, 64, anchors), "scores": torch.randn(2, head.nc, anchors), "feats": feats}
    with torch.inference_mode():
        wanted = type(head)._inference(head, maps)
        with torch.autocast("cpu", torch.bfloat16):
            found = head._inference(maps)
            coarse = type(head)._inference(head, maps)
    torch.testing.assert_close(found, wanted)
    assert (coarse.float() - wanted)[:, :4].abs().max() > 1
