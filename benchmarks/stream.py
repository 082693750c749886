"""Images per second of the training stream beside its ceiling and its peers, and the time to resume.

    pip install -e '.[test]'
    python benchmarks/stream.py TARS…                # WebDataset tars of JPEGs
    python benchmarks/stream.py 'mine/*.tar' --size 1024 --workers 8

ceiling      the same decoding and cropping from memory in as many processes, nothing handed over
stream       shards.stream: exact order, keyed crops, batches in shared memory
webdataset   WebDataset with a shuffle buffer of 1000, the same decoding and cropping
folder       torch DataLoader over loose files, the same decoding and cropping
folder+PIL   the same with Pillow, as most training code has it

Every contender makes crops of one size in batches of 32 with the same number of processes. Rounds go through all of
them in turn; each is compared with the ceiling of its own round, and the medians are shown.
"""

import argparse
import io
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from shards.crop import RandomCrop
from shards.index import ShardSet, open_shards
from shards.order import Order
from shards.stream import stream
from shards.writer import Sample, sample_key, write_tar

BATCH = 32


def ceiling(jpegs: list[bytes], crop: RandomCrop, workers: int, seconds: float) -> float:
    """Images per second of `workers` processes that decode and crop from memory."""

    def work(number: int, counts: multiprocessing.Queue) -> None:
        torch.set_num_threads(1)
        batch = np.empty((BATCH, *crop.size, 3), np.uint8)
        done, end = 0, time.perf_counter() + seconds
        start = time.perf_counter()
        while time.perf_counter() < end:
            batch[done % BATCH] = crop(jpegs[(number + done * 7919) % len(jpegs)], done)
            done += 1
        counts.put(done / (time.perf_counter() - start))

    fork = multiprocessing.get_context("fork")
    counts = fork.Queue()
    processes = [fork.Process(target=work, args=(n, counts)) for n in range(workers)]
    for process in processes:
        process.start()
    rates = [counts.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(rates)


def rate(batches: Iterator[int], workers: int, seconds: float) -> float:
    """Images per second of an endless loader, after the batches that its workers had ready."""
    for _ in islice(batches, 3 * workers):
        pass
    start, images = time.perf_counter(), 0
    for size in batches:
        images += size
        if time.perf_counter() - start > seconds:
            break
    return images / (time.perf_counter() - start)


def our_stream(shards: ShardSet, crop: RandomCrop, workers: int) -> Iterator[int]:
    order = Order(shards.counts, 0)
    for batch in stream(shards, order, crop, start=0, stop=10**9, micro_batch=BATCH, workers=workers):
        yield len(batch.uids)


def through_webdataset(tars: list[str], crop: RandomCrop, workers: int) -> Iterator[int]:
    draw = iter(range(10**9))
    samples = webdataset.WebDataset(tars, shardshuffle=len(tars), resampled=True, empty_check=False).shuffle(1000)
    cropped = samples.to_tuple("jpg").map(lambda sample: torch.from_numpy(crop(sample[0], next(draw)).copy()))
    for batch in DataLoader(cropped.batched(BATCH, collation_fn=torch.stack), batch_size=None, num_workers=workers):
        yield len(batch)


class Folder(Dataset[torch.Tensor]):
    """Loose files, read, decoded and cropped."""

    def __init__(self, files: list[Path], transform: Callable[[bytes, int], np.ndarray]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self.transform(self.files[number].read_bytes(), number).copy())


def through_folder(files: list[Path], transform: Callable[[bytes, int], np.ndarray], workers: int) -> Iterator[int]:
    loader = DataLoader(
        Folder(files, transform), BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    for _ in cycle((0,)):
        for batch in loader:
            yield len(batch)


def with_pillow(crop: RandomCrop) -> Callable[[bytes, int], np.ndarray]:
    def transform(data: bytes, key: int) -> np.ndarray:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        box = crop.choose(image.height, image.width, key)
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        pixels = np.asarray(image.resize(crop.size[::-1], Image.Resampling.BICUBIC, box=corners))
        return pixels[:, ::-1] if box.flip else pixels

    return transform


def compare(tars: list[str], size: int, workers: int, seconds: float, rounds: int) -> None:
    shards = open_shards(tars)
    urls = [shard.url for shard in shards.shards]  # webdataset knows no globs
    crop = RandomCrop((size, size))
    jpegs = [shards.read(s, r) for s, count in enumerate(shards.counts) for r in range(count)]
    if len(jpegs) < BATCH:
        raise SystemExit(f"{len(jpegs)} photos do not fill a batch of {BATCH}; give more tars")
    kilobytes = sum(map(len, jpegs)) / len(jpegs) / 1e3
    cores = f"{workers} processes, {os.cpu_count()} cores"
    print(f"{len(jpegs)} photos of {kilobytes:.0f} kB on average, crops of {size} px, {cores}")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.jpg" for i in range(len(jpegs))]
        for file, jpeg in zip(files, jpegs, strict=True):
            file.write_bytes(jpeg)
        contenders: dict[str, Callable[[], float]] = {
            "ceiling": lambda: ceiling(jpegs, crop, workers, seconds),
            "stream": lambda: rate(our_stream(shards, crop, workers), workers, seconds),
            "webdataset": lambda: rate(through_webdataset(urls, crop, workers), workers, seconds),
            "folder": lambda: rate(through_folder(files, crop, workers), workers, seconds),
            "folder+PIL": lambda: rate(through_folder(files, with_pillow(crop), workers), workers, seconds),
        }
        measured: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, measure in contenders.items():
                measured[name].append(measure())
    for name, rates in measured.items():
        share = statistics.median(r / top for r, top in zip(rates, measured["ceiling"], strict=True))
        rounds_shown = " ".join(f"{r:.0f}" for r in rates)
        print(f"{name:>12}: {statistics.median(rates):6.0f} images/s  {share:.2f} of the ceiling  ({rounds_shown})")


def resume(jpegs: list[bytes]) -> None:
    """Time to the first batch at sample 10**9 of 30,000 shards x 10,000 samples (links to one real shard)."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["SAPIENS_CACHE"] = f"{name}/cache"  # nobody opens this folder again
        folder = Path(name) / "shards"
        folder.mkdir()
        samples = [Sample(sample_key(0, i), jpegs[i % len(jpegs)], {}) for i in range(10_000)]
        placed = write_tar(Path(name) / "real.tar", samples)
        uids = [sha256(str(i).encode()).hexdigest()[:32] for i in range(10_000)]
        offsets = {kind: pa.array([getattr(p, kind) for p in placed], pa.int64()) for kind in ("offset", "size")}
        pq.write_table(pa.table({"key": [p.key for p in placed], "uid": uids, **offsets}), Path(name) / "real.parquet")
        tar_bytes = (Path(name) / "real.tar").stat().st_size
        for number in range(30_000):
            stem = f"{number:05d}"
            (folder / f"{stem}.tar").symlink_to("../real.tar")
            (folder / f"{stem}.parquet").symlink_to("../real.parquet")
            stats = {"successes": 10_000, "sha256": {f"{stem}.tar": stem}, "sizes": {f"{stem}.tar": tar_bytes}}
            (folder / f"{stem}_stats.json").write_text(json.dumps(stats))

        for when in ("first opening", "opening again"):
            start = time.perf_counter()
            shards = open_shards(name)
            seconds = time.perf_counter() - start
            print(f"{when}: {seconds:.2f} s for {shards.count:,} samples in {len(shards.shards):,} shards")
        for workers in (0, 2):
            start = time.perf_counter()
            shards = open_shards(name)
            order = Order(shards.counts, 0)
            crop = RandomCrop((256, 256))
            batches = stream(shards, order, crop, start=10**9, stop=2 * 10**9, micro_batch=BATCH, workers=workers)
            next(batches)
            seconds = time.perf_counter() - start
            print(f"first batch at sample 10^9 with {workers} workers, opening included: {seconds:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tars", nargs="+", help="WebDataset tars of JPEGs")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--resume-only", action="store_true")
    given = parser.parse_args()
    if given.workers < 1:
        parser.error("--workers: at least 1")
    torch.set_num_threads(1)
    if not given.resume_only:
        compare(given.tars, given.size, given.workers, given.seconds, given.rounds)
    shards = open_shards(given.tars)
    resume([shards.read(0, row) for row in range(min(500, shards.counts[0]))])


if __name__ == "__main__":
    main()
