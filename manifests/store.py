"""Files of a curated folder, local or on any fsspec URL, written so that a crash never leaves half a file.

Locally a file appears under its name only when it is whole and on disk (write beside, fsync, rename, fsync
the folder). Object stores have no rename but show an object only when its upload is complete, so there the
verified local copy is uploaded under the final name.
"""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq


class Damaged(OSError):
    """A file whose bytes are no table; the text says which and what to do."""


class Unreachable(OSError):
    """No file system for a root; the text says why and what to give."""


class Store:
    """A root folder and the few things done with files in it. Names are relative, with forward slashes."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = str(root)
        if not self.root:
            raise Unreachable("the folder's name is empty; give a folder or a URL")
        try:
            self.fs, self.path = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise Unreachable(f"{self.root} cannot be opened: {error}; give a folder or another URL") from None
        self.is_local = "file" in _protocols(self.fs)

    @property
    def anywhere(self) -> str:
        """The root under a name that holds in processes with another working folder too."""
        return self.path if self.is_local else self.root

    def full(self, name: str) -> str:
        """Path of `name` as the file system wants it."""
        return f"{self.path.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self.full(name)))

    def size(self, name: str) -> int:
        """Bytes of a file, -1 where it is absent."""
        try:
            return int(self.fs.size(self.full(name)))
        except FileNotFoundError:
            return -1

    def open(self, name: str) -> BinaryIO:
        """Open for reading."""
        return self.fs.open(self.full(name), "rb")

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names in `folder` that end in `suffix`; empty where the folder is absent."""
        try:
            found = self.fs.ls(self.full(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        finally:
            self.fs.invalidate_cache()  # or it goes by this list when it is asked for what others write later
        bare = (path.rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(f"{folder}/{name}" for name in bare if name.endswith(suffix) and not name.startswith("."))

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens where it is absent."""
        if self.exists(name):
            self.fs.rm(self.full(name))

    def write(self, name: str, fill: Callable[[Path], None], check: Callable[[Path], None] | None = None) -> None:
        """Make a file appear whole: `fill` writes it at the path given, `check` may read it and raise."""
        if self.is_local:
            target = Path(self.full(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.parent / f".tmp-{uuid.uuid4().hex}"
            try:
                fill(beside)
                fsync(beside)
                if check:
                    check(beside)
                os.replace(beside, target)
            finally:
                beside.unlink(missing_ok=True)
            fsync(target.parent)
            return
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "file"
            fill(local)
            if check:
                check(local)
            self.fs.makedirs(os.path.dirname(self.full(name)), exist_ok=True)
            self.fs.put_file(str(local), self.full(name))

    def write_bytes(self, name: str, data: bytes) -> None:
        self.write(name, lambda path: _write_all(path, data))

    def write_json(self, name: str, value: Any) -> None:
        """UTF-8, one line a key, in the order given."""
        self.write_bytes(name, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """The parsed file; None where it is absent or not JSON, as an interrupted foreign write leaves it."""
        try:
            with self.open(name) as file:
                return json.load(file)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def write_table(self, name: str, table: pa.Table, row_group_size: int | None = None) -> None:
        """A zstd parquet file, reopened and its row count checked before it appears."""

        def fill(path: Path) -> None:
            pq.write_table(table, path, compression="zstd", row_group_size=row_group_size)

        def check(path: Path) -> None:
            if (rows := pq.read_metadata(path).num_rows) != table.num_rows:
                raise OSError(f"{name}: wrote {table.num_rows} rows, read back {rows}; is the disk sound?")

        self.write(name, fill, check)

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """All rows of a table. Raises Damaged where that is none."""
        with self.open(name) as file, self.told_of(name):
            return pq.read_table(file, columns=columns)

    @contextmanager
    def told_of(self, name: str) -> Iterator[None]:
        """Around reading the table `name`: what Arrow raises about its bytes becomes Damaged."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the system, not of Arrow
                raise
            told = f"{self.root}/{name} cannot be read as a table ({error})"
            raise Damaged(f"{told}; delete it and run the command that made it again") from None

    def sha256(self, name: str) -> str:
        """Hex digest of a whole file."""
        digest = sha256()
        with self.open(name) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def sweep(self, folder: str) -> None:
        """Delete what an interrupted write left behind in a local folder."""
        if self.is_local and Path(self.full(folder)).is_dir():
            for path in Path(self.full(folder)).glob(".tmp-*"):
                path.unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        if self.is_local:
            shutil.rmtree(self.full(folder), ignore_errors=True)
        elif self.fs.exists(self.full(folder)):
            self.fs.rm(self.full(folder), recursive=True)


def as_umask_says(path: Path) -> None:
    """Give a file the mode of any new one: safetensors makes its files readable to their owner alone."""
    mask = os.umask(0o022)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def fsync(path: Path) -> None:
    """Flush a file's or a folder's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def content_hash(value: Any) -> str:
    """First 16 hex digits of the sha256 of a JSON value: equal values, equal hash."""
    return sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def _write_all(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
