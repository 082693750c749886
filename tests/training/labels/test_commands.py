"""The two commands as a user types them."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from training.cli import main


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run `sapiens-train` with these words: exit code, what it printed, what it complained of."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sapiens-train", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        return (int(left.value.code or 0), *capsys.readouterr())

    return run


def test_practice_then_pack(train, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert train("practice", tmp_path / "practice", "--count", "3", "--seed", "4", "--size", "96x72")[0] == 0
    code, printed, _ = train("pack", "parts", tmp_path / "practice", tmp_path / "parts")
    assert code == 0
    assert "3 of 3 labels for parts (sapiens28, 28 classes) packed, in 3 photos" in printed
    assert "Face_Neck" in printed
    assert (tmp_path / "parts/preview.jpg").is_file()
    assert (pd.read_parquet(tmp_path / "parts/manifest").status == "packed").all()


def test_mistakes_are_one_sentence(train, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    for words, sentence in (
        (("pack", "poses", tmp_path, tmp_path / "out"), "task is 'poses'; allowed are pose, parts, depth, normals"),
        (
            ("pack", "parts", tmp_path, tmp_path / "out", "--scale", "0.001"),
            "--scale is for depth, and the task is parts",
        ),
        (
            ("pack", "pose", "a.json", "b.json", tmp_path / "out", "--images", "a", "--images", "b"),
            "--images is one folder for all files; leave it out",
        ),
        (("practice", tmp_path / "out", "--size", "big"), "--size is 'big'; give rows x columns"),
        (("practice", full), "is not empty; give a new"),
        (("pack", "parts", full, tmp_path / "out"), "has no folder 'images'"),
    ):
        code, printed, complaint = train(*words)
        assert (code, printed.strip()) == (2, "")  # not even a bar
        assert sentence in complaint
        assert complaint.count("\n") == 1
