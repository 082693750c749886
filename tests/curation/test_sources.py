"""Every kind of SOURCE a user may give, local and remote, and every way it may be broken."""

import errno
import functools
import http.server
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from rich.console import Console

from curation.errors import UsageError
from curation.recipe import Recipe, change
from curation.record import load_record
from curation.run import Workplace, curate, stages
from curation.sources import Entry, list_source, read_bytes
from curation.sources.read import NoRanges
from curation.verify import verify
from manifests.store import Store
from tests.curation.photos import encode, jpeg, scene, write

HERE = Workplace(workers=0)


def listed(source: str | Path) -> list[Entry]:
    return list(list_source(str(source)).entries)


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_is_listed_in_order_with_captions_and_what_is_no_image_is_counted(tmp_path: Path) -> None:
    write(
        tmp_path / "b",
        {"2.JPG": jpeg(2), "1.jpeg": jpeg(1), "1.txt": b" a caption\n", "notes.md": b"x", "odd.dat": jpeg(3)},
    )
    write(tmp_path / ".hidden", {"9.jpg": jpeg(9)})
    write(tmp_path, {"a.jpg": jpeg(4), ".DS_Store": b"x"})
    listing = list_source(str(tmp_path))
    entries = list(listing.entries)
    assert [Path(e.uri).name for e in entries] == ["a.jpg", "1.jpeg", "2.JPG", "odd.dat"]
    assert entries[1].caption == "a caption"
    assert listing.passed_over == {"hidden": 1, ".txt": 1, ".md": 1}


def test_the_plan_counts_every_kind_of_file_that_it_passes_over(tmp_path: Path, plain_recipe: Recipe) -> None:
    source = write(tmp_path / "photos", {"1.jpg": jpeg(1)} | {f"{kind}.{kind}": b"" for kind in "abcdefghij"})
    said = Console(file=io.StringIO(), width=200)
    with stages(Store(tmp_path / "out"), said, HERE) as stage:
        stage.plan(str(source), plain_recipe)
    assert "1 .h, 2 of other kinds" in said.file.getvalue()  # type: ignore[attr-defined]


def test_photos_without_a_suffix_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    pictures = {kind: encode(scene(1), kind) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")}
    brands = ("avis", "heic", "heix", "hevc", "hevx", "mif1", "msf1")
    pictures |= {brand: b"\0\0\0\x18ftyp" + brand.encode() + b"\0" * 8 for brand in brands}
    video = b"\0\0\0\x18ftypisom" + b"\0" * 8
    listing = list_source(str(write(tmp_path, pictures | {"video": video, "LICENSE": b"MIT"})))
    assert [Path(entry.uri).name for entry in listing.entries] == sorted(pictures)
    assert listing.passed_over == {"no suffix": 2}


def test_a_caption_with_half_a_character_keeps_the_rest(tmp_path: Path, plain_recipe: Recipe) -> None:
    tar = make_tar(tmp_path / "a.tar", [("1.jpg", jpeg(1)), ("1.json", b'{"caption": "a \\ud800 man"}')])
    curate(str(tar), str(tmp_path / "out"), plain_recipe, place=HERE)
    assert pd.read_parquet(tmp_path / "out" / "manifest").caption.tolist() == ["a ? man"]


def test_a_suffix_that_is_not_utf8_is_counted(tmp_path: Path, plain_recipe: Recipe) -> None:
    write(tmp_path / "photos", {"1.jpg": jpeg(1)})
    make_tar(tmp_path / "photos" / "2.tar", [("2.jpg", jpeg(2)), ("2.\udce9", b"x")])
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "photos" / "x.") + b"\xe9")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    curate(str(tmp_path / "photos"), str(tmp_path / "out"), plain_recipe, place=HERE)
    assert load_record(Store(tmp_path / "out")).passed_over == {".?": 2}


def test_a_caption_that_cannot_be_read_fails_its_image_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(path: str) -> str:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("curation.sources.folder._text", unreadable)
    write(tmp_path, {"1.jpg": jpeg(1), "1.txt": b"a caption", "2.jpg": jpeg(2)})
    first, second = list_source(str(tmp_path)).entries
    assert first.error.startswith("PermissionError: [Errno 13] Permission denied")
    assert second.error == ""


def test_the_output_inside_the_source_is_not_an_input(tmp_path: Path, plain_recipe: Recipe) -> None:
    write(tmp_path, {f"{i}.jpg": jpeg(i) for i in range(3)})
    out = tmp_path / "out"
    out.mkdir()
    write(out, {"old.jpg": jpeg(9)})
    assert curate(str(tmp_path), str(out), plain_recipe, place=HERE).inputs == 3


def test_what_earlier_runs_packed_is_not_an_input_but_photos_beside_it_are(
    tmp_path: Path, plain_recipe: Recipe
) -> None:
    photos = write(tmp_path / "photos", {f"{i}.jpg": jpeg(i) for i in range(3)})
    shoot = write(photos / "shoot", {"4.jpg": jpeg(4)})
    for source, out, inputs, passed_over in (
        (photos, shoot / ".." / "out1", 4, {"output folder": 1}),
        (shoot, shoot, 1, {}),
        (photos, photos, 4, {"curated folder": 2}),
        (photos, tmp_path / "out2", 4, {"curated folder": 3}),
    ):
        assert curate(str(source), str(out), plain_recipe, place=HERE).inputs == inputs
        assert load_record(Store(out)).passed_over == passed_over
    with pytest.raises(UsageError, match=r"only 1 curated folder.*OUT/shards to curate"):
        curate(str(tmp_path / "out2"), str(tmp_path / "out3"), plain_recipe, place=HERE)
    assert len(listed(tmp_path / "out2" / "shards")) == 4


def test_a_curated_folder_is_passed_over_on_other_file_systems_too(tmp_path: Path) -> None:
    """What is listed there is told by names alone."""
    root = f"memory://listed-{os.getpid()}"
    for name in ("run.json", "plan.parquet", "shards/0.tar", "manifest/0.parquet", "mine/shards/1.jpg"):
        Store(root).write_bytes(f"out/{name}", b"")
    Store(root).write_bytes("out.jpg", b"")
    listing = list_source(root)
    assert [e.uri for e in listing.entries] == [f"{root}/{n}" for n in ("out.jpg", "out/mine/shards/1.jpg")]
    assert listing.passed_over == {"curated folder": 1}


def test_captions_and_hidden_files_on_other_file_systems_are_those_of_a_local_folder() -> None:
    root = f"memory://captioned-{os.getpid()}"
    files = {"a.jpg": b"", "a.txt": " Zoë \n".encode(), "b/c [1].png": b"", "b/c [1].txt": b"c", "b/d.jpg": b""}
    for name, data in (files | {".e.jpg": b"", ".trash/f.jpg": b"", ".trash/f.txt": b""}).items():
        Store(root).write_bytes(name, data)
    listing = list_source(root)
    assert {e.uri.rsplit("/", 1)[1]: e.caption for e in listing.entries} == {
        "a.jpg": "Zoë",
        "c [1].png": "c",
        "d.jpg": "",
    }
    assert listing.passed_over == {".txt": 2, "hidden": 3}


def test_patterns_on_other_file_systems_take_captions_and_no_hidden_files() -> None:
    root = f"memory://matched-{os.getpid()}"
    for name in ("a.jpg", ".b.jpg", "c/d.jpg", ".e/f.jpg", "c/g.md"):
        Store(root).write_bytes(name, b"")
    for name, text in {"a.txt": b"\xef\xbb\xbfA", "c/d.txt": b"D"}.items():
        Store(root).write_bytes(name, text)

    def matched(pattern: str) -> dict[str, str]:
        return {entry.uri.partition(str(os.getpid()))[2]: entry.caption for entry in list_source(pattern).entries}

    assert matched(f"{root}/*.jpg") == {"/a.jpg": "A"}
    assert matched(f"{root}/**/*.jpg") == {"/a.jpg": "A", "/c/d.jpg": "D"}
    assert matched(f"{root}/.*.jpg") == {"/.b.jpg": ""}
    listing = list_source(f"{root}/**")
    assert [entry.caption for entry in listing.entries] == ["A", "D"]  # each once, though c is matched too
    assert listing.passed_over == {".txt": 2, ".md": 1}


def test_a_pattern_gives_captions_and_passes_over_what_is_no_image(tmp_path: Path) -> None:
    files = {"1.jpg": b"", "1.txt": b"\xef\xbb\xbfone", "Thumbs.db": b"", "2": jpeg(2)}
    listing = list_source(str(write(tmp_path, files) / "*"))
    assert [(Path(entry.uri).name, entry.caption) for entry in listing.entries] == [("1.jpg", "one"), ("2", "")]
    assert listing.passed_over == {".txt": 1, ".db": 1}
    assert [entry.caption for entry in list_source(str(tmp_path / "1.jpg")).entries] == ["one"]


def test_a_folder_that_cannot_be_read_is_an_entry_even_as_the_last_and_alone_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "z", {"2.jpg": b""})
    write(tmp_path, {"1.jpg": b""})
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("z"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [bool(entry.error) for entry in listed(tmp_path)] == [False, True]
    with pytest.raises(PermissionError):
        listed(tmp_path / "z")


def test_files_of_others_in_the_output_are_not_overwritten(tmp_path: Path, plain_recipe: Recipe) -> None:
    source = write(tmp_path / "photos", {"1.jpg": jpeg(1)})
    foreign = {"run.json": b"{}", "shards/00077.tar": b"precious", "manifest/00009.parquet": b"mine"}
    for number, (name, data) in enumerate(foreign.items()):
        out = tmp_path / f"out{number}"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
        with pytest.raises(UsageError, match="nothing there is overwritten"):
            curate(str(source), str(out), plain_recipe, place=HERE)
        assert (out / name).read_bytes() == data


def test_pipes_do_not_hang_and_linked_folders_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", {"a.jpg": jpeg(1)})
    for name in ("pipe", "pipe.jpg", "a.txt"):
        os.mkfifo(folder / name)
    write(tmp_path / "elsewhere", {"b.jpg": jpeg(2)})
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    listing = list_source(str(folder))
    entries = list(listing.entries)
    assert [Path(e.uri).name for e in entries] == ["a.jpg", "pipe.jpg"]
    assert listing.passed_over == {"linked folder": 1, "no suffix": 1, ".txt": 1}
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(str(folder / "pipe.jpg"))


def test_no_image_is_listed_twice(tmp_path: Path) -> None:
    write(tmp_path / "x" / "y", {"1.jpg": jpeg(1)})
    write(tmp_path / "x", {"2.jpg": jpeg(2)})
    assert len(listed(tmp_path / "x" / "**")) == 2
    assert len(listed(tmp_path / "x" / "{2,2}.jpg")) == 1
    odd = write(tmp_path / "odd {a [b", {"1.jpg": jpeg(1)})
    assert len(listed(odd)) == 1
    with pytest.raises(UsageError, match="braces are not balanced"):
        listed(tmp_path / "none{")
    with pytest.raises(UsageError, match="cannot be opened"):
        listed("nosuch://bucket/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [("path,tag,tag\na.jpg,1,2\n", "column 'tag' more than once"), ("path\n\xff.jpg\n", "holds binary, not text")],
)
def test_tables_that_cannot_be_used_say_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=message):
        listed(tmp_path / "t.csv")


def test_columns_with_taken_names_keep_their_values_and_dates_become_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,shard,source_shard,when\na.jpg,5,99,2020-01-02\n")
    (entry,) = listed(tmp_path / "t.csv")
    assert dict(entry.extra) == {"source_source_shard": 5, "source_shard": 99, "when": "2020-01-02"}


def test_categories_and_half_floats_are_columns_that_rules_can_read(tmp_path: Path, plain_recipe: Recipe) -> None:
    write(tmp_path, {f"{i}.jpg": jpeg(i) for i in range(2)})
    table = pa.table(
        {
            "path": ["0.jpg", "1.jpg"],
            "license": pa.array(["cc0", "by"]).dictionary_encode(),
            "score": pa.array([1.0, 2.0]).cast(pa.float16()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    recipe = change(plain_recipe, ["rules.license=license == 'cc0'", "rules.score=score < 1.5"])
    curate(str(tmp_path / "t.parquet"), str(tmp_path / "out"), recipe, place=HERE)
    assert pd.read_parquet(tmp_path / "out" / "manifest").reasons.map(list).tolist()[1] == ["license", "score"]


def test_a_pattern_does_not_follow_links_to_folders(tmp_path: Path) -> None:
    """Which lead back: the paths would double at each of forty levels."""
    write(tmp_path / "photos" / "sub", {"a.jpg": jpeg(1)})
    for name in ("x", "y"):
        (tmp_path / "photos" / name).symlink_to(".")
    listing = list_source(str(tmp_path / "photos" / "**" / "*.jpg"))
    assert [Path(e.uri).name for e in listing.entries] == ["a.jpg"]
    assert listing.passed_over["linked folder"] == 2
    assert [Path(e.uri).name for e in listed(tmp_path / "photos" / "**" / "*")] == ["a.jpg"]
    assert [Path(e.uri).name for e in listed(tmp_path / "**" / "sub" / "**" / "*.jpg")] == ["a.jpg"]


@pytest.mark.parametrize("kind", ["view.parquet", "hollow.jsonl"])
def test_columns_that_parquet_or_arrow_cannot_handle_do_not_end_a_run(
    tmp_path: Path, plain_recipe: Recipe, kind: str
) -> None:
    write(tmp_path, {f"{n}.jpg": jpeg(n) for n in range(3)})
    names = [f"{n}.jpg" for n in range(3)]
    if kind == "view.parquet":
        pq.write_table(pa.table({"path": names, "note": pa.array(["a", "b", "c"], pa.string_view())}), tmp_path / kind)
    else:
        lines = [json.dumps({"path": name, "meta": {}, "deep": [{"in": {}}]}) for name in names]
        (tmp_path / kind).write_text("\n".join(lines))
    assert curate(str(tmp_path / kind), str(tmp_path / "out"), plain_recipe, place=HERE).kept == 3
    assert verify(str(tmp_path / "out"))[1] == []


def test_a_url_that_is_not_utf8_is_written_as_urls_are(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"http://h/a.jpg\nhttp://h/caf\xe9.jpg\n")
    assert [e.uri for e in listed(tmp_path / "list.txt")] == ["http://h/a.jpg", "http://h/caf%E9.jpg"]


def test_a_file_url_is_the_path_that_it_quotes(tmp_path: Path, plain_recipe: Recipe) -> None:
    photos = {"1.jpg": jpeg(1), "50%25.jpg": jpeg(2)}
    folder = write(tmp_path / "with space", photos | {"t.csv": b"path\n1.jpg\n50%25.jpg"})
    for number, source in enumerate(("", "/*.jpg", "/t.csv")):
        url, out = f"file://{tmp_path}/with%20space{source}", folder / f".out{number}"
        assert curate(url, str(out), plain_recipe, place=HERE).kept == 2
        assert pd.read_parquet(out / "manifest").uri.tolist() == [str(folder / name) for name in photos]
        assert curate(url, str(out), plain_recipe, place=HERE).kept == 2  # taken up again


def test_a_source_in_ones_home_is_found_again(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "photos", {"a.jpg": jpeg(1)})
    assert curate("~/photos", str(tmp_path / "out"), plain_recipe, place=HERE).kept == 1
    assert curate(str(tmp_path / "photos"), str(tmp_path / "out"), plain_recipe, place=HERE).kept == 1


def test_a_tar_whose_server_gives_up_is_an_entry_and_the_next_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp's errors are no OSErrors."""
    from aiohttp import ServerDisconnectedError

    from curation.sources import tar as tars

    for name in "ab":
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for n in range(2):
                data = jpeg(n)
                info = tarfile.TarInfo(f"{n}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    real = tars.open_at_offsets

    def failing(uri: str) -> Any:
        if uri.endswith("a.tar"):
            raise ServerDisconnectedError
        return real(uri)

    monkeypatch.setattr(tars, "open_at_offsets", failing)
    entries = listed(f"{tmp_path}/*.tar")
    assert [e.error.split(":")[0] for e in entries] == ["ServerDisconnectedError", "", ""]


def test_sparse_members_of_a_tar_are_told_and_the_others_read(tmp_path: Path) -> None:
    holes = tmp_path / "holes.bmp"
    with holes.open("wb") as file:
        file.write(b"BM")
        file.truncate(1 << 20)
        file.seek(0, 2)
        file.write(b"end")
    (tmp_path / "z.jpg").write_bytes(jpeg(1))
    command = ["tar", "-S", "--format=pax", "-cf", "s.tar", "holes.bmp", "z.jpg"]
    if subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode:
        pytest.skip("no GNU tar")
    whole, told = listed(tmp_path / "s.tar")
    assert (whole.member, whole.error) == ("z.jpg", "")
    assert read_bytes(whole.uri, whole.member_offset, whole.bytes) == jpeg(1)
    assert told.error.startswith("SparseMember")


def test_globs_and_braces(tmp_path: Path) -> None:
    write(tmp_path, {f"{i}.jpg": jpeg(i) for i in range(4)} | {"[x].jpg": jpeg(5)})
    assert len(listed(tmp_path / "*.jpg")) == 5
    assert len(listed(tmp_path / "{0..2}.jpg")) == 3
    assert [Path(e.uri).name for e in listed(tmp_path / "[x].jpg")] == ["[x].jpg"]


def test_what_braces_name_and_is_absent_is_an_input_with_an_error(tmp_path: Path) -> None:
    make_tar(tmp_path / "0.tar", [("a.jpg", jpeg(0))])
    whole, absent = listed(tmp_path / "{0..1}.tar")
    assert (whole.member, whole.error) == ("a.jpg", "")
    assert absent.uri.endswith("/1.tar")
    assert absent.error.startswith("FileNotFoundError")
    write(tmp_path, {"2.jpg": jpeg(1)})
    assert [e.error[:17] for e in listed(tmp_path / "{2,3}.jpg")] == ["", "FileNotFoundError"]


def test_a_tar_gives_images_by_offset_whatever_their_names(tmp_path: Path) -> None:
    members = [
        ("000.jpg", jpeg(0)),
        ("000.json", json.dumps({"caption": "from json"}).encode()),
        ("000.png", b"a mask beside the photo"),
        ("../../escape.jpg", jpeg(1)),
        ("/absolute.jpg", jpeg(2)),
        ("same.jpg", jpeg(3)),
        ("same.jpg", jpeg(4)),
        ("a.b.c.jpg", jpeg(5)),
        ("ünï.webp", b"RIFF"),
        ("ünï.txt", "schön".encode()),
    ]
    tar = make_tar(tmp_path / "x.tar", members)
    entries = listed(tar)
    assert [e.member for e in entries] == [m for m, _ in members if m.endswith((".jpg", ".webp"))]
    assert [read_bytes(e.uri, e.member_offset, e.bytes) for e in entries] == [
        d for m, d in members if m.endswith((".jpg", ".webp"))
    ]
    assert (entries[0].caption, entries[-1].caption) == ("from json", "schön")
    assert not (tmp_path.parent / "escape.jpg").exists()


def test_a_caption_beside_a_large_exif_in_json_is_read(tmp_path: Path) -> None:
    record = json.dumps({"exif": "x" * 50_000, "caption": "a girl"}).encode()
    (entry,) = listed(make_tar(tmp_path / "x.tar", [("a.jpg", jpeg(0)), ("a.json", record)]))
    assert entry.caption == "a girl"


def test_links_in_a_tar_are_counted(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "x.tar", [("a.jpg", jpeg(0))])
    with tarfile.open(tar, "a") as file:
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE):
            link = tarfile.TarInfo("again.jpg")
            link.type, link.linkname = kind, "a.jpg"
            file.addfile(link)
    listing = list_source(str(tar))
    assert [entry.member for entry in listing.entries] == ["a.jpg"]
    assert listing.passed_over == {"link in a tar": 2}


def test_a_tar_that_breaks_off_gives_its_whole_images_and_says_so(tmp_path: Path, plain_recipe: Recipe) -> None:
    tar = make_tar(tmp_path / "x.tar", [(f"{i}.jpg", jpeg(i)) for i in range(6)])
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "garbage.tar").write_bytes(b"no tar" * 1000)
    (tmp_path / "empty.tar").write_bytes(b"")
    out = tmp_path / "out"
    counts = curate(str(tmp_path / "*.tar"), str(out), plain_recipe, place=HERE)
    manifest = pd.read_parquet(out / "manifest")
    failed = manifest[manifest.verdict == "failed"]
    assert counts.inputs - counts.failed >= 3
    assert set(failed.uri.map(os.path.basename)) == {"x.tar", "garbage.tar", "empty.tar"}
    assert failed.error_message.str.contains("whole images before that are listed").all()


@pytest.mark.parametrize("how", ["a damaged header", "two put together"])
def test_what_lies_behind_the_end_of_a_tar_is_told(tmp_path: Path, how: str) -> None:
    """Python stops without a word at a header with a wrong sum, and where the first of joined tars ends."""
    tar = make_tar(tmp_path / "x.tar", [(f"{i}.jpg", jpeg(i)) for i in range(4)])
    whole = bytearray(tar.read_bytes())
    with tarfile.open(tar) as opened:
        header = [member.offset for member in opened][2]
    if how == "a damaged header":
        whole[header + 10] ^= 0x41
    else:
        whole = whole * 2
    tar.write_bytes(whole)
    *images, error = listed(tar)
    assert [image.member for image in images] == [f"{i}.jpg" for i in range(2 if how == "a damaged header" else 4)]
    assert "is no member: a damaged header, or another tar behind it" in error.error


def test_what_macos_puts_into_a_tar_is_hidden(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "x.tar", [("./._a.jpg", b"\0\5\x16\7" + bytes(200)), ("./a.jpg", jpeg(1))])
    listing = list_source(str(tar))
    assert [entry.member for entry in listing.entries] == ["./a.jpg"]
    assert listing.passed_over == {"hidden": 1}


class WithServer(MemoryFileSystem):
    """As FTP and HDFS do it: the server is an argument, and paths begin behind it."""

    protocol = "served"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def __init__(self, host: str, **_: object) -> None:
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return ("/" + path.split("://", 1)[1].partition("/")[2] if "://" in path else path).rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return {"host": host} if "://" in path and (host := path.split("://", 1)[1].partition("/")[0]) else {}


@pytest.mark.parametrize("source", ["/photos", "/photos/", "/photos/*.jpg"])
def test_images_of_a_file_system_with_a_server_keep_its_name(source: str) -> None:
    fsspec.register_implementation("served", WithServer, clobber=True)
    fsspec.filesystem("served", host="me@host").pipe("/photos/b.jpg", b"b")
    (entry,) = listed(f"served://me@host{source}")
    assert entry.uri == "served://me@host/photos/b.jpg"
    assert read_bytes(entry.uri) == b"b"


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl", "txt"])
def test_tables_carry_their_columns_along(tmp_path: Path, plain_recipe: Recipe, kind: str) -> None:
    write(tmp_path / "photos", {f"{i}.jpg": jpeg(i) for i in range(4)})
    rows = pd.DataFrame({"Path": [f"photos/{i}.jpg" for i in range(4)] + ["photos/missing.jpg", None]})
    rows["caption"], rows["rank"], rows["width"] = [f"photo {i}" for i in range(6)], range(6), 7
    table = tmp_path / f"list.{kind}"
    if kind == "parquet":
        rows.to_parquet(table)
    elif kind == "jsonl":
        rows.to_json(table, orient="records", lines=True)
    elif kind == "txt":
        table.write_text("\n".join(rows.Path.dropna()))
    else:
        rows.to_csv(table, index=False, sep="\t" if kind == "tsv" else ",")
    counts = curate(str(table), str(tmp_path / "out"), plain_recipe, place=HERE)
    manifest = pd.read_parquet(tmp_path / "out" / "manifest")
    assert counts.failed == (1 if kind == "txt" else 2)
    assert manifest.status.tolist()[4] == "failed_to_read"
    if kind != "txt":
        assert manifest["rank"].tolist() == list(range(6))
        assert manifest.caption.tolist() == rows.caption.tolist()
        assert manifest.source_width.tolist() == [7] * 6  # `width` is the manifest's own
    assert verify(str(tmp_path / "out"))[1] == []


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_digits_that_are_names_stay_as_they_stand(tmp_path: Path, kind: str) -> None:
    rows = [
        "path,caption,id,hash,rank,share",
        "007,012,0001,18446744073709551616,1,0.50",
        "008,,,18446744073709551617,,0",
    ]
    (tmp_path / f"t.{kind}").write_text("\n".join(rows).replace(",", "\t" if kind == "tsv" else ","))
    first, second = listed(tmp_path / f"t.{kind}")
    assert [Path(entry.uri).name for entry in (first, second)] == ["007", "008"]
    assert (first.caption, second.caption) == ("012", "")
    assert first.extra == {"id": "0001", "hash": "18446744073709551616", "rank": 1, "share": 0.5}
    assert second.extra == {"id": "", "hash": "18446744073709551617", "rank": None, "share": 0}


@pytest.mark.parametrize("path", ["1.10", "1e5", "True", "2024-01-01T10:00:00"])
def test_paths_and_captions_of_a_csv_stay_as_they_stand(tmp_path: Path, path: str) -> None:
    (tmp_path / "t.csv").write_text(f"Path,text,rank\n{path},2.50,1.50\n")
    (entry,) = listed(tmp_path / "t.csv")
    assert (Path(entry.uri).name, entry.caption, entry.extra) == (path, "2.50", {"rank": 1.5})


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_several_captions_of_a_photo_are_a_line_each(tmp_path: Path, kind: str) -> None:
    captions = [["a man", " two men "], [], None, ["a dog", None]]
    rows = [{"path": f"{number}.jpg", "caption": caption} for number, caption in enumerate(captions)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    else:
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [entry.caption for entry in listed(tmp_path / f"t.{kind}")] == ["a man\ntwo men", "", "", "a dog"]


def test_several_captions_in_a_tar_are_a_line_each(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", [("1.jpg", jpeg(1)), ("1.json", b'{"caption": ["a man", "two men"]}')])
    assert [entry.caption for entry in listed(tar)] == ["a man\ntwo men"]


def test_captions_that_are_no_text_are_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg"], "caption": [{"en": "a man"}]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"captions, 'caption', holds struct<en: string>, not text or lists of text"):
        listed(tmp_path / "t.parquet")


def test_a_table_without_a_path_column_says_what_it_has_and_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"has no column of paths: it has a, b; name .* path"):
        listed(tmp_path / "t.csv")


def test_tars_and_archives_whose_names_are_not_utf8_are_listed_by_a_glob_too(tmp_path: Path) -> None:
    make_tar(tmp_path / os.fsdecode(b"caf\xe9.tar"), [("a.jpg", jpeg(1))])
    (tmp_path / os.fsdecode(b"x\xe9.zip")).write_bytes(b"PK")
    for entry in listed(tmp_path / "*"):
        entry.uri.encode()
        assert entry.error.startswith("CompressedArchive") or read_bytes(
            entry.uri, entry.member_offset, entry.bytes
        ) == jpeg(1)


def test_a_name_that_is_not_utf8_is_read_and_kept(tmp_path: Path, plain_recipe: Recipe) -> None:
    folder = write(tmp_path / "photos", {"plain.jpg": jpeg(1)})
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe 100%.jpg"))).write_bytes(jpeg(2))
    counts = curate(str(folder), str(tmp_path / "out"), plain_recipe, place=HERE)
    assert (counts.inputs, counts.failed) == (2, 0)
    assert any("%FF%FE 100%25" in uri for uri in pd.read_parquet(tmp_path / "out" / "manifest").uri)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The folder `tmp_path/web` served on localhost."""
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "web"))
    (tmp_path / "web").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Without ranges, as its base; what is in a folder `forbidden` is refused."""

    def do_GET(self) -> None:
        if "/forbidden/" in self.path:
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


def test_urls_in_a_table_are_fetched_and_a_missing_one_is_a_failed_row(
    tmp_path: Path, web: str, plain_recipe: Recipe
) -> None:
    write(tmp_path / "web", {f"{i}.jpg": jpeg(i) for i in range(5)})
    table = tmp_path / "urls.txt"
    urls = [*(f"{web}/{i}.jpg?width=640&of[]=*" for i in range(6)), "http://127.0.0.1:1/a.jpg"]
    table.write_text("\n".join(urls))
    counts = curate(str(table), str(tmp_path / "out"), plain_recipe, place=HERE)
    assert (counts.inputs, counts.failed) == (7, 2)
    manifest = pd.read_parquet(tmp_path / "out" / "manifest")
    assert manifest.error_message.tolist()[5].startswith("FileNotFoundError")
    assert manifest.error_message.tolist()[6].startswith("ClientConnectorError: Cannot connect")
    assert verify(str(tmp_path / "out"))[1] == []


def test_what_a_web_server_refuses_is_told(tmp_path: Path, web: str) -> None:
    write(tmp_path / "web" / "photos" / "forbidden", {"2.jpg": jpeg(2)})
    write(tmp_path / "web" / "photos" / "open", {"1.jpg": jpeg(1), "1.txt": b"one"})
    first, refused = listed(f"{web}/photos/")
    assert (first.uri, first.caption) == (f"{web}/photos/open/1.jpg", "one")
    assert refused.uri == f"{web}/photos/forbidden/"
    assert "403" in refused.error
    with pytest.raises(UsageError, match=r"cannot be listed: ClientConnectorError: Cannot connect"):
        listed("http://127.0.0.1:1/photos/")
    with pytest.raises(UsageError, match=r"cannot be listed: .*403"):
        listed(f"{web}/photos/**")
    assert listed("http://127.0.0.1:1/a.tar")[0].error.startswith("OSError: Cannot connect")
    with pytest.raises(OSError, match="403"):
        listed(f"{web}/photos/forbidden/a.csv")


def test_a_tar_on_a_web_server_without_ranges_says_so(tmp_path: Path, web: str) -> None:
    noise = os.urandom(6_000_000)  # over what is read ahead
    make_tar(tmp_path / "web" / "large.tar", [("1.jpg", jpeg(1)), ("2.jpg", noise), ("3.jpg", noise)])
    *_, broken = listed(f"{web}/large.tar")
    assert broken.error.startswith("NoRanges: the web server does not answer requests for ranges of bytes")
    make_tar(tmp_path / "web" / "small.tar", [(f"{i}.jpg", jpeg(i)) for i in range(9)])
    last = listed(f"{web}/small.tar")[-1]
    with pytest.raises(NoRanges):
        read_bytes(last.uri, last.member_offset, last.bytes)


def test_a_web_server_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.sources.read.PATIENCE", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(TimeoutError, match=r"no answer for 0\.2 seconds"):
        read_bytes(f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg")


def test_output_on_another_file_system(tmp_path: Path, plain_recipe: Recipe) -> None:
    write(tmp_path / "photos", {f"{i}.jpg": jpeg(i) for i in range(20)})
    out = f"memory://curated-{os.getpid()}"
    counts = curate(str(tmp_path / "photos"), out, plain_recipe, place=HERE)
    assert verify(out) == (counts, [])
    curate(str(tmp_path / "photos"), str(tmp_path / "local"), plain_recipe, place=HERE)
    for name in Store(tmp_path / "local").names("shards", ".tar"):
        assert Store(out).sha256(name) == Store(tmp_path / "local").sha256(name)
    assert curate(str(tmp_path / "photos"), out, plain_recipe, place=HERE) == counts
