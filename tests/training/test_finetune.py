"""Fine-tuning on a few practice pictures: it learns, stops and goes on exactly, and its model can be measured."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shards.labelled import open_labelled
from tests.training.test_distributed import torchrun
from tests.training.test_pretrain import assert_same_run, metrics, tensors
from training import loop
from training.checkpoint import newest
from training.config import TASKS, FinetuneConfig, UsageError, config_from
from training.distributed import Ranks
from training.evaluate import evaluate
from training.finetune import finetune
from training.labels.pack import Packing, pack
from training.models.task import load_task
from training.models.zoo import FAMILY, build_encoder
from training.practice.write import write_practice
from training.tasks import parts


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labelled shards of eight practice pictures for each task."""
    root = tmp_path_factory.mktemp("labelled")
    list(write_practice(root / "practice", 8, seed=3))
    for task in TASKS:
        list(pack(Packing(task, (root / "practice",), root / task)))  # type: ignore[arg-type]
    return {task: root / task for task in TASKS}


@pytest.fixture
def settings(tmp_path: Path, packed: dict[str, Path]) -> Callable[..., FinetuneConfig]:
    def make(task: str, **changed: Any) -> FinetuneConfig:
        values: dict[str, Any] = {
            "task": task,
            "data": (str(packed[task]),),
            "out": str(tmp_path / "run"),
            "model": "tiny",
            "size": "64x48",
            "images": 24,
            "batch": 4,
            "micro_batch": 2,
            "lr": 1e-3,
            "warmup_steps": 2,
            "workers": 0,
            "log_every": 1,
            "save_every": 2,
            "keep": 99,
        }
        return FinetuneConfig(**{**values, **changed})

    return make


@pytest.fixture
def pretrained(tmp_path: Path) -> str:
    torch.manual_seed(5)
    save_file(build_encoder(FAMILY["tiny"]).state_dict(), tmp_path / "encoder.safetensors", metadata={"grid": "16x16"})
    return str(tmp_path / "encoder.safetensors")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_and_is_measured(settings, packed, task):
    config = settings(task)
    assert finetune(config) == 0
    losses = [m["loss"] for m in metrics(config.run_folder)]
    assert len(losses) == 6
    assert all(loss is not None and loss > 0 for loss in losses)
    found = evaluate(task, config.out, (str(packed[task]),), batch=3, workers=0)
    assert found is not None
    assert (found.task, found.broken) == (task, ())
    assert found.n == load_count(packed[task])
    assert any(value is not None for value in found.values.values())
    assert str(found.n) in found.as_text()


def load_count(folder: Path) -> int:
    return open_labelled(str(folder)).shards.count


@pytest.mark.parametrize("task", ["pose", "normals"])
def test_a_few_pictures_can_be_learnt_by_heart(settings, task):
    config = settings(task, images=480, batch=8, micro_batch=8, lr=2e-3, warmup_steps=5, log_every=20, save_every=60)
    first = settings(task, images=8, batch=8, micro_batch=8, out=config.out + "-first")
    finetune(first)
    finetune(config)
    assert metrics(config.run_folder)[-1]["loss"] < 0.8 * metrics(first.run_folder)[0]["loss"]


@pytest.mark.parametrize("task", ["pose", "parts"])  # the decoder for parts has dropout
def test_a_stopped_run_goes_on_to_the_bit(settings, tmp_path, pretrained, monkeypatch, task):
    straight = settings(task, init=pretrained, ema=0.9, out=str(tmp_path / "straight"))
    assert finetune(straight) == 0
    halting = settings(task, init=pretrained, ema=0.9)
    real, steps = loop.set_learning_rate, []

    def stop_at_three(*given):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        real(*given)

    monkeypatch.setattr(loop, "set_learning_rate", stop_at_three)
    with pytest.raises(KeyboardInterrupt):
        finetune(halting)
    monkeypatch.undo()
    monkeypatch.setenv("SAPIENS_CACHE", str(tmp_path / "cache"))
    assert finetune(halting) == 0
    assert_same_run(straight.run_folder, halting.run_folder, 6)


def test_a_run_that_goes_on_with_another_batch_ends_with_the_last_whole_one(settings):
    assert finetune(settings("normals", images=24, max_minutes=1e-9)) == 0  # one step of 4
    again = settings("normals", images=24, batch=6)
    assert finetune(again) == 0
    assert [m["samples_seen"] for m in metrics(again.run_folder)] == [4, 10, 16, 22]
    assert newest(again.run_folder / "ckpt").name == "step-00000004"
    assert finetune(again) == 0


def test_the_encoder_starts_from_the_pretrained_and_is_trained_too(settings, pretrained):
    config = settings("parts", init=pretrained, images=4)
    finetune(config)
    before, after = load_file(pretrained), tensors(config.run_folder, 1)
    name = "blocks.5.mlp.fc1.weight"
    moved = (after[f"model.encoder.{name}"] - before[name]).abs()
    assert 0 < float(moved.max()) < 1e-2
    assert "model.encoder.cls_token" not in after
    assert after["model.encoder.pos_embed"].shape == (1, 12, 256)


def test_a_frozen_encoder_stays_as_it_was(settings, pretrained):
    config = settings("parts", init=pretrained, frozen=True)
    finetune(config)
    before, after = tensors(config.run_folder, 2), tensors(config.run_folder, 6)
    changed = {
        name.split(".")[1] for name in after if name.startswith("model.") and not before[name].equal(after[name])
    }
    assert changed == {"head"}
    assert load_task(config.out).task == "parts"


def test_two_tasks_on_one_frozen_encoder_share_a_pass(settings, pretrained, tmp_path):
    runs = [settings(task, init=pretrained, frozen=True, images=4, out=str(tmp_path / task)) for task in TASKS[:2]]
    for config in runs:
        finetune(config)
    pose, parts = (load_task(config.out) for config in runs)
    assert pose.encoder_hash == parts.encoder_hash


def test_mistakes_are_told(settings, packed, tmp_path, pretrained):
    with pytest.raises(UsageError, match="holds labels for depth; fine-tune that, or pack pose"):
        finetune(settings("pose", data=(str(packed["depth"]),)))
    with pytest.raises(UsageError, match="frozen needs --init"):
        settings("pose", frozen=True)
    with pytest.raises(UsageError, match="leave --backgrounds out"):
        settings("pose", backgrounds=str(tmp_path))
    with pytest.raises(UsageError, match="patch_padding is 1; allowed are 0, 2"):
        settings("pose", patch_padding=1)
    with pytest.raises(UsageError, match=r"256 wide and 6 blocks deep, not a sapiens-0\.3b"):
        finetune(settings("depth", init=pretrained, model="0.3b"))
    with pytest.raises(UsageError, match="task is 'posture'; allowed are pose, parts, depth, normals"):
        config_from(FinetuneConfig, {"task": "posture", "data": "x", "out": "y"})


def test_a_model_is_not_measured_on_labels_of_another_kind(settings, packed):
    config = settings("depth", images=4)
    finetune(config)
    with pytest.raises(UsageError, match="is for depth, not for normals"):
        evaluate("normals", config.out, (str(packed["normals"]),), workers=0)
    with pytest.raises(UsageError, match="is for normals, not for depth"):
        evaluate("depth", config.out, (str(packed["normals"]),), workers=0)


def test_measuring_does_not_depend_on_batches_workers_or_ranks(settings, packed, tmp_path):
    config = settings("normals", images=8)
    finetune(config)
    data = (str(packed["normals"]),)
    one = evaluate("normals", config.out, data, batch=8, workers=0)
    other = evaluate("normals", config.out, data, batch=3, workers=2)
    assert one is not None
    assert other is not None
    assert one.values == pytest.approx(other.values, rel=1e-4)
    one.write(tmp_path / "figures" / "result.json")
    assert json.loads((tmp_path / "figures" / "result.json").read_text())["n"] == one.n


def test_masks_of_the_same_classes_may_be_numbered_and_coloured_otherwise(settings, packed, tmp_path):
    """Shards hold the places in the list whatever the files did; other classes are no comparison."""
    config = settings("parts", images=8)
    finetune(config)
    other = tmp_path / "other"
    shutil.copytree(packed["parts"], other)
    labels = json.loads((other / "labels.json").read_text())
    for number, entry in enumerate(labels["classes"]["classes"]):
        entry |= {"value": 255 - number, "colour": [number, 0, 0], "weight": 2.0}
    (other / "labels.json").write_text(json.dumps(labels))
    found, wanted = (evaluate("parts", config.out, (str(d),), workers=0) for d in (other, packed["parts"]))
    assert found is not None
    assert wanted is not None
    assert found.values == wanted.values
    labels["classes"]["classes"][1]["name"] = "hat"
    (other / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(UsageError, match="cannot be compared"):
        evaluate("parts", config.out, (str(other),), workers=0)


def test_states_of_two_ranks_make_the_whole(settings, packed, monkeypatch):
    """Each rank measures its share; merged, they are what one rank measures."""
    config = settings("parts", images=8)
    finetune(config)
    data = (str(packed["parts"]),)
    whole = evaluate("parts", config.out, data, workers=0)
    states: list[Any] = []
    monkeypatch.setattr(Ranks, "gather", lambda self, value: states.append(value) or [value])
    for rank in range(2):
        monkeypatch.setattr("training.evaluate.all_ranks", lambda rank=rank: _alone_as(rank))
        evaluate("parts", config.out, data, workers=0)
    labels = load_task(config.out).label_set
    merged = parts.Metric.from_states([s for s in states if isinstance(s, dict)], labels)  # type: ignore[arg-type]
    assert whole is not None
    assert merged.n == whole.n
    assert merged.result() == whole.values


class _alone_as:
    """The ranks of a run of two, seen from one of them."""

    def __init__(self, rank: int) -> None:
        self.ranks = Ranks(rank, 2, rank, torch.device("cpu"))

    def __enter__(self) -> Ranks:
        return self.ranks

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does(settings, tmp_path, parallel):
    """The same samples, the same losses to rounding."""
    common = {"precision": "fp32", "images": 16}
    straight = settings("parts", out=str(tmp_path / "straight"), **common)
    assert finetune(straight) == 0
    spread = settings("parts", parallel=parallel, activation_checkpointing=parallel == "fsdp", **common)
    done = torchrun(spread, tmp_path, command_name="finetune")
    assert done.returncode == 0, done.stderr
    ours, theirs = metrics(straight.run_folder), metrics(spread.run_folder)
    assert [m["samples"] for m in ours] == [m["samples"] for m in theirs]
    assert [m["loss"] for m in ours] == pytest.approx([m["loss"] for m in theirs], rel=1e-2)
