"""The command as a user starts it, with the built-in detector."""

import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from training import cli
from training.predict import run as predicting
from training.predict.files import write_photo


def run(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the detector's threads do not survive the forks of other tests."""
    command = [sys.executable, "-m", "training.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_people_are_found_and_a_plain_wall_is_left_alone(checkpoints, tmp_path):
    pytest.importorskip("skimage")
    from skimage.data import astronaut

    large = cv2.resize(astronaut(), (1800, 1800))
    cv2.imwrite(str(tmp_path / "person.png"), cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((90, 120, 3), 200, np.uint8))
    words = ["person.png", "wall.png", "out", "--pose", checkpoints["pose"], "--parts", checkpoints["parts"]]
    done = run("predict", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    person, wall = pd.read_parquet(tmp_path / "out" / "manifest.parquet").to_dict("records")
    assert (wall["status"], wall["num_persons"]) == ("success", 0)
    best = max(person["person_boxes"], key=lambda box: box["score"])
    assert best["score"] > 0.5
    assert best["x1"] - best["x0"] > 600
    assert best["y1"] - best["y0"] > 1000
    assert done.stdout.startswith("out: 2 photos with ")


def test_mistakes_are_one_sentence_and_inputs_that_all_fail_are_an_exit_code(
    checkpoints, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(b"no picture")

    def code(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["sapiens-train", "predict", *words])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return int(done.value.code or 0)

    for words, says in (
        (["a.jpg", "out"], "no model was given"),
        (["none.tar", "out", "--pose", checkpoints["pose"]], "none.tar does not exist"),
        (["none.jpg", "out", "--pose", checkpoints["pose"]], "none.jpg does not exist"),
        (["a.jpg", "out", "--pose", "none"], "none does not exist"),
        (["a.jpg", "out", "--precision", "int8"], "allowed are fp32 and bf16"),
    ):
        assert code(*words) == 2
        error = capsys.readouterr().err
        assert says in error
        assert (error.count("\n"), error.startswith("sapiens-train: ")) == (1, True)
    assert code("a.jpg", "out", "--boxes", "whole", "--pose", checkpoints["pose"]) == 1
    told = capsys.readouterr()
    assert "a.jpg: BrokenImage: not an image: it starts with b'no pictu'" in told.err
    assert told.out == "out: 1 failed\n"


def test_sigterm_keeps_what_was_done_as_ctrl_c_does(checkpoints, photos, tmp_path, monkeypatch):
    def terminated(*arguments: object) -> object:
        written = write_photo(*arguments)
        if len(list((tmp_path / "out").glob("*.keypoints.json"))) == 2:
            signal.raise_signal(signal.SIGTERM)
        return written

    monkeypatch.setattr(predicting, "write_photo", terminated)
    words = [str(photos), str(tmp_path / "out"), "--boxes", "whole", "--pose", checkpoints["pose"], "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["sapiens-train", "predict", *words])
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.value.code == 130
    assert pd.read_parquet(tmp_path / "out" / "manifest.parquet").name.tolist() == ["a"]
