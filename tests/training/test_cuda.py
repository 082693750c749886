"""A GPU does what the CPU does: training learns the same, models answer the same. Skipped where there is none."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.test_finetune import packed, pretrained, settings  # noqa: F401  (fixtures)
from tests.training.test_pretrain import metrics
from training.finetune import finetune
from training.models.heads import HEADS
from training.models.task import TASKS, load_task
from training.predict.models import load_models
from training.pretrain import pretrain

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Losses of a run on the CPU or the GPU, step by step."""

    def run(train: Callable[[Any], int], config: Any, on_gpu: bool) -> list[float]:
        with monkeypatch.context() as patch:
            if not on_gpu:
                patch.setattr(torch.cuda, "is_available", lambda: False)
            assert train(config) == 0
        return [m["loss"] for m in metrics(config.run_folder)]

    return run


@pytest.mark.parametrize(("precision", "compiled", "close"), [("fp32", "off", 1e-3), ("bf16", "on", 2e-2)])
def test_a_pretraining_moved_to_the_gpu_learns_what_it_learns_on_the_cpu(
    config, tmp_path, losses, precision, compiled, close
):
    common = {"base_lr": 0.003, "compile": "off"}
    on_cpu = losses(pretrain, config(run=str(tmp_path / "cpu"), precision="fp32", **common), on_gpu=False)
    shutil.copytree(tmp_path / "cpu", tmp_path / "gpu")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "gpu" / "ckpt" / f"step-{step:08d}")
    common |= {"precision": precision, "compile": compiled, "workers": 2}
    moved = losses(pretrain, config(run=str(tmp_path / "gpu"), **common), on_gpu=True)
    assert len(moved) == 6
    assert moved == pytest.approx(on_cpu, rel=close)


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuning_learns_what_it_learns_on_the_cpu(settings, tmp_path, pretrained, losses, monkeypatch, task):  # noqa: F811
    monkeypatch.setitem(HEADS, task, replace(HEADS[task], dropout=0.0))  # its draws are the device's own
    common = {"init": pretrained, "precision": "fp32", "compile": "off"}
    on_cpu = losses(finetune, settings(task, out=str(tmp_path / "cpu"), **common), on_gpu=False)
    on_gpu = losses(finetune, settings(task, out=str(tmp_path / "gpu"), workers=1, **common), on_gpu=True)
    assert on_gpu == pytest.approx(on_cpu, rel=5e-3)


@pytest.mark.parametrize(("precision", "close"), [("fp32", 5e-3), ("bf16", 0.1)])
def test_models_answer_as_on_the_cpu(settings, tmp_path, pretrained, precision, close):  # noqa: F811
    runs = {task: settings(task, init=pretrained, frozen=True, images=8, out=str(tmp_path / task)) for task in TASKS}
    for run in runs.values():
        finetune(run)
    paths = {task: str(run.run_folder) for task, run in runs.items()}
    size = load_task(paths["pose"]).size
    views = {size: np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)}
    expected = load_models(paths, torch.device("cpu"))(views)
    models = load_models(paths, torch.device("cuda"), precision)
    assert len(models.groups) == 1
    for task, found in models(views).items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[task], atol=close * np.abs(expected[task]).max(), err_msg=task)
