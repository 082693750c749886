"""Exported files answer as the model does, for any number of images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from training import export as module
from training.config import UsageError
from training.export import compare, export, facts, open_archive, trace, write_archive
from training.labels.sets import KeypointSet
from training.models.heads import Head
from training.models.task import LoadedTask, TaskModel, load_task, write_task
from training.models.zoo import Architecture, build_encoder

ARCH = Architecture("tiny", 256, 6, 4, image=256, head_width=64)
SIZE = (64, 48)
LABELS = {
    "pose": {"format": 1, "task": "pose", "keypoints": KeypointSet.load("coco17").to_dict()},
    "depth": {"format": 1, "task": "depth", "unit": "relative"},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pose model with a padded patch convolution, as the released ones have."""
    return _write(tmp_path_factory.mktemp("model") / "pose.safetensors", "pose", patch_padding=2)


def _write(path: Path, task: str, patch_padding: int = 0) -> str:
    torch.manual_seed(0)
    encoder = build_encoder(ARCH, (4, 3), cls_token=False, patch_padding=patch_padding)
    model = TaskModel(encoder, Head(task, ARCH, 17 if task == "pose" else 1))
    write_task(LoadedTask(task, model, ARCH, SIZE, LABELS[task], "", ""), path)
    return str(path)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


ANSWER = """
import sys, numpy as np, openvino
compiled = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.save(sys.argv[3], compiled(np.load(sys.argv[2]))[0])
"""


def test_onnx_runs_in_openvino_on_any_number_of_images(checkpoint, tmp_path):
    """In processes of their own: OpenVINO's threads do not survive the forks of other tests."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    file = tmp_path / "made" / "pose.onnx"
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", "export", checkpoint, str(file)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HOME": str(tmp_path), "CI": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "run with OpenVINO it differs" in done.stdout
    assert not (tmp_path / "intel").exists(), "OpenVINO's telemetry"
    assert [p.name for p in file.parent.iterdir()] == ["pose.onnx"]

    np.save(tmp_path / "in.npy", images(5))
    words = [sys.executable, "-c", ANSWER, str(file), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run(words, check=True)
    expected = load_task(checkpoint).model(torch.from_numpy(images(5))).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)

    model = onnx.load(file)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["labels"])["keypoints"]["keypoints"][0] == "nose"
    (entry,) = model.graph.input
    assert entry.name == "images"
    shape = entry.type.tensor_type.shape.dim
    assert (shape[0].dim_param, [d.dim_value for d in shape[1:]]) == ("batch", [64, 48, 3])
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [output.name for output in model.graph.output] == ["output"]


def test_an_archive_is_read_without_this_project(checkpoint, tmp_path):
    done = export(checkpoint, tmp_path / "pose.pt2")
    assert done.difference < 1e-6
    extra = {"model.json": ""}
    program = torch.export.load(done.path, extra_files=extra)
    assert json.loads(extra["model.json"])["task"] == "pose"
    answer = program.module()(torch.from_numpy(images(4))).detach()
    torch.testing.assert_close(answer, load_task(checkpoint).model(torch.from_numpy(images(4))))


def test_a_file_that_answers_otherwise_is_noticed_and_not_kept(checkpoint, tmp_path, monkeypatch):
    other = load_task(checkpoint)
    with torch.no_grad():
        other.model.head.final_layer.bias.add_(0.1)
    write_archive(trace(other), other, tmp_path / "other.pt2")
    assert compare(load_task(checkpoint), open_archive(tmp_path / "other.pt2")) > module.TOLERANCE

    (tmp_path / "kept.pt2").write_bytes(b"an earlier export")
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(UsageError, match=r"differs from the model by .* so it was not kept"):
        export(checkpoint, tmp_path / "kept.pt2")
    assert (tmp_path / "kept.pt2").read_bytes() == b"an earlier export"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.pt2", "other.pt2"]


def test_wrong_shapes_and_broken_numbers_differ_without_bound(checkpoint):
    loaded = load_task(checkpoint)
    assert compare(loaded, lambda given: np.zeros((1, 2, 3), np.float32)) == float("inf")
    assert compare(loaded, lambda given: np.full((len(given), 17, 16, 12), np.nan, np.float32)) == float("inf")


def test_depth_exports_too(tmp_path):
    assert export(_write(tmp_path / "depth.safetensors", "depth"), tmp_path / "depth.pt2").difference < 1e-6


def test_facts_state_the_input(checkpoint):
    assert facts(load_task(checkpoint))["input"] == "uint8 RGB (batch, 64, 48, 3)"


def test_what_cannot_be_written_is_one_sentence(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"ends in \.onnx or \.pt2"):
        export(checkpoint, tmp_path / "pose.engine")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match=r"needs onnxscript, .* pip install 'sapiens-curation\[export\]'"):
        export(checkpoint, tmp_path / "pose.onnx")
