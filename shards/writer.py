"""Write WebDataset tars whose bytes depend on their samples alone: fixed times and owners, members in order."""

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manifests.store import Store

SHARDS = 100_000
"""At most, in five digits."""


@dataclass(frozen=True)
class Sample:
    """One image with its record. `key` is `{shard:05d}{index:04d}`, 9 digits without a dot. label: a member of its own
    named `{key}.{label_suffix}`, or b"".
    """

    key: str
    jpeg: bytes
    record: dict[str, Any]
    label: bytes = b""
    label_suffix: str = ""


@dataclass(frozen=True)
class Placed:
    """Where a sample's JPEG and label lie in its tar: first byte and number of bytes; -1 where there is no label."""

    key: str
    offset: int
    size: int
    label_offset: int = -1
    label_size: int = -1


def sample_key(shard: int, index: int) -> str:
    """img2dataset's key: 5 digits of the shard, 4 of the place in it. Raises ValueError past 99,999 and 9,999."""
    if not (0 <= shard < SHARDS and 0 <= index <= 9_999):
        raise ValueError(f"shard {shard}, index {index}: shards go up to 99999 and hold at most 10000 samples")
    return f"{shard:05d}{index:04d}"


def put_tar(store: Store, name: str, samples: Iterable[Sample]) -> list[Placed]:
    """`write_tar` to `name` of a store, where it appears once `check_tar` has found every sample. Raises OSError."""
    placed: list[Placed] = []

    def fill(path: Path) -> None:
        placed.extend(write_tar(path, samples))

    store.write(name, fill, lambda path: check_tar(path, placed))
    return placed


def write_tar(path: Path, samples: Iterable[Sample]) -> list[Placed]:
    """Write `{key}.jpg`, `{key}.json` and, where there is one, the label of every sample to an uncompressed USTAR
    file.
    """
    placed = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            offset = _add(tar, f"{sample.key}.jpg", sample.jpeg)
            record = json.dumps(sample.record, ensure_ascii=False, sort_keys=True, allow_nan=False)
            _add(tar, f"{sample.key}.json", record.encode())
            place = Placed(sample.key, offset, len(sample.jpeg))
            if sample.label:
                label_offset = _add(tar, f"{sample.key}.{sample.label_suffix}", sample.label)
                place = replace(place, label_offset=label_offset, label_size=len(sample.label))
            placed.append(place)
    return placed


def check_tar(path: Path, placed: list[Placed]) -> None:
    """Reopen a tar and find every sample where it was placed; raises OSError where one is not."""
    with tarfile.open(path, "r:") as tar:
        members = [(m.name, m.offset_data, m.size) for m in tar if not m.name.endswith(".json")]
    found = {(name.partition(".")[0], offset, size) for name, offset, size in members}
    wanted = {(p.key, p.offset, p.size) for p in placed}
    wanted |= {(p.key, p.label_offset, p.label_size) for p in placed if p.label_size >= 0}
    if found != wanted:
        raise OSError(f"{path}: {len(wanted)} samples written, {len(found)} read back; is the disk sound?")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    info.mtime = 0
    start = tar.offset
    tar.addfile(info, io.BytesIO(data))
    return start + tarfile.BLOCKSIZE
