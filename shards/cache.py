"""Local copies of remote files, in a folder of bounded size that all processes of one machine share."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import fsspec

from manifests.lock import exclusive
from manifests.store import Store

Value = TypeVar("Value")

ATTEMPTS = 5
PATIENCE = 60.0
"""Seconds without a byte from a web server; aiohttp itself allows 300 for all of a shard."""
ABANDONED = 24 * 3600
"""Seconds without a byte after which a download is nobody's any more."""


class ShardError(Exception):
    """Shards that cannot be used as they are; the text says which, why and what to do."""


def cache_home() -> Path:
    """Where indexes and remote shards are kept: $SAPIENS_CACHE, or ~/.cache/sapiens."""
    if named := os.environ.get("SAPIENS_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "sapiens"
    except RuntimeError:  # no HOME, and a user whom the system does not know
        raise OSError("this user has no home folder for the cache; set SAPIENS_CACHE to a folder to write in") from None


def is_remote(url: str) -> bool:
    return ("://" in url or "::" in url) and not url.startswith("file://")


def local_path(url: str) -> Path | None:
    """The path of a url on this machine's disk; None for a remote one."""
    return None if is_remote(url) else Path(url.removeprefix("file://"))


class ShardCache:
    """Copies of remote files, the least recently used ones deleted beyond `limit` bytes.

    A file is downloaded by one process at a time and appears whole. Deleting a copy that a reader holds open
    does not disturb it; its space is freed when the reader closes it.
    """

    def __init__(self, folder: Path | None = None, limit: int = 200 * 10**9) -> None:
        self.folder = folder or cache_home() / "shards"
        self.limit = limit

    def read(self, read: Callable[[Path], Value], url: str, size: int | None = None, stamp: str = "") -> Value:
        """What `read` makes of the url's content at a local path; called again where another process deleted the copy
        before it was opened.
        """
        try:
            return read(self.fetch(url, size, stamp))
        except FileNotFoundError:
            return read(self.fetch(url, size, stamp))

    def fetch(self, url: str, size: int | None = None, stamp: str = "") -> Path:
        """A local path with the url's content, downloaded now if need be; it may be deleted at any time. size: bytes it
        must have, where known. stamp: what tells it from other content under the same url.
        """
        if path := local_path(url):
            return path
        name = sha256(f"{url}\n{size}\n{stamp}".encode()).hexdigest()[:24] + "-" + url.rsplit("/", 1)[-1]
        path = self.folder / name
        if not _touch(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(path.with_name(f".{name[:3]}.lock")):  # of 4,096: a lock file can never be deleted
                if not _touch(path):  # another process may have brought it meanwhile
                    self._download(url, name, size)
            self._evict(keep=path)
        return path

    def _download(self, url: str, name: str, size: int | None) -> None:
        def check(path: Path) -> None:
            if size is not None and path.stat().st_size != size:
                raise OSError(f"{path.stat().st_size} bytes came instead of {size}")

        def fill(path: Path) -> None:
            fs, remote = _filesystem(url)
            fs.get_file(remote, str(path))

        for attempt in range(1, ATTEMPTS + 1):
            try:
                Store(self.folder).write(name, fill, check)
                return
            except FileNotFoundError as error:
                raise ShardError(f"{url} does not exist; check the address, or copy the shard there") from error
            except Exception as error:  # clients of object stores raise what they like
                if attempt == ATTEMPTS:
                    told = str(error) or type(error).__name__
                    raise ShardError(f"{url} could not be fetched in {ATTEMPTS} attempts: {told}") from error
                time.sleep(0.2 * 4 ** (attempt - 1))

    def _evict(self, keep: Path) -> None:
        with exclusive(self.folder / ".evict.lock"):
            _sweep(self.folder)
            files = []
            for path in self.folder.iterdir():
                if not path.name.startswith("."):
                    status = path.stat()
                    files.append((status.st_mtime_ns, status.st_size, path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self.limit:
                    break
                if path != keep:
                    path.unlink()
                    total -= size


class ReadAhead:
    """Fetches shards before they are needed, in threads of this process. A failure here is left to the reader
    to report.
    """

    def __init__(self, cache: ShardCache, threads: int = 4) -> None:
        self.cache = cache
        self._queue: SimpleQueue[tuple[str, int, str] | None] = SimpleQueue()
        self._asked: set[str] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, name="read-ahead", daemon=True) for _ in range(threads)]
        for thread in self._threads:  # daemons: at exit Python would wait for an executor's, before it asks us to stop
            thread.start()

    def want(self, files: Sequence[tuple[str, int, str]]) -> None:
        """Fetch these (url, bytes, stamp), soonest needed first; what is on its way is not asked for again."""
        wanted = {url for url, _, _ in files}
        self._asked &= wanted
        for url, size, stamp in files:
            if url not in self._asked:
                self._asked.add(url)
                self._queue.put((url, size, stamp))

    def close(self) -> None:
        self._stop.set()
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while wanted := self._queue.get():
            self._fetch(*wanted)

    def _fetch(self, url: str, size: int, stamp: str) -> None:
        if not self._stop.is_set():
            try:
                self.cache.fetch(url, size, stamp)
            except Exception:
                self._asked.discard(url)


def _filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """A file system of this process alone: instances that a parent made do not survive a fork."""
    protocol = fsspec.utils.get_protocol(url)
    options: dict[str, Any] = {} if protocol == "memory" else {"skip_instance_cache": True}
    if protocol in {"http", "https"}:
        from aiohttp import ClientTimeout  # which not everybody needs

        configured = fsspec.config.conf.get(protocol, {}).get("client_kwargs", {})
        patient = ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)
        options["client_kwargs"] = {"timeout": patient, **configured}
    return fsspec.core.url_to_fs(url, **options)


def _sweep(folder: Path) -> None:
    """Delete downloads that a killed process left half done."""
    for path in folder.glob(".tmp-*"):
        try:
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
        except FileNotFoundError:  # it was whole by now
            continue


def _touch(path: Path) -> bool:
    """Mark a file as used now; False where there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
