"""How fast is curation? The whole pipeline beside its bare networks, two workers beside one, memory, and deciding anew.

    python benchmarks/curate.py ceiling PHOTOS     # images/s of `run` ÷ images/s of its networks in a loop
    python benchmarks/curate.py memory PHOTOS      # peak memory at 1,000 and at 20,000 images
    python benchmarks/curate.py decide             # a recipe over a synthetic manifest of 5 million rows

PHOTOS is any source. Ratios come from one run on one machine; absolute figures are the machine's.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.recipe import load_recipe
from curation.run import Workplace, cores, curate

RECIPE = "humans300m"
NEEDS = frozenset({"people", "text", "watermark", "style"})


def decoded(source: str, number: int) -> list[np.ndarray]:
    """`number` photos, evenly spread over a source, at working size."""
    from curation.decode import decode
    from curation.sources import list_source, read_bytes

    entries = list(list_source(source).entries)
    some = [entries[i * len(entries) // number] for i in range(number)] if len(entries) > number else entries
    pictures = []
    for e in some:
        with suppress(OSError, ValueError):  # a failed row of the pipeline
            pictures.append(decode(read_bytes(e.uri, e.member_offset, e.bytes if e.member else -1)).rgb)
    return pictures


def bare_networks(source: str, seconds: float, start) -> float:
    """Images/s of the recipe's networks over decoded photos, one thread, nothing else."""
    from curation.builtin import Builtin

    images = decoded(source, 128)
    builtin = Builtin(threads=1)
    for first in range(0, len(images), 16):  # every shape is compiled before the clock starts
        builtin.features(images[first : first + 16], needs=NEEDS)
    start.wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        batch = [images[(done + i) % len(images)] for i in range(16)]
        features = builtin.features(batch, needs=NEEDS)
        for answer in (builtin.people, builtin.text, builtin.watermark, builtin.style):
            answer(features)
        done += len(batch)
    return done / (time.perf_counter() - began)


def ceiling(source: str, seconds: float) -> dict[str, float]:
    """The pipeline's rate over the networks' own, and how it grows from one worker to all cores."""
    with get_context("spawn").Manager() as manager, get_context("spawn").Pool(cores()) as pool:
        barrier = manager.Barrier(cores())
        bare = sum(pool.starmap(bare_networks, [(source, seconds, barrier)] * cores()))
    rates = {}
    for workers in (1, cores()):
        out = tempfile.mkdtemp()
        curate(source, out, RECIPE, place=Workplace(workers))
        stages = json.loads((Path(out) / "run.json").read_text())["stages"]
        rates[workers] = stages["score"]["images_per_s"]
        shutil.rmtree(out)
    return {
        "bare networks, all cores, images/s": bare,
        "pipeline, all cores, images/s": rates[cores()],
        "pipeline / bare networks": rates[cores()] / bare,
        "all cores / one worker": rates[cores()] / rates[1],
    }


def peak_memory(source: str, images: int, plain: bool) -> dict[str, float]:
    """Peak resident memory of the driver and of the largest worker, MiB, over `images` inputs (photos repeated)."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "photos.txt"
        table.write_text("\n".join(_repeated(source, images, Path(folder) / "photos")))
        command = [sys.executable, __file__, "child", str(table), f"{folder}/out", str(int(plain))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def child(source: str, out: str, plain: bool) -> None:
    """One run whose peak memory is watched from inside its driver."""
    import psutil

    largest, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    largest[0] = max(largest[0], process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    threading.Thread(target=watch, daemon=True).start()
    settings = [
        "scorers=[quality, fingerprint]",
        *(f"rules.{r}=off" for r in ("watermark", "text", "art", "unnatural", "person")),
    ]
    curate(source, out, load_recipe(RECIPE, settings if plain else []), place=Workplace())
    stop.set()
    print(json.dumps({"driver MiB": _peak(), "largest worker MiB": largest[0] / 2**20}))


def decide(rows: int) -> dict[str, float]:
    """Seconds and peak memory of `decide --dry-run` and of `decide` over a synthetic run of `rows` inputs."""
    folder = tempfile.mkdtemp()
    try:
        synthetic_run(folder, rows)
        results: dict[str, float] = {"rows": rows}
        for stage in ("dry-run", "write"):
            done = subprocess.run(
                [sys.executable, __file__, "child", stage, folder], stdout=subprocess.PIPE, text=True, check=True
            )
            results |= json.loads(done.stdout.splitlines()[-1])
        return results
    finally:
        shutil.rmtree(folder)


def decide_child(stage: str, folder: str) -> None:
    """One decision in a process of its own, so that its peak memory is its own."""
    from curation.deciding import resolve, write_manifest
    from curation.plan import read_plan
    from curation.run import redecide
    from manifests.store import Store

    recipe = load_recipe(RECIPE, ["people.min_score=0.8", "rules.watermark=pwatermark < 0.6", "duplicates=near"])
    before, began = _peak(), time.perf_counter()
    if stage == "dry-run":
        _, flips = redecide(folder, recipe)
        found = {"gained": flips.gained, "lost": flips.lost}
    else:
        store = Store(folder)
        plan = read_plan(store)
        found = {"kept": write_manifest(store, plan, recipe, resolve(store, plan, recipe), {}).kept}
    seconds = time.perf_counter() - began
    results = {"s": seconds, **found, "memory before, MiB": before, "peak memory, MiB": _peak()}
    print(json.dumps({f"{stage}: {name}": value for name, value in results.items()}))


def _peak() -> float:
    """Peak resident memory of this process, MiB. (getrusage would count the parent's, from before exec.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def synthetic_run(folder: str, rows: int) -> None:
    """A scored and decided folder with random answers, in the files that a run of that size writes."""
    from curation.deciding import resolve, write_manifest
    from curation.layout import scores_file
    from curation.plan import PLAN_FILE, read_plan, unit_size
    from curation.record import Record
    from manifests.schema import PLAN, scores_schema
    from manifests.store import Store

    store, recipe, size = Store(folder), load_recipe(RECIPE), unit_size(rows)
    names = pa.array([f"/photos/{row:09d}.jpg" for row in range(rows)])
    zeros = np.zeros(rows, np.int64)
    plan = pa.table(
        {
            "uri": names,
            "member": pa.repeat("", rows),
            "member_offset": zeros,
            "bytes": zeros,
            "version": pa.repeat("", rows),
            "caption": pa.repeat("", rows),
            "plan_error": pa.repeat("", rows),
            "unit": (np.arange(rows) // size).astype(np.int32),
        },
        schema=PLAN,
    )
    store.write_table(PLAN_FILE, plan, row_group_size=size)
    frozen = read_plan(store)
    schema = scores_schema([])

    def write(unit: int) -> None:
        rng = np.random.default_rng(unit)
        start, stop = frozen.start(unit), frozen.start(unit + 1)
        store.write_table(scores_file(unit), pa.table(_random_scores(rng, names[start:stop]), schema=schema))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(frozen.units)))
    models = {name: f"{name}@0" for name in recipe.scorers}
    counts = write_manifest(store, frozen, recipe, resolve(store, frozen, recipe), models)
    Record("/photos", frozen.hash, rows, recipe, models=models, counts=counts, decided="synthetic").save(store)


def _random_scores(rng: np.random.Generator, names: pa.Array) -> dict[str, pa.Array]:
    from manifests.schema import BOX, BOXES

    number = len(names)
    hashes = rng.integers(0, 1 << 63, (number, 4), dtype=np.uint64)
    sha = pa.array([row.tobytes().hex() for row in hashes])
    people = rng.integers(0, 6, number)
    corner = rng.random((people.sum(), 4), np.float32) * 600
    boxes = pa.StructArray.from_arrays(
        [
            *(pa.array(corner[:, i] + (600 if i > 1 else 0)) for i in range(4)),
            pa.array(rng.beta(4, 1, people.sum()).astype(np.float32)),
        ],
        fields=list(BOX),
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(people)]).astype(np.int32))
    side = pa.array(np.full(number, 1200, np.int32))
    sides = {name: side for name in ("width", "height", "original_width", "original_height")}
    chances = ("pwatermark", "text_area", "text_area_outside", "partistic", "punnatural", "exposure", "blur")
    return {
        "uri": names,
        "member": pa.repeat("", number),
        "caption": pa.repeat("", number),
        "status": pa.repeat("success", number),
        "error_message": pa.repeat("", number),
        **sides,
        "exif_orientation": pa.array(np.ones(number, np.int8)),
        "format": pa.repeat("JPEG", number),
        "sha256": sha,
        "uid": pa.array([text[:32] for text in sha.to_pylist()]),
        "phash": pa.array(hashes[:, 0]),
        **{name: pa.array((rng.random(number) ** 4).astype(np.float32)) for name in chances},
        "text_boxes": pa.nulls(number, BOXES),
        "punsafe": pa.nulls(number, pa.float32()),
        "person_boxes": pa.ListArray.from_arrays(offsets, boxes, type=BOXES),
        "not_asked": pa.array([[]] * number, pa.list_(pa.string())),
    }


def _repeated(source: str, images: int, folder: Path) -> list[str]:
    """Paths of `images` photos: the source's own, written out once and named again and again."""
    from curation.sources import list_source, read_bytes

    folder.mkdir()
    paths = []
    for number, entry in enumerate(list_source(source).entries):
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(read_bytes(entry.uri, entry.member_offset, entry.bytes if entry.member else -1))
        paths.append(str(path))
        if len(paths) == images:
            break
    return [paths[i % len(paths)] for i in range(images)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ceiling", "memory", "decide", "child"])
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 20_000])
    parser.add_argument("--plain", action="store_true", help="memory: without the networks, to finish in minutes")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.what == "child":
        first, *rest = options.arguments
        decide_child(first, rest[0]) if first in {"dry-run", "write"} else child(first, rest[0], rest[1] == "1")
        return
    if options.what == "ceiling":
        results = ceiling(options.arguments[0], options.seconds)
    elif options.what == "memory":
        results = {
            f"{name} at {size} images": value
            for size in options.sizes
            for name, value in peak_memory(options.arguments[0], size, options.plain).items()
        }
    else:
        results = decide(options.rows)
    for name, value in results.items():
        print(f"{name:<45}{value:>14,.2f}")


if __name__ == "__main__":
    main()
