"""Milliseconds per picture of each built-in answer, and pictures per second of a whole recipe on several processes.

    python benchmarks/builtin.py [--recipe humans300m] [--processes 2] [--seconds 4] [--photos TAR]

A recipe is JPEG bytes → decoded → quality, fingerprint and its networks: of people, text, marks and style, and for
humans1b of safety too. Pictures are made up, 640 x 480, or the first 64 of a tar. Processor time is what the rate would
be bounded by on a machine left alone.
"""

import argparse
import os
import tarfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Dask's workers have it: or numpy's threads would share every core

import numpy as np

from curation.batch import Batch
from curation.builtin import ANSWERS, Builtin
from curation.decode import decode, encode_jpeg
from curation.recipe import load_recipe
from curation.scorers import make_scorers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="humans300m")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--photos", help="a tar of JPEGs")
    args = parser.parse_args()
    data = first_jpegs(args.photos, 64) if args.photos else made_up()
    answers(data, args.seconds)
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(args.processes) as pool:
        barrier = manager.Barrier(args.processes)
        rates = pool.starmap(profile, [(args.recipe, data, args.seconds, barrier)] * args.processes)
    rate, busy = (sum(column) for column in zip(*rates, strict=True))
    print(f"{args.recipe}, {args.processes} processes of one thread: {rate:.1f} pictures/s")
    print(f"{args.recipe}, processor time: {busy / args.processes:.1f} ms per picture")


def answers(data: list[bytes], seconds: float) -> None:
    """What each answer costs alone, one thread, decoded pictures."""
    builtin, images = Builtin(), [decode(d).rgb for d in data[:16]]
    questions: dict[str, set[str]] = {name: {name} for name in ANSWERS}
    questions["everything"] = set(ANSWERS)
    for name, needs in questions.items():
        best = milliseconds(lambda needs=needs: ask(builtin, images, needs), len(images), seconds)
        print(f"{name}: {best:.1f} ms")


def ask(builtin: Builtin, images: list[np.ndarray], needs: set[str]) -> None:
    """Backbones and answers, as a scorer would."""
    f = builtin.features(images, needs)
    for name in needs:
        getattr(builtin, name)(f)


def profile(recipe: str, data: list[bytes], seconds: float, barrier: Barrier) -> tuple[float, float]:
    """Pictures per second of one worker, from bytes to every column, and milliseconds of processor time for each."""
    scorers = make_scorers(load_recipe(recipe), threads=1)

    def work(jpegs: list[bytes]) -> None:
        batch = Batch(jpegs, [decode(d) for d in jpegs])
        for scorer in scorers:
            batch.scored.update(scorer.score(batch))

    portions = [data[i : i + 16] for i in range(0, len(data), 16)]
    for portion in portions:
        work(portion)
    barrier.wait()
    started, busy, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        portion = portions[(done // 16) % len(portions)]
        work(portion)
        done += len(portion)
    return done / (time.perf_counter() - started), (time.process_time() - busy) / done * 1000


def made_up() -> list[bytes]:
    """JPEGs of smooth patches: noise would be full of edges that no photo has."""
    rng = np.random.default_rng(0)
    patches = [rng.integers(0, 256, (12, 16, 3), dtype=np.uint8) for _ in range(16)]
    return [encode_jpeg(np.kron(p, np.ones((40, 40, 1), np.uint8))) for p in patches]


def first_jpegs(tar: str, count: int) -> list[bytes]:
    """The first JPEGs of a tar, by name."""
    with tarfile.open(tar) as archive:
        names = [name for name in archive.getnames() if name.endswith(".jpg")][:count]
        return [archive.extractfile(name).read() for name in names]  # type: ignore[union-attr]


def milliseconds(work: Callable[[], None], count: int, seconds: float) -> float:
    """Best mean of three spells, per picture."""
    work()
    spells = []
    for _ in range(3):
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < seconds / 3:
            work()
            rounds += 1
        spells.append((time.perf_counter() - started) / rounds / count * 1000)
    return min(spells)


if __name__ == "__main__":
    main()
