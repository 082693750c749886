"""A detector with trained weights in the profile `full`: the engine flips no verdict of eager fp32 torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from benchmarks.coco_detector import CocoPeople, find
from curation import score
from curation.engines import Pixels, eager, weights_identity
from curation.full import networks
from curation.full.detector import SIDE
from curation.full.network import Built, Network, Runner
from curation.recipe import from_dict
from curation.run import Workplace, curate

RECIPE = {
    "name": "people",
    "profile": "full",
    "scorers": ["people", "quality"],
    "weights": {"people": "coco-detector-yolov5n.pt"},
    "rules": {"person": "persons(score > 0.45, short_side > 150) >= 1"},
}


class CocoDetector:
    """In the place of `curation.full.detector.Detector`, for weights that are no ultralytics model."""

    def __init__(self, weights: Path, exact: bool) -> None:
        self.identity = weights_identity("exact" if exact else "engine", weights)
        network = Network(weights_identity("coco", weights), lambda: built, lambda facts: Pixels())
        built = Built(CocoPeople(weights), (SIDE, SIDE), {})
        reference = eager(built.module, Pixels())

        def in_torch(pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.float32], ...]]:
            return [(reference(picture[None])[0][0],) for picture in pictures]

        self.run = in_torch if exact else Runner(network)

    def people(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return find(self.run, images)


@pytest.mark.real_data
def test_no_verdict_of_the_demo_flips(
    tmp_path: Path, demo_photos: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shared_data / "weights" / "coco-detector-yolov5n.pt"
    tables = {}
    for name in ("engine", "exact"):
        detector = CocoDetector(file, exact=name == "exact")
        monkeypatch.setattr(networks, "find_weights", lambda *request: file)
        monkeypatch.setattr(networks, "Detector", lambda *settings, d=detector: d)
        score._scorers.cache_clear()
        curate(str(demo_photos), str(tmp_path / name), from_dict(RECIPE, "people"), place=Workplace(0))
        tables[name] = pd.read_parquet(tmp_path / name / "manifest")
    score._scorers.cache_clear()
    found, wanted = tables["engine"], tables["exact"]
    best = {name: table["person_boxes"].map(best_score) for name, table in tables.items()}
    print(pd.DataFrame({"exact": best["exact"], "engine": best["engine"], "verdict": wanted["verdict"]}))
    assert (best["exact"] - best["engine"]).abs().max() < 0.03
    assert set(wanted["verdict"]) == {"kept", "rejected", "failed"}
    assert (found["verdict"] == wanted["verdict"]).all()


def best_score(boxes: NDArray[np.object_] | None) -> float:
    """The highest of an image's person scores; 0 without any."""
    return max((box["score"] for box in boxes), default=0.0) if boxes is not None else 0.0
