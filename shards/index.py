"""Which samples a set of tar shards holds, and at which byte each lies.

Shards of `sapiens-curate` bring their index (a parquet file beside the tar). Any other WebDataset tar is read
once and its index kept in the cache folder. The tars themselves are never written to.
"""

import json
import os
import re
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache, partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from braceexpand import braceexpand

from manifests.store import Store
from shards.cache import ShardCache, ShardError, cache_home, local_path

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Members that are a sample's image; the first of these that a key has."""

INDEX_VERSION = 2
KEEP_EVERY = 30.0
"""Seconds of reading tars that a killed process may lose."""
FILES = 256
"""Tars that a process keeps open at most, however wide its window: systems allow a thousand files."""


class Shard(NamedTuple):
    """One tar. digest: sha256 of its bytes. stamp: what the file system says of its last change. index_url: its
    parquet's. without_image: keys that have none. hidden, links: members that are no samples.
    """

    url: str
    bytes: int
    stamp: str
    samples: int
    digest: str
    index_url: str
    without_image: int = 0
    hidden: int = 0
    links: int = 0


@dataclass(frozen=True)
class Samples:
    """The samples of one shard, in tar order. uid: (n, 2) uint64, the two halves of its 32 hex digits;
    offset, size: (n,) int64.
    """

    key: pa.ChunkedArray
    uid: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def uid_hex(self, row: int) -> str:
        return "".join(f"{half:016x}" for half in self.uid[row].tolist())


class ShardSet:
    """All shards of a data set. Samples are read shard by shard when they are asked for."""

    def __init__(self, shards: Sequence[Shard], cache: ShardCache | None = None) -> None:
        self.shards = tuple(shards)
        self.cache = cache or ShardCache()
        self.counts = np.array([shard.samples for shard in self.shards], dtype=np.int64)
        self.count = int(self.counts.sum())
        self.bytes = sum(shard.bytes for shard in self.shards)
        self.without_image = sum(shard.without_image for shard in self.shards)
        contents = "".join(f"{shard.digest} {shard.samples}\n" for shard in self.shards)
        self.fingerprint = sha256(contents.encode()).hexdigest()[:32]
        self.hold(64)

    def hold(self, shards: int) -> None:
        """Keep as many shards open, and what lies where in them, as one window has: more would keep the space of copies
        that the cache has deleted, fewer would read an index anew for every sample.
        """
        self.samples = lru_cache(maxsize=shards)(self._read_samples)
        self._open = lru_cache(maxsize=min(shards, FILES))(self._open_shard)

    def read(self, number: int, row: int) -> bytes:
        """The encoded image of one sample: a single read, no tar parsing."""
        samples = self.samples(number)
        return self.read_range(number, int(samples.offset[row]), int(samples.size[row]))

    def read_range(self, number: int, offset: int, size: int) -> bytes:
        """Some bytes of a shard's tar."""
        data = os.pread(self._open(number).descriptor, size, offset)
        if len(data) != size:
            raise ShardError(f"{self.shards[number].url} ended early: it was truncated; copy it again")
        return data

    def read_index(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """A shard's parquet. Raises ShardError where it cannot be fetched, OSError or ArrowException where not read."""
        shard = self.shards[number]
        read = partial(pq.read_table, columns=columns)
        return self.cache.read(read, shard.index_url, stamp=shard.digest)  # a shard that was packed anew has another

    def _open_shard(self, number: int) -> "_OpenFile":
        shard = self.shards[number]
        try:
            file = self.cache.read(_OpenFile, shard.url, shard.bytes, shard.stamp)
        except OSError as error:
            raise ShardError(f"{shard.url} cannot be opened ({error.strerror}); is the disk still there?") from error
        if (size := os.fstat(file.descriptor).st_size) != shard.bytes:
            raise ShardError(
                f"{shard.url} has {size} bytes where its index expects {shard.bytes}: it was changed after the start; "
                "put the old file back or start a new run"
            )
        return file

    def _read_samples(self, number: int) -> Samples:
        shard = self.shards[number]
        try:
            table = self.read_index(number, ["key", "uid", "offset", "size"])
            uid = np.frombuffer(bytes.fromhex("".join(table["uid"].to_pylist())), dtype=">u8").reshape(-1, 2)
        except (OSError, ValueError, TypeError, pa.ArrowException) as error:
            raise ShardError(
                f"the index {shard.index_url} cannot be read ({error}); copy or pack the shard again"
            ) from error
        offset, size = table["offset"].to_numpy(), table["size"].to_numpy()
        if len(table) != shard.samples:
            raise ShardError(
                f"{shard.index_url} has {len(table)} rows where {shard.samples} are expected; pack the shard again"
            )
        if len(table) and int((offset + size).max()) > shard.bytes:
            raise ShardError(f"{shard.url} is shorter than its index says: it is truncated; copy it again")
        return Samples(table["key"], uid.astype(np.uint64), offset, size)


class _OpenFile:
    """A file opened for reading that closes itself when nobody holds it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def open_shards(sources: str | Sequence[str], cache: ShardCache | None = None) -> ShardSet:
    """All shards of a curated folder, a folder of tars, or tar names with {braces} and globs, local or
    remote.

    What was learnt of a tar is kept in the cache folder and used again while its size and time of change are
    the same.
    """
    cache = cache or ShardCache()
    sources = [_absolute(s) for s in ([sources] if isinstance(sources, str) else sources)]
    listed: dict[str, Listed] = {}
    for source in sources:
        for tar in _find(source):
            listed.setdefault(tar.url, tar)
    known = _load_known(sources)
    fresh = [tar for tar in listed.values() if (tar.url, tar.bytes, tar.stamp) not in known]
    _learn(fresh, known, sources, cache)
    shards = [known[tar.url, tar.bytes, tar.stamp] for tar in listed.values()]
    if fresh:
        _save_known(sources, shards)
    opened = ShardSet(shards, cache)
    if opened.count == 0:
        raise ShardError(
            f"no image was found in {len(shards)} tars of {', '.join(sources)}; "
            f"a sample is a member named KEY.{{{','.join(IMAGE_SUFFIXES)}}}"
        )
    return opened


def _learn(
    fresh: "list[Listed]", known: dict[tuple[str, int, str], Shard], sources: list[str], cache: ShardCache
) -> None:
    """Add what is in tars to `known`, and keep it now and then: who is stopped at the last of many, or meets a bad one,
    need not read the others again.
    """
    kept, broken = time.monotonic(), {}
    pool = ThreadPoolExecutor(16)
    try:
        asked = {pool.submit(_describe, tar, cache): number for number, tar in enumerate(fresh)}
        for done in as_completed(asked):
            if error := done.exception():
                broken[asked[done]] = error
                continue
            shard = done.result()
            known[shard.url, shard.bytes, shard.stamp] = shard
            if time.monotonic() - kept > KEEP_EVERY:
                _save_known(sources, list(known.values()))
                kept = time.monotonic()
        if broken:
            raise broken[min(broken)]
    except BaseException:
        if known:
            _save_known(sources, list(known.values()))
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _absolute(source: str) -> str:
    path = local_path(source)
    return source if path is None else str(path.expanduser().absolute())


# -- finding tars ------------------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """A tar as its folder lists it. curated: its parquet and stats lie beside it."""

    url: str
    bytes: int
    stamp: str
    curated: bool


def _find(source: str) -> list[Listed]:
    tars: list[Listed] = []
    for pattern in braceexpand(source):
        if pattern.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
            raise ShardError(f"{pattern} is compressed and cannot be read by offset; unpack it to a plain .tar")
        folder, name = pattern.rsplit("/", 1) if "/" in pattern else (".", pattern)
        if not name.endswith(".tar"):
            tars += _find_in_folder(pattern.rstrip("/"))
        elif any(c in name for c in "*?[") and not os.path.isfile(local_path(pattern) or ""):
            tars += _select(folder, name)
        else:
            tars.append(_find_one(pattern))
    return sorted(tars, key=lambda tar: tar.url)


def _find_in_folder(folder: str) -> list[Listed]:
    for candidate in (f"{folder}/shards", folder):
        if tars := _select(candidate, "*.tar", missing_ok=True):
            return tars
    raise ShardError(
        f"{folder} holds no tar shards; give a folder that sapiens-curate wrote, a folder of .tar files, or tar names "
        "such as 'data/{000..127}.tar'"
    )


def _select(folder: str, pattern: str, missing_ok: bool = False) -> list[Listed]:
    """Tars of one folder that match a pattern; a curated shard whose tar is gone is an error."""
    files = {name: facts for name, facts in _list_folder(folder).items() if not name.startswith(".")}
    matches = re.compile(translate(pattern)).match
    for stats in (name for name in files if name.endswith("_stats.json")):
        tar = stats.removesuffix("_stats.json") + ".tar"
        if tar not in files and matches(tar):
            raise ShardError(f"{folder}/{tar} is missing though {stats} is there; copy the shard again")
    tars = []
    for name in (name for name in files if name.endswith(".tar") and matches(name)):
        stem = name.removesuffix(".tar")
        curated = f"{stem}_stats.json" in files
        if curated and f"{stem}.parquet" not in files:
            if "sha256" in _read_stats(f"{folder}/{name}"):
                raise ShardError(f"{folder}/{stem}.parquet is missing beside {name}; copy the shard again")
            curated = False  # img2dataset's, whose table is not asked for
        tars.append(Listed(f"{folder}/{name}", *files[name], curated))
    if not tars and not missing_ok:
        raise ShardError(f"no tar matches {folder}/{pattern}")
    return tars


def _list_folder(folder: str) -> dict[str, tuple[int, str]]:
    """Name → (bytes, stamp) of the files in a folder; empty where there is none. Only tars are asked for size
    and time.
    """
    if path := local_path(folder):
        if not path.is_dir():
            return {}
        with os.scandir(path) as entries:
            return {e.name: _local_stat(e.path) if e.name.endswith(".tar") else (0, "") for e in entries}
    store = Store(folder)
    try:
        found = store.fs.ls(store.path, detail=True)
        for info in found:
            if info.get("size") is None and info["name"].endswith(".tar"):  # a web server lists names alone
                info.update(store.fs.info(info["name"]))
        return {
            info["name"].rstrip("/").rsplit("/", 1)[-1]: (int(info.get("size") or 0), _remote_stamp(info))
            for info in found
        }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except Exception as error:  # clients of object stores raise what they like
        raise ShardError(f"{folder} cannot be listed ({error}); name the tars, or check the address") from error


def _find_one(url: str) -> Listed:
    """A tar named in full; works where a server does not list folders."""
    stem = url.removesuffix(".tar")
    if path := local_path(url):
        if not path.is_file():
            raise ShardError(f"{url} does not exist; check the name, or copy the shard there")
        curated = Path(f"{local_path(stem)}_stats.json").is_file() and Path(f"{local_path(stem)}.parquet").is_file()
        return Listed(url, *_local_stat(path), curated)
    store = Store(url)
    try:
        info = store.fs.info(store.path)
    except FileNotFoundError as error:
        raise ShardError(f"{url} does not exist; check the address, or copy the shard there") from error
    if info.get("size") is None:
        raise ShardError(f"the server does not say how large {url} is; download the shard and give the local file")
    curated = store.fs.exists(f"{store.path.removesuffix('.tar')}_stats.json")
    return Listed(url, int(info["size"]), _remote_stamp(info), curated)


def _local_stat(path: str | Path) -> tuple[int, str]:
    status = os.stat(path)
    return status.st_size, str(status.st_mtime_ns)


def _remote_stamp(info: dict) -> str:
    names = ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "mtime", "modify")
    return str(next((info[name] for name in names if info.get(name)), ""))


# -- describing a tar --------------------------------------------------------------------------------------------------


def _describe(tar: Listed, cache: ShardCache) -> Shard:
    stats = _read_stats(tar.url) if tar.curated else {}
    return _describe_curated(tar, stats) if "sha256" in stats else _describe_foreign(tar, cache)


def _read_stats(tar: str) -> dict[str, Any]:
    """What lies beside a tar as `_stats.json`; without hashes it is img2dataset's, and the tar has no index."""
    url = f"{tar.removesuffix('.tar')}_stats.json"
    try:
        with fsspec.open(url, "rb") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError) as error:
        raise ShardError(f"{url} cannot be read ({error!r}); copy or pack the shard again") from error


def _describe_curated(tar: Listed, stats: dict[str, Any]) -> Shard:
    stem, name = tar.url.removesuffix(".tar"), tar.url.rsplit("/", 1)[-1]
    try:
        count, digest, size = int(stats["successes"]), str(stats["sha256"][name]), int(stats["sizes"][name])
    except (KeyError, ValueError, TypeError) as error:
        raise ShardError(f"{stem}_stats.json lacks {error}; copy or pack the shard again") from error
    if size != tar.bytes:
        raise ShardError(
            f"{tar.url} has {tar.bytes} bytes instead of {size}: it is truncated or changed; copy it again"
        )
    return Shard(tar.url, tar.bytes, tar.stamp, count, digest, f"{stem}.parquet")


def _describe_foreign(tar: Listed, cache: ShardCache) -> Shard:
    name = sha256(f"{INDEX_VERSION}\n{tar.url}\n{tar.bytes}\n{tar.stamp}".encode()).hexdigest()[:32]
    found = cache.read(lambda path: index_tar(path, tar.url), tar.url, tar.bytes, tar.stamp)
    store = Store(cache_home() / "index")
    store.write_table(f"{name}.parquet", found.table)
    passed_over = (found.without_image, found.hidden, found.links)
    index_url = store.full(f"{name}.parquet")
    return Shard(tar.url, tar.bytes, tar.stamp, len(found.table), found.digest, index_url, *passed_over)


@dataclass(frozen=True)
class Contents:
    """What a tar holds: rows (key, uid, offset, size) of the samples with an image, uid being 32 hex of its sha256; the
    tar's sha256; how many keys have no image; how many members are hidden files, or links to other members.
    """

    table: pa.Table
    digest: str
    without_image: int
    hidden: int
    links: int


def index_tar(path: Path, url: str) -> Contents:
    """Read a tar once. Raises ShardError for a file that is not a whole, plain tar."""
    images: dict[str, tuple[int, int, int]] = {}
    keys: dict[str, None] = {}
    end = hidden = links = 0
    with open(path, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    end = member.offset_data + -(-member.size // 512) * 512
                    key, suffix = key_and_suffix(member.name)
                    links += member.islnk() or member.issym()
                    hidden += member.isfile() and not key
                    if not member.isfile() or not key:
                        continue
                    keys.setdefault(key)
                    if suffix in IMAGE_SUFFIXES:
                        rank = IMAGE_SUFFIXES.index(suffix)
                        images[key] = min(images.get(key, (9, 0, 0)), (rank, member.offset_data, member.size))
        except (tarfile.TarError, EOFError) as error:
            raise ShardError(f"{url} is not a whole tar ({error}); copy it again") from error
        file.seek(end)
        if file.read(512) != bytes(512):
            raise ShardError(f"{url} ends without the closing block of a tar: it is truncated; copy it again")
        while block := file.read(1 << 16):
            if block.count(0) != len(block):
                raise ShardError(f"{url} goes on behind its end, as tars that `cat` joined do; give them one by one")

        def uid(offset: int, size: int) -> str:
            return sha256(os.pread(file.fileno(), size, offset)).hexdigest()[:32]

        table = pa.table(
            {
                "key": pa.array(list(images), pa.string()),
                "uid": pa.array([uid(offset, size) for _, offset, size in images.values()], pa.string()),
                "offset": pa.array([offset for _, offset, _ in images.values()], pa.int64()),
                "size": pa.array([size for _, _, size in images.values()], pa.int64()),
            }
        )
        file.seek(0)
        digest = file_digest(file, "sha256").hexdigest()
        return Contents(table, digest, len(keys) - len(images), hidden, links)


def key_and_suffix(name: str) -> tuple[str, str]:
    """Of a tar member's name what WebDataset cuts at the first dot of the last part, the suffix in lower case; the key
    of hidden files, as macOS leaves them, is "".
    """
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}/{stem}" if folder and stem else stem, suffix.lower()


# -- what is known already ---------------------------------------------------------------------------------------------


def _known_name(sources: Sequence[str]) -> str:
    return sha256("\n".join([str(INDEX_VERSION), *sources]).encode()).hexdigest()[:32] + ".parquet"


def _load_known(sources: Sequence[str]) -> dict[tuple[str, int, str], Shard]:
    """What was learnt of these tars; entries whose index was deleted from the cache folder are forgotten."""
    store, name = Store(cache_home() / "sets"), _known_name(sources)
    if not store.exists(name):
        return {}
    columns = store.read_table(name).to_pydict()
    shards = map(Shard, *(columns[field] for field in Shard._fields))
    folder = f"{cache_home() / 'index'}/"
    there = {f"{folder}{file.name}" for file in os.scandir(folder)} if os.path.isdir(folder) else set()
    usable = (s for s in shards if not s.index_url.startswith(folder) or s.index_url in there)
    return {(s.url, s.bytes, s.stamp): s for s in usable}


def _save_known(sources: Sequence[str], shards: Sequence[Shard]) -> None:
    table = pa.table(dict(zip(Shard._fields, map(list, zip(*shards, strict=True)), strict=True)))
    Store(cache_home() / "sets").write_table(_known_name(sources), table)
