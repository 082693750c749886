"""Shards are found under every spelling, their samples lie where the index says, and bad ones are named."""

import functools
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.store import Unreachable
from shards import cache as cache_module
from shards import index
from shards.cache import ShardCache, ShardError
from shards.crop import RandomCrop
from shards.index import open_shards
from shards.order import Order
from shards.stream import stream
from tests.shard_factory import photo, write_curated, write_foreign, write_members


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAPIENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a web server for tmp_path."""
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def uids(opened: index.ShardSet) -> list[str]:
    return [opened.samples(s).uid_hex(r) for s, n in enumerate(opened.counts) for r in range(n)]


def test_a_curated_folder_opens_under_every_spelling(tmp_path):
    out = write_curated(tmp_path / "out", shards=3, per_shard=4)
    spellings = [
        [str(out)],
        [str(out / "shards")],
        [str(out / "shards/*.tar")],
        [str(out / "shards/{00000..00002}.tar")],
        [str(out / f"shards/0000{i}.tar") for i in range(3)],
        [f"file://{out}/shards"],
    ]
    opened = [open_shards(spelling) for spelling in spellings]
    assert {o.fingerprint for o in opened} == {opened[0].fingerprint}
    assert opened[0].count == 12
    assert opened[0].read(2, 3) == photo(11)
    assert uids(opened[0])[11] == sha256(photo(11)).hexdigest()[:32]


def test_a_foreign_tar_gets_the_same_uids_and_the_right_bytes(tmp_path):
    write_foreign(tmp_path / "a.tar", range(5))
    opened = open_shards(str(tmp_path / "a.tar"))
    assert [opened.read(0, r) for r in range(5)] == [photo(s) for s in range(5)]
    assert uids(opened) == [sha256(photo(s)).hexdigest()[:32] for s in range(5)]
    assert list(tmp_path.glob("a.*")) == [tmp_path / "a.tar"]  # nothing is written beside it


def test_a_shard_that_was_packed_anew_is_noticed_on_a_plain_web_server(tmp_path, server):
    """Which tells no more than when it was changed."""
    fingerprints = []
    for stamp, seeds in ((1e9, (1, 2)), (1.1e9, (3, 4))):
        write_members(tmp_path / "x.tar", [(f"{n}.jpg", photo(s)) for n, s in enumerate(seeds)])
        os.utime(tmp_path / "x.tar", (stamp, stamp))
        opened = open_shards(f"{server}/x.tar")
        assert [opened.read(0, row) for row in range(2)] == [photo(s) for s in seeds]
        fingerprints.append(opened.fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_what_macos_leaves_beside_shards_is_none_of_them(tmp_path):
    write_foreign(tmp_path / "d/00000.tar", range(2))
    (tmp_path / "d/._00000.tar").write_bytes(b"\0\5\x16\7" + bytes(4092))
    assert open_shards(str(tmp_path / "d")).count == open_shards(str(tmp_path / "d/*.tar")).count == 2


def test_a_name_with_brackets_is_a_name_where_there_is_such_a_file(tmp_path):
    write_foreign(tmp_path / "set[1].tar", range(2))
    assert open_shards(str(tmp_path / "set[1].tar")).count == 2


def test_joined_tars_are_refused(tmp_path):
    tar = write_foreign(tmp_path / "a.tar", range(2))
    tar.write_bytes(tar.read_bytes() * 2)
    with pytest.raises(ShardError, match="goes on behind its end"):
        open_shards(str(tar))


def test_members_are_grouped_by_key_however_they_lie(tmp_path):
    members = [
        ("deep/x.json", b"{}"),
        ("y.JPG", photo(1)),
        ("deep/x.png", b"a mask"),
        ("lonely.json", b"{}"),
        ("deep/x.jpg", photo(2)),
        ("._y.JPG", b"resource fork"),
        ("z.seg.png", b"not the image of z"),
    ]
    tar = write_members(tmp_path / "a.tar", members)
    with tarfile.open(tar, "a") as file:
        link = tarfile.TarInfo("again.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "y.JPG"
        file.addfile(link)
    opened = open_shards(str(tmp_path))
    assert sorted(opened.samples(0).key.to_pylist()) == ["deep/x", "y"]
    assert {opened.read(0, 0), opened.read(0, 1)} == {photo(1), photo(2)}
    assert opened.without_image == 2
    (shard,) = opened.shards
    assert (shard.without_image, shard.hidden, shard.links) == (2, 1, 1)


def test_the_fingerprint_is_of_the_content_not_the_place(tmp_path):
    first = open_shards(str(write_curated(tmp_path / "a", 2, 3)))
    again = open_shards(str(write_curated(tmp_path / "b", 2, 3)))
    other = open_shards(str(write_curated(tmp_path / "c", 2, 4)))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_what_is_known_is_not_read_again_until_the_tar_changes(tmp_path, monkeypatch):
    tar = write_foreign(tmp_path / "a.tar", range(3))
    calls = []
    real = index.index_tar
    monkeypatch.setattr(index, "index_tar", lambda *a: calls.append(a) or real(*a))
    first = open_shards(str(tar))
    saved = []
    monkeypatch.setattr(index, "_save_known", lambda *a, real=index._save_known: saved.append(a) or real(*a))
    assert open_shards(str(tar)).fingerprint == first.fingerprint
    assert (len(calls), len(saved)) == (1, 0)
    write_foreign(tar, range(3, 6))
    os.utime(tar, ns=(1, 1))
    assert open_shards(str(tar)).fingerprint != first.fingerprint
    assert len(calls) == 2


def test_after_a_bad_tar_was_mended_the_others_are_not_read_again(tmp_path, monkeypatch):
    tars = [write_foreign(tmp_path / f"{name}.tar", range(3)) for name in "abcd"]
    whole = tars[1].read_bytes()
    tars[1].write_bytes(whole[:700])
    calls = []
    real = index.index_tar
    monkeypatch.setattr(index, "index_tar", lambda *a: calls.append(a[1]) or real(*a))
    with pytest.raises(ShardError, match=r"b\.tar"):
        open_shards(str(tmp_path))
    calls.clear()
    tars[1].write_bytes(whole)
    assert open_shards(str(tmp_path)).count == 12
    assert calls == [str(tars[1])]


def test_a_wide_window_reads_no_index_twice_and_keeps_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "FILES", 3)
    opened = open_shards(str(write_curated(tmp_path / "out", shards=70, per_shard=2)))
    order = Order(opened.counts, 1, window=70)
    read = [batch.uids for batch in stream(opened, order, RandomCrop((8, 8)), start=0, stop=140, micro_batch=2)]
    assert len({uid for batch in read for uid in batch}) == 140
    assert opened.samples.cache_info().misses == 70
    assert opened._open.cache_info().currsize == 3


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.02])
def test_a_truncated_foreign_tar_is_named(tmp_path, share):
    tar = write_foreign(tmp_path / "a.tar", range(6))
    whole = tar.read_bytes().rstrip(b"\0")
    tar.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ShardError, match=r"a\.tar .*copy it again"):
        open_shards(str(tar))


def test_a_truncated_curated_tar_is_named(tmp_path):
    out = write_curated(tmp_path, 2, 4)
    tar = out / "shards/00001.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(ShardError, match=r"00001\.tar .*truncated"):
        open_shards(str(out))


def test_a_missing_curated_shard_is_named(tmp_path):
    out = write_curated(tmp_path, 3, 2)
    (out / "shards/00001.tar").unlink()
    with pytest.raises(ShardError, match=r"00001\.tar is missing"):
        open_shards(str(out))


def test_a_missing_curated_index_is_named(tmp_path):
    out = write_curated(tmp_path, 2, 2)
    (out / "shards/00001.parquet").unlink()
    with pytest.raises(ShardError, match=r"00001\.parquet is missing"):
        open_shards(str(out))


@pytest.mark.parametrize("broken", [b"", b"[1]", b'{"sha256": {}}', b'{"sha256": {"00000.tar": "a"}, "successes": 2}'])
def test_damaged_stats_are_named(tmp_path, broken):
    out = write_curated(tmp_path, 1, 2)
    (out / "shards/00000_stats.json").write_bytes(broken)
    with pytest.raises(ShardError, match=r"00000_stats\.json .*pack the shard again"):
        open_shards(str(out))


def test_img2datasets_folder_is_indexed_as_foreign(tmp_path):
    out = write_curated(tmp_path, 1, 3)
    (out / "shards/00000_stats.json").write_text('{"count": 3, "successes": 3, "status_dict": {"success": 3}}')
    pq.write_table(pa.table({"key": ["a"], "status": ["success"]}), out / "shards/00000.parquet")
    opened = open_shards(str(out))
    assert [opened.read(0, r) for r in range(3)] == [photo(s) for s in range(3)]


def test_img2datasets_tables_are_not_asked_for(tmp_path):
    out = write_curated(tmp_path, 1, 3)
    (out / "shards/00000_stats.json").write_text('{"count": 3, "successes": 3, "status_dict": {"success": 3}}')
    (out / "shards/00000.parquet").unlink()
    assert open_shards(str(out)).count == 3


@pytest.mark.parametrize("source", ["nosuch://bucket/{0..1}.tar", "nosuch://bucket/folder"])
def test_a_file_system_that_is_not_there_is_one_sentence(source):
    with pytest.raises(Unreachable, match="cannot be opened: Protocol not known: nosuch"):
        open_shards(source)


class Forbidding(QuietHandler):
    def do_GET(self) -> None:
        self.send_error(403)


def test_a_folder_that_a_server_does_not_list_is_one_sentence():
    with ThreadingHTTPServer(("127.0.0.1", 0), Forbidding) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        with pytest.raises(ShardError, match=r"cannot be listed \(403.*name the tars"):
            open_shards(f"http://127.0.0.1:{http.server_port}/data")
        http.shutdown()


def test_a_damaged_curated_index_is_named(tmp_path):
    out = write_curated(tmp_path, 2, 3)
    (out / "shards/00001.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(ShardError, match=r"00001\.parquet cannot be read"):
        open_shards(str(out)).read(1, 0)


def test_an_index_of_other_rows_is_named(tmp_path):
    out = write_curated(tmp_path, 2, 3)
    table = pq.read_table(out / "shards/00001.parquet")
    pq.write_table(table.slice(1), out / "shards/00001.parquet")
    with pytest.raises(ShardError, match="has 2 rows where 3"):
        open_shards(str(out)).read(1, 0)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nothing", "holds no tar shards"),
        ("missing.tar", "does not exist"),
        ("*.tar", "no tar matches"),
        ("{0..2}.tar", "does not exist"),
        ("a.tar.gz", "is compressed"),
    ],
)
def test_sources_without_shards_are_refused(tmp_path, source, says):
    with pytest.raises(ShardError, match=says):
        open_shards(str(tmp_path / source))


def test_tars_without_any_image_are_refused(tmp_path):
    write_members(tmp_path / "a.tar", [("a.txt", b"x"), ("a.json", b"{}")])
    with pytest.raises(ShardError, match="no image was found"):
        open_shards(str(tmp_path))


def test_a_web_server_serves_shards(tmp_path, server):
    write_curated(tmp_path / "out", 2, 3)
    write_foreign(tmp_path / "foreign.tar", range(4))
    curated = open_shards(f"{server}/out/shards/{{00000..00001}}.tar")
    assert [curated.read(1, r) for r in range(3)] == [photo(3 + r) for r in range(3)]
    foreign = open_shards(f"{server}/foreign.tar")
    assert foreign.read(0, 2) == photo(2)
    with pytest.raises(ShardError, match="does not exist"):
        open_shards(f"{server}/none.tar")


def test_a_folder_of_a_web_server_is_listed(tmp_path, server):
    write_curated(tmp_path / "out", 2, 3)
    named = open_shards(f"{server}/out/shards/{{00000..00001}}.tar")
    assert open_shards(f"{server}/out").shards == open_shards(f"{server}/out/shards").shards == named.shards


def test_remote_shards_that_were_packed_anew_are_read_anew(tmp_path, server):
    url = f"{server}/out/shards/00000.tar"
    write_curated(tmp_path / "out", 1, 3)
    assert open_shards(url).read(0, 2) == photo(2)
    shutil.rmtree(tmp_path / "out")
    write_curated(tmp_path / "out", 1, 30)
    assert open_shards(url).read(0, 29) == photo(29)


def test_a_tar_changed_after_opening_is_refused(tmp_path):
    tar = write_foreign(tmp_path / "a.tar", range(3))
    opened = open_shards(str(tar))
    write_foreign(tar, range(9))
    with pytest.raises(ShardError, match="was changed after the start"):
        opened.read(0, 0)


def test_the_cache_keeps_to_its_size_and_keeps_what_was_used_last(tmp_path, server):
    for name in "abcd":
        (tmp_path / name).write_bytes(name.encode() * 1000)
    cache = ShardCache(tmp_path / "shards", limit=2500)
    for name in "abacad":
        assert cache.fetch(f"{server}/{name}", 1000).read_bytes() == name.encode() * 1000
        assert sum(f.stat().st_size for f in cache.folder.iterdir() if not f.name.startswith(".")) <= 2500
    kept = {f.name[-1] for f in cache.folder.iterdir() if not f.name.startswith(".")}
    assert kept == {"a", "d"}


def test_lock_files_do_not_grow_with_the_files_that_were_fetched(tmp_path, monkeypatch):
    """Nobody may delete one, and every fetch looks through the folder."""
    cache = ShardCache(tmp_path / "shards", limit=10)
    monkeypatch.setattr(ShardCache, "_download", lambda self, url, name, size: (self.folder / name).write_bytes(b"x"))
    monkeypatch.setattr(ShardCache, "_evict", lambda self, keep: None)
    for number in range(6000):
        cache.fetch(f"http://host/{number}.tar", 1)
    assert len(list(cache.folder.glob(".*.lock"))) <= 4096


def test_without_a_home_the_cache_says_what_to_set(monkeypatch):
    monkeypatch.delenv("SAPIENS_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(OSError, match="set SAPIENS_CACHE"):
        ShardCache()


def test_a_copy_that_another_process_deletes_before_it_is_opened_is_fetched_again(tmp_path, server):
    (tmp_path / "a").write_bytes(b"x")
    seen = []

    def read(path):
        if not seen:
            path.unlink()
        seen.append(path)
        return path.read_bytes()

    assert ShardCache(tmp_path / "shards").read(read, f"{server}/a") == b"x"


def test_what_a_killed_download_left_is_deleted_when_it_is_old(tmp_path, server):
    (tmp_path / "a").write_bytes(b"x")
    cache = ShardCache(tmp_path / "shards")
    cache.folder.mkdir()
    old, new = cache.folder / ".tmp-old", cache.folder / ".tmp-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.fetch(f"{server}/a")
    assert (old.exists(), new.exists()) == (False, True)


def test_a_web_server_may_take_its_time_for_a_shard(tmp_path, monkeypatch):
    """Bounded is the silence, not the whole: 300 seconds, aiohttp's own, is too little for a gigabyte."""
    fs, _ = cache_module._filesystem("http://host/a.tar")
    assert fs.client_kwargs["timeout"].total is None
    assert fs.client_kwargs["timeout"].sock_read == cache_module.PATIENCE

    def silent(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(cache_module, "_filesystem", silent)
    monkeypatch.setattr(cache_module.time, "sleep", lambda _: None)
    with pytest.raises(ShardError, match="in 5 attempts: TimeoutError"):
        ShardCache(tmp_path / "shards").fetch("http://host/a.tar")


def test_a_download_of_the_wrong_size_is_refused(tmp_path, server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    (tmp_path / "a").write_bytes(b"x" * 10)
    with pytest.raises(ShardError, match="10 bytes came instead of 11"):
        ShardCache(tmp_path / "shards").fetch(f"{server}/a", 11)
