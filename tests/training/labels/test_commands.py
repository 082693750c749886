"""The two commands as a user types them."""

import subprocess
import sys
from pathlib import Path

import pandas as pd


def train(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_practice_then_pack(tmp_path: Path) -> None:
    made = train("practice", tmp_path / "practice", "--count", "3", "--seed", "4", "--size", "96x72")
    assert made.returncode == 0, made.stderr
    packed = train("pack", "parts", tmp_path / "practice", tmp_path / "parts")
    assert packed.returncode == 0, packed.stderr
    assert "3 of 3 labels for parts (sapiens28, 28 classes) packed, in 3 photos" in packed.stdout
    assert "Face_Neck" in packed.stdout
    assert (pd.read_parquet(tmp_path / "parts/manifest").status == "packed").all()


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    for words, sentence in (
        (("pack", "poses", tmp_path, tmp_path / "out"), "task is 'poses'; allowed are pose, parts, depth, normals"),
        (("practice", tmp_path / "out", "--size", "big"), "--size is 'big'; give rows x columns"),
    ):
        done = train(*words)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
