"""Small synthetic shards for tests: coloured gradients, so that any crop of them is a proper picture."""

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from shards.writer import Sample, sample_key, write_tar


def photo(seed: int, height: int = 96, width: int = 120) -> bytes:
    """A JPEG whose content depends on the seed."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (4, 3)).astype(np.float32)
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    pixels = (1 - y) * ((1 - x) * corners[0] + x * corners[1]) + y * ((1 - x) * corners[2] + x * corners[3])
    pixels += 40 * np.sin(10 * (x + y) * (1 + seed % 5))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8)), quality=90)


def write_members(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar with these members, as any tool might write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_foreign(path: Path, seeds: range) -> Path:
    """A plain WebDataset tar: KEY.jpg and KEY.json for every seed."""
    members = [
        (f"{s:06d}.{kind}", data) for s in seeds for kind, data in (("jpg", photo(s)), ("json", b'{"caption": "x"}'))
    ]
    return write_members(path, members)


def write_curated(out: Path, shards: int, per_shard: int) -> Path:
    """A folder as `sapiens-curate` leaves it; returns it."""
    folder = out / "shards"
    folder.mkdir(parents=True)
    for number in range(shards):
        jpegs = [photo(number * per_shard + i) for i in range(per_shard)]
        samples = [Sample(sample_key(number, i), jpeg, {"i": i}) for i, jpeg in enumerate(jpegs)]
        placed = write_tar(folder / f"{number:05d}.tar", samples)
        table = pa.table(
            {
                "key": [p.key for p in placed],
                "uid": [sha256(jpeg).hexdigest()[:32] for jpeg in jpegs],
                "width": [120] * per_shard,
                "height": [96] * per_shard,
                "offset": pa.array([p.offset for p in placed], pa.int64()),
                "size": pa.array([p.size for p in placed], pa.int64()),
            }
        )
        pq.write_table(table, folder / f"{number:05d}.parquet")
        tar = (folder / f"{number:05d}.tar").read_bytes()
        name = f"{number:05d}.tar"
        stats = {
            "count": per_shard,
            "successes": per_shard,
            "sizes": {name: len(tar)},
            "sha256": {name: sha256(tar).hexdigest()},
        }
        (folder / f"{number:05d}_stats.json").write_text(json.dumps(stats))
    return out
