"""The engines against eager fp32 torch, network by network, with the tolerance of each.

CLIP's (cosine over 0.999 in bf16, 1e-4 in fp32) is in test_clip.py, CRAFT's in bf16 in test_craft.py.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.engines import Precision, eager
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


def test_craft_in_fp32(craft_pth: Path, photos: Photos) -> None:
    picture = canvas(photos[2])[0]
    runner = TextDetector(craft_pth, precision="fp32")._runner
    ((found,),), wanted = runner([picture]), in_torch(runner, picture)
    assert np.abs(found - wanted).max() < 1e-3
