"""`models list | fetch | verify`, and weights carried to a machine without a network."""

from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curation.cli import app
from curation.errors import UsageError
from curation.full import fetch
from curation.full.catalogue import CATALOGUE, Weights
from curation.full.fetch import find_weights
from curation.models import fetch_all

NAME = "yolo11n.pt"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder on a machine that reaches nothing."""
    monkeypatch.setenv("SAPIENS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    return tmp_path


def said(*command: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["models", *command])
    return result.exit_code, result.output


def test_list_names_source_size_licence_hash_and_place(folder: Path) -> None:
    code, text = said("list")
    assert code == 0
    for weights in CATALOGUE.values():
        for fact in (weights.name, weights.url, weights.licence, f"{weights.megabytes:.1f} MB", weights.sha256):
            assert fact in text
    assert str(folder) in text
    assert text.count("not here") >= len(CATALOGUE)


def test_verify_refuses_a_file_that_is_not_the_pinned_one(folder: Path) -> None:
    assert said("verify") == (0, f"nothing fetched yet in {folder}\n")
    (folder / NAME).write_bytes(b"something else")
    code, text = said("verify")
    assert code == 1
    assert f"not {CATALOGUE[NAME].sha256}" in text
    with pytest.raises(UsageError, match="has sha256"):
        find_weights(NAME, "people")
    with pytest.raises(UsageError, match="has sha256"):
        fetch_all([NAME])


def test_a_carried_file_serves_without_a_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = Weights(NAME, "people", "https://nowhere.invalid/x", 0.1, "MIT", sha256(b"weights").hexdigest())
    monkeypatch.setitem(fetch.CATALOGUE, NAME, pinned)
    with pytest.raises(UsageError, match="is not on this machine and cannot be downloaded"):
        fetch_all([NAME])
    (folder / ".lock").unlink()
    (folder / NAME).write_bytes(b"weights")
    assert find_weights(NAME, "people") == folder / NAME
    assert [file.name for file in folder.iterdir()] == [NAME], "nothing is written: it may be a folder that all share"
    assert said("fetch", NAME) == (0, f"{NAME}: {folder / NAME}\n")
    assert said("verify") == (0, f"{NAME}: sha256 as it should be\n")


def test_an_unknown_name_lists_the_known(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no weights are called 'yolo99.pt'; there are yolo11n.pt"):
        fetch_all(["yolo99.pt"])
