"""Workers share the GPUs of a machine, and answer as eager fp32 torch does; what runs on them needs one."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from curation.engines import Pixels, compile_torch, eager
from curation.full.clip import Clip, find_clip, fit
from curation.full.craft import TextDetector, canvas
from curation.full.detector import Detector, letterbox
from curation.full.network import Runner, gpu
from curation.recipe import from_dict
from curation.run import Workplace, cores, curate

Photos = list[NDArray[np.uint8]]
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
RECIPE = {"name": "gpu", "profile": "full", "scorers": ["people"], "rules": {"size": "width > 0"}}


@pytest.mark.parametrize(
    ("worker", "count", "device"), [("0", 4, "cuda:0"), ("5", 4, "cuda:1"), ("tcp://far:1", 4, "cuda:0")]
)
def test_each_worker_takes_the_gpu_of_its_number(
    monkeypatch: pytest.MonkeyPatch, worker: str, count: int, device: str
) -> None:
    monkeypatch.setenv("SAPIENS_GPU", worker)
    assert gpu(count) == device


def test_one_worker_per_gpu_with_all_cores_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    place = Workplace().suited_to(from_dict(RECIPE, "gpu"))
    assert (place.processes, place.abreast) == (2, 4)
    assert place.threads == max(1, cores() // 8)
    assert Workplace(3).suited_to(from_dict(RECIPE, "gpu")).processes == 3
    assert Workplace(0).suited_to(from_dict(RECIPE, "gpu")) == Workplace(0)
    builtin = RECIPE | {"profile": "builtin"}
    assert Workplace().suited_to(from_dict(builtin, "builtin")) == Workplace()


def exact(runner: Runner, pictures: Photos) -> list[NDArray[np.float32]]:
    """The network's first output in eager fp32 torch on the CPU, picture by picture."""
    built = runner.network.build()
    reference = eager(built.module, runner.network.pixels(built.facts))
    return [reference(picture[None])[0][0] for picture in pictures]


def quick(runner: Runner, pictures: Photos, caplog: pytest.LogCaptureFixture) -> list[NDArray[np.float32]]:
    """The same as the runner gives it, compiled for a GPU and not eager in its stead."""
    with caplog.at_level(logging.WARNING, "curation"):
        found = [outputs[0] for outputs in runner(pictures)]
    assert not [record for record in caplog.records if record.name == "curation"]
    assert runner._engine(pictures[0].shape[:2]).where == "cuda:0"
    return found


@on_a_gpu
def test_boxes_in_bf16(yolo_pt: Path, photos: Photos, caplog: pytest.LogCaptureFixture) -> None:
    """Of every anchor that may become a box: its score, and its centre and size in pixels, on average. Random weights
    are unsure of every side, by up to 16 strides: eager bf16 on a CPU is 3.7 to 11.7 px away, an H100 was 5.3.
    """
    runner, pictures = Detector(yolo_pt)._runner, [letterbox(photo) for photo in [*photos, photos[1]]]
    for found, wanted in zip(quick(runner, pictures, caplog), exact(runner, pictures), strict=True):
        likely = wanted[4] > 0.05
        assert likely.sum() > 20
        assert np.abs(found[4] - wanted[4])[likely].mean() < 0.03
        assert np.abs(found[:4] - wanted[:4])[:, likely].mean() < 8


@on_a_gpu
def test_maps_in_bf16(craft_pth: Path, photos: Photos, caplog: pytest.LogCaptureFixture) -> None:
    runner, pictures = TextDetector(craft_pth)._runner, [canvas(photo)[0] for photo in photos[2:]]
    for found, wanted in zip(quick(runner, pictures, caplog), exact(runner, pictures), strict=True):
        assert np.abs(found - wanted).mean() < 0.02
        assert np.abs(found - wanted).max() < 0.15


@on_a_gpu
def test_embeddings_in_bf16(clip_folder: Path, photos: Photos, caplog: pytest.LogCaptureFixture) -> None:
    runner = Clip(find_clip(str(clip_folder)))._runner
    pictures = [fit(photo, 64, "shortest", "bicubic") for photo in photos]
    for found, wanted in zip(quick(runner, pictures, caplog), exact(runner, pictures), strict=True):
        assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.999


@on_a_gpu
def test_a_batch_is_halved_where_the_memory_really_ends() -> None:
    """Of 32 pictures, each of which takes 128 MiB in the network, in 2 GiB."""
    net = nn.Sequential(nn.Conv2d(3, 128, 1), nn.ReLU(), nn.Conv2d(128, 1, 1))
    batch = np.random.default_rng(0).integers(0, 256, (32, 512, 512, 3), np.uint8)
    wanted = eager(net, Pixels())(batch[:2])[0]
    engine = compile_torch(net, (512, 512), Pixels(), device="cuda:0", precision="fp32")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        (found,) = engine(batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.shape == (32, 1, 512, 512)
    np.testing.assert_allclose(found[:2], wanted, atol=1e-2)


@on_a_gpu
def test_a_run_on_a_gpu_answers_as_on_a_cpu(
    yolo_pt: Path, craft_pth: Path, clip_folder: Path, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 images, three units, worked on at the same time by one worker's threads."""
    weights = {"people": str(yolo_pt), "text": str(craft_pth), "clip": str(clip_folder)}
    wanted = {"scorers": ["people", "text", "watermark", "style"], "weights": weights}
    recipe, source = from_dict(RECIPE | wanted, "gpu"), tmp_path / "photos"
    source.mkdir()
    for number in range(40):
        Image.fromarray(photos[number % 4][:: 1 + number % 2]).save(source / f"{number:02d}.png")
    curate(str(source), str(tmp_path / "gpu"), recipe)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    curate(str(source), str(tmp_path / "cpu"), recipe, place=Workplace(0))
    on_gpu, on_cpu = (pd.read_parquet(tmp_path / name / "manifest") for name in ("gpu", "cpu"))
    assert (on_gpu["status"] == "success").all()
    assert (on_gpu["uri"] == on_cpu["uri"]).all()
    assert (on_gpu["person_boxes"].map(len) > 0).all()
    for column in ("pwatermark", "partistic", "punnatural", "text_area"):
        assert (on_gpu[column] - on_cpu[column]).abs().max() < 0.1, column
