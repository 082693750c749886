"""Weights are fetched once, verified always, and never used when they are not what was pinned."""

import zipfile
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from curation.errors import UsageError
from curation.full.catalogue import CATALOGUE, Weights
from curation.full.fetch import _recorded, fetch, find_weights, verify, weights_folder

BYTES = b"weights" * 1000


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a folder with `net.pt` and `net.zip`, and an empty weights folder."""
    monkeypatch.setenv("SAPIENS_WEIGHTS", str(tmp_path / "weights"))
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "net.pt").write_bytes(BYTES)
    with zipfile.ZipFile(folder / "net.zip", "w") as archive:
        archive.writestr("net.pt", BYTES)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("file", "member"), [("net.pt", ""), ("net.zip", "net.pt")])
def test_a_pinned_file_comes_and_is_kept(served: str, file: str, member: str) -> None:
    weights = Weights("net.pt", "people", f"{served}/{file}", 0.1, "MIT", sha256(BYTES).hexdigest(), member)
    assert fetch(weights).read_bytes() == BYTES
    gone = Weights("net.pt", "people", f"{served}/gone", 0.1, "MIT", weights.sha256)
    assert fetch(gone).read_bytes() == BYTES, "no second download"
    assert verify(weights) == ""


def test_another_hash_is_refused_and_nothing_is_left(served: str) -> None:
    weights = Weights("net.pt", "people", f"{served}/net.pt", 0.1, "MIT", "0" * 64)
    with pytest.raises(UsageError, match="gave a file with sha256"):
        fetch(weights)
    assert [f.name for f in weights_folder().iterdir()] == [".lock"]


def test_a_download_that_was_cut_off_is_refused(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pinned hash half a file would be written down as what it should be."""

    def cut_off(handler: SimpleHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BYTES)))
        handler.end_headers()
        handler.wfile.write(BYTES[:99])

    monkeypatch.setattr(SimpleHTTPRequestHandler, "do_GET", cut_off)
    weights = Weights("net.pt", "clip", f"{served}/net.pt", 0.1, "MIT")
    with pytest.raises(UsageError, match=r"cannot be downloaded .*ended after 99 of 7000 bytes"):
        fetch(weights)
    assert [f.name for f in weights_folder().iterdir()] == [".lock"]


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert find_weights("~/model", "text") == tmp_path / "model"


def test_a_changed_file_is_refused(served: str) -> None:
    weights = Weights("net.pt", "people", f"{served}/net.pt", 0.1, "MIT")
    fetch(weights).write_bytes(b"other")
    with pytest.raises(UsageError, match=r"has sha256 .*, not .*; delete it and run"):
        fetch(weights)


def test_no_network_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAPIENS_WEIGHTS", str(tmp_path))
    weights = Weights("net.pt", "people", "http://127.0.0.1:1/net.pt", 0.1, "MIT")
    with pytest.raises(UsageError) as error:
        fetch(weights)
    text = str(error.value)
    assert text.startswith("net.pt is not on this machine and cannot be downloaded from http://127.0.0.1:1/net.pt")
    assert "weights.people" in text
    assert "profile: builtin" in text


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"no file 'yolo99.pt' and no weights of that name; there are yolo11n.pt"):
        find_weights("yolo99.pt", "people")


def test_weights_without_a_pin_work_from_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an administrator copies them for all."""
    (tmp_path / "net.pt").write_bytes(BYTES)

    def refuse(self: Path, *_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert _recorded(tmp_path / "net.pt") == sha256(BYTES).hexdigest()


def test_every_pin_is_a_sha256() -> None:
    assert all(len(w.sha256) in {0, 64} and w.url.startswith("https://") for w in CATALOGUE.values())


def test_a_record_that_a_full_disk_left_empty_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"weights")
    (tmp_path / "a.pt.sha256").write_text("")
    assert _recorded(tmp_path / "a.pt") == sha256(b"weights").hexdigest()
    assert (tmp_path / "a.pt.sha256").read_text().split()[0] == sha256(b"weights").hexdigest()
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "a.pt.sha256"}
