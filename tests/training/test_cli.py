"""The door: options come from the config class, mistakes end with one sentence and exit code 2."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from training import cli
from training.config import PretrainConfig


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit code of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["sapiens-train", *words])
    with pytest.raises(SystemExit) as done:
        cli.main()
    return int(done.value.code or 0)


def test_a_full_gpu_is_one_sentence(monkeypatch, capsys):
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")

    monkeypatch.setattr(cli, "app", full)
    assert run(monkeypatch, "pretrain", "x") == 2
    said = capsys.readouterr().err
    assert said.startswith("sapiens-train: the GPU's memory is full (CUDA out of memory); give a smaller --micro-batch")
    assert said.count("\n") == 1


def test_an_argument_alone_is_not_taken_for_out(monkeypatch, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("data: [x]\nout: y\n")
    for words in (["finetune", "pose", "labels"], ["finetune", "pose", "labels", "--config", str(tmp_path / "c.yaml")]):
        assert run(monkeypatch, *words) == 2
        assert "OUT is missing: labels alone was given" in capsys.readouterr().err


def test_a_plan_for_endless_memory_is_refused(monkeypatch):
    assert run(monkeypatch, "plan", "--gpu-memory", "inf") == 2


def test_every_setting_has_a_flag_of_its_name(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "pretrain", "--help") == 0
    shown = capsys.readouterr().out
    missing = [
        f.name for f in fields(PretrainConfig) if f.name != "data" and "--" + f.name.replace("_", "-") not in shown
    ]
    assert missing == []
    assert "Training length in images seen. [default: 300000000]" in shown


def test_help_names_the_defaults_that_depend(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "predict", "-h") == 0
    assert "Least score of a person. [default: 0.5; of a FILE: 0]" in capsys.readouterr().out


def test_flags_reach_the_run_and_its_folder(monkeypatch, tmp_path, data):
    words = "--model tiny --size 64 --images 16 --batch 8 --micro-batch 8 --workers 0 --no-scaled-decode".split()
    assert run(monkeypatch, "pretrain", str(data), "--run", str(tmp_path / "r"), *words) == 0
    written = (tmp_path / "r/config.yaml").read_text()
    assert "scaled_decode: false" in written
    assert "images: 16" in written
    assert run(monkeypatch, "pretrain", "--config", str(tmp_path / "r/config.yaml")) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pretrain", "/nowhere"], "holds no tar shards"),
        (["pretrain", "x", "--model", "3b"], "allowed are tiny"),
        (["pretrain"], "data must be given"),
        (["convert", "none.pth", "o.safetensors"], "none.pth does not exist"),
        (["convert", "none.pth", "o.pth"], "ends in .safetensors"),
        (["convert", "none.pth", "o.safetensors", "--layout", "keras"], "allowed are encoder, mae, task, official"),
        (["convert", "none.pth", "o.safetensors", "--patch-padding", "7"], "patch_padding is 7; allowed are 0 and 2"),
        (["practice", __file__, "--count", "1"], "Not a directory"),
        (["reconstruct", "none", "a.jpg"], "none does not exist"),
        (["plan", "--model", "9b"], "allowed are tiny"),
        (["plan", "--images", "many"], "images is 'many'"),
        (["plan", "--images", "0"], "images is '0'; give 1 to 1e12"),
        (["plan", "--images", "1e30"], "images is '1e30'; give 1 to 1e12"),
        (["predict", "a.jpg", "--pose", "x"], "OUT is missing: only a.jpg was given"),
        (["pack", "pose", "labels"], "OUT is missing: only labels was given"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(monkeypatch, capsys, words, says):
    assert run(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("sapiens-train: ")
    assert error.count("\n") == 1


def test_models_prints_the_family_and_its_peers():
    rows = json.loads(CliRunner().invoke(cli.app, ["models", "--json"]).output)
    ours = {row["name"]: row for row in rows if row["name"].startswith("sapiens-")}
    assert ours["sapiens-2b"]["encoder_params"] + ours["sapiens-2b"]["decoder_params"] == 2_162_608_768
    # The paper's table counts multiply-adds of one 1024 px image without attention: 8.709 T for 2B.
    assert ours["sapiens-2b"]["tflops_without_attention"] / 2 == pytest.approx(8.709, rel=1e-3)
    assert {"DINOv2-g", "Sapiens2-5B"} <= {row["name"] for row in rows}
    assert "without attention" in CliRunner().invoke(cli.app, ["models"]).output


def test_plan_prints_memory_hours_and_advice():
    text = CliRunner().invoke(cli.app, ["plan", "--model", "1b", "--gpus", "64", "--images", "300e6"]).output
    for part in ("1.169 B parameters", "64 GPUs", "fsdp + checkpointing", "45%", "shards: about 30,000"):
        assert part in text


@pytest.mark.slow
def test_the_installed_command_starts(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", "--help"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0
    for command in ("pretrain", "reconstruct", "convert", "plan", "models"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "; free some space, then run the same command again"), (errno.EROFS, "")]
)
def test_a_full_disk_is_one_sentence_with_advice(monkeypatch, capsys, number, advice):
    def refused(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("training.predict.run.predict", refused)
    assert run(monkeypatch, "predict", "photos", "out", "--pose", "pose") == 2
    assert capsys.readouterr().err == f"sapiens-train: [Errno {number}] {os.strerror(number)}{advice}\n"
