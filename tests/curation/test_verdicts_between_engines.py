"""The engines' own precision changes scores a little, and no verdict of the demo's photos.

What they are compared with does not use them: eager fp32 torch for the people network, which is made in torch, and ONNX
Runtime in fp32 for the two that come as ONNX files.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import nn

from curation import score
from curation.builtin import networks
from curation.engines import Array, Engine, Pixels, Precision, eager
from curation.recipe import Recipe
from curation.report.cards import numbers_of
from curation.report.columns import BEST_PERSON
from curation.report.thresholds import lines
from curation.run import Workplace, curate
from manifests.scan import rows_at
from manifests.store import Store

TOLERANCE = {"pwatermark": 0.03, "partistic": 0.05, "punnatural": 0.05, "text_area_outside": 0.08, BEST_PERSON: 0.03}
"""Text comes in whole regions: of a faint mark's letters bf16 may find one more or less (0.055 on an EPYC)."""


def exact_torch(
    identity: str,
    build: Callable[[], nn.Module],
    size: tuple[int, int],
    pixels: Pixels,
    threads: int,
    precision: Precision,
) -> Engine:
    """In the place of `compile_once`."""
    return eager(build(), pixels)


def exact_onnx(
    path: Path, size: tuple[int, int], extra: Sequence[str], pixels: Pixels, threads: int, precision: Precision
) -> Engine:
    """In the place of `compile_onnx`."""
    model = onnx.load(path)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in extra)
    for axis, name in zip(model.graph.input[0].type.tensor_type.shape.dim, "bchw", strict=True):
        if name != "c":
            axis.dim_param = name
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])

    def run(batch: Array) -> tuple[Array, ...]:
        x = ((batch.astype(np.float32) - pixels.mean) / pixels.scale).astype(np.float32).transpose(0, 3, 1, 2)
        x = x[:, ::-1] if pixels.bgr else x
        rows: list[Any] = [session.run(None, {session.get_inputs()[0].name: x[i : i + 1]}) for i in range(len(x))]
        return tuple(np.concatenate(column) for column in zip(*rows, strict=True))

    return Engine(run, "cpu", "fp32")


def test_verdicts_of_the_demo(
    tmp_path: Path, demo_photos: Path, demo_recipe: Recipe, demo_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "compile_once", exact_torch)
    monkeypatch.setattr(networks, "compile_onnx", exact_onnx)
    score._scorers.cache_clear()
    counts = curate(str(demo_photos), str(tmp_path / "exact"), demo_recipe, place=Workplace(0))
    score._scorers.cache_clear()
    engines, reference = (rows_at(Store(out), range(counts.inputs)).values() for out in (demo_run, tmp_path / "exact"))
    scored = 0
    for quick, exact in zip(engines, reference, strict=True):
        if exact["verdict"] == "failed":
            assert quick["verdict"] == "failed"
            continue
        found, wanted = (numbers_of(row, lines(demo_recipe)) for row in (quick, exact))
        for column, tolerance in TOLERANCE.items():
            assert found.get(column, 0.0) == pytest.approx(wanted.get(column, 0.0), abs=tolerance), exact["uri"]
            scored += wanted.get(column, 0.0) > tolerance
        assert quick["verdict"] == exact["verdict"], exact["uri"]
    assert scored > 30
