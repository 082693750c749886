import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from manifests.account import Counts, Unbalanced, count
from manifests.store import Store, Unreachable, content_hash


@pytest.mark.parametrize("root", ["local", "memory://test-store"])
def test_files_appear_whole_with_their_hash_and_size(root: str, tmp_path: Path) -> None:
    store = Store(tmp_path / root if root == "local" else root)
    assert store.size("a/b.bin") == -1
    assert store.names("a", ".bin") == []
    store.write_bytes("a/b.bin", b"1234")
    assert store.size("a/b.bin") == 4
    assert store.sha256("a/b.bin").startswith("03ac674216f3e15c")
    assert store.names("a", ".bin") == ["a/b.bin"]
    table = pa.table({"x": [1, 2, 3]})
    store.write_table("a/t.parquet", table)
    assert store.read_table("a/t.parquet", ["x"]).equals(table)
    store.write_json("j.json", {"b": "ü", "a": [1]})
    assert store.read_json("j.json") == {"b": "ü", "a": [1]}
    store.remove("a/b.bin")
    store.remove("a/b.bin")
    assert not store.exists("a/b.bin")


class Bucket(MemoryFileSystem):
    """Goes by what it has listed, as s3fs does, until it is told to forget that."""

    protocol = "bucket"
    cachable = False  # every Store its own, as in processes of their own

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True)
        found = self.dircache[path]
        return found if detail else [info["name"] for info in found]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        listed = self._ls_from_cache(path)
        return listed[0] if listed else super().info(path, **options)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


def test_what_others_write_after_a_folder_was_listed_is_seen() -> None:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    root = f"bucket://store-{os.getpid()}"
    driver, worker = Store(root), Store(root)
    worker.write_bytes("scores/0.parquet", b"1234")
    assert driver.names("scores", ".parquet") == ["scores/0.parquet"]
    worker.write_bytes("scores/0.parquet", b"123456")
    worker.write_bytes("scores/1.parquet", b"12")
    assert [driver.size(f"scores/{number}.parquet") for number in range(2)] == [6, 2]
    assert driver.names("scores", ".parquet") == ["scores/0.parquet", "scores/1.parquet"]


@pytest.mark.parametrize(("root", "says"), [("", "name is empty"), ("gopher://a/b", "gopher.*give a folder")])
def test_a_root_that_cannot_be_opened_is_told_in_one_sentence(root: str, says: str) -> None:
    with pytest.raises(Unreachable, match=says):
        Store(root)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_bytes("f", b"old")

    def half(path: Path) -> None:
        path.write_bytes(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.write("f", half)
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_half_written_json_reads_as_absent(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"count": 1')
    assert Store(tmp_path).read_json("s.json") is None


def test_equal_values_equal_hash() -> None:
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})


def test_verdicts_are_counted_and_must_add_up() -> None:
    table = pa.table({"verdict": ["kept", "failed", "kept", "rejected"]})
    assert count(table, 4) == Counts(4, 2, 1, 1)
    with pytest.raises(Unbalanced):
        count(table, 5)
    with pytest.raises(Unbalanced):
        count(pa.table({"verdict": ["kept", "maybe"]}), 2)
