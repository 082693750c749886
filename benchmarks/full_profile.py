"""The profile `full` beside a plain script that calls the same networks one image at a time, as their READMEs show.

    python benchmarks/full_profile.py PHOTOS [--different 32] [--count 256] [--workers 2]
    python benchmarks/full_profile.py PHOTOS --cost      # core-seconds per image instead: for a busy machine

PHOTOS is a folder of JPEGs, of which `--different` are taken, evenly spread. The plain script sees each of them once,
the others see them over and over, `sapiens-curate` until there are `--count`. The weights are random, made here, the
same for all three: a plain script (ultralytics `predict`, EasyOCR `Reader.detect` at 768 px, open_clip `encode_image`),
the bare engines in a loop over prepared pictures, and `sapiens-curate` from files to scores, with as many workers as it
chooses. With a CUDA device all three run on that; hide it (`CUDA_VISIBLE_DEVICES=`) to measure the CPU. For two cores
of a larger machine start it under `taskset`. Ratios are of one run on one machine. benchmarks/full_start.py takes the
start-up apart.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from curation.recipe import Recipe, from_dict
from curation.run import Workplace, cores, curate

CUDA = torch.cuda.is_available()
SECONDS = 6.0 if CUDA else 12.0  # of a measurement; GPUs are paid by the minute
PORTION = 64  # photos that each process of the bare engines has, evenly spread over all: sizes differ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of JPEGs")
    parser.add_argument("--different", type=int, default=32, help="photos; the plain script takes seconds for each")
    parser.add_argument("--count", type=int, default=256, help="photos for the pipeline: these over and over")
    parser.add_argument("--workers", type=int, help="processes of the pipeline instead of its own choice")
    parser.add_argument("--cost", action="store_true", help="core-seconds per image instead: for a busy machine")
    args = parser.parse_args()
    found, load = sorted(args.photos.rglob("*.jpg")), os.getloadavg()[0]
    if not found or args.different < 1:
        parser.error(f"{len(found)} *.jpg in {args.photos}, --different {args.different}: at least 1 of each is needed")
    files = spread(found, min(args.different, len(found)))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAPIENS_CACHE"] = f"{folder}/cache"
        weights = make_weights(Path(folder))
        if args.cost:
            print(json.dumps(core_seconds(weights, files), indent=2))
            return
        place = Workplace(args.workers)
        few = linked(files, min(len(files), 48), Path(folder) / "few")
        many = linked(files, args.count, Path(folder) / "many")
        say("photos", args.count)
        say("different photos", len(files))
        say("cores", cores())
        say("load average before", load)
        say("JPEGs/s, decoding alone on all cores", rate_of_decoding(files))
        plain = rate_of_plain_script(weights, files)
        say("images/s, plain script", plain)
        first = run_of_pipeline(few, f"{folder}/first", weights, place)
        say("s to the first unit's scores, empty caches", first.first)
        run = run_of_pipeline(many, f"{folder}/out", weights, place)
        say("s to the first unit's scores, full caches", run.first)
        say("images/s, sapiens-curate", run.rate)
        say("images/s, sapiens-curate after start-up", run.rate_later)
        say("sapiens-curate / plain script", run.rate / plain)
        say("sapiens-curate after start-up / plain script", run.rate_later / plain)
        bare = rate_of_engines(weights, files)
        say("images/s, bare engines", bare)
        say("sapiens-curate / bare engines", run.rate / bare)
        say("sapiens-curate after start-up / bare engines", run.rate_later / bare)


def spread(files: list[Path], count: int) -> list[Path]:
    """`count` files, evenly over all: sizes differ."""
    return [files[i * len(files) // count] for i in range(count)]


def say(name: str, value: float) -> None:
    """Each figure as soon as it is known."""
    print(f"{name}: {value:.3f}", flush=True)


def make_weights(folder: Path) -> dict[str, str]:
    """Random initial weights in the files that the three libraries use."""
    import curation.full.detector  # noqa: F401 - first, for it keeps ultralytics from installing packages
    from curation.full.torchvision_ops import make_importable

    make_importable()
    import open_clip
    from easyocr.craft import CRAFT
    from safetensors.torch import save_file
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel("yolo11n.yaml", verbose=False)
    model.names[0] = "person"
    torch.save({"model": model, "train_args": {}}, folder / "yolo11n-random.pt")
    torch.save(CRAFT().state_dict(), folder / "craft_mlt_25k.pth")
    clip = open_clip.create_model("ViT-B-32")
    save_file(clip.state_dict(), folder / "clip.safetensors")
    return {
        "people": str(folder / "yolo11n-random.pt"),
        "text": str(folder / "craft_mlt_25k.pth"),
        "clip": f"ViT-B-32/{folder / 'clip.safetensors'}",
    }


def linked(files: list[Path], count: int, folder: Path) -> str:
    """A folder of `count` files, these over and over."""
    folder.mkdir()
    originals = [folder.with_name(f"{number}.jpg") for number in range(len(files))]
    for file, original in zip(files, originals, strict=True):
        original.write_bytes(file.read_bytes())
    for number, original in enumerate(islice(cycle(originals), count)):
        os.link(original, folder / f"{number:06d}.jpg")
    return str(folder)


def recipe(weights: dict[str, str]) -> Recipe:
    """Every question that the profile `full` answers with its own networks."""
    return from_dict(
        {
            "name": "benchmark",
            "profile": "full",
            "scorers": ["people", "text", "watermark", "style"],
            "weights": weights,
            "rules": {"size": "width > 0"},
        },
        "benchmark",
    )


@dataclass(frozen=True)
class Run:
    """Images/s of the stage `score`, the loading of networks included; the same from when each worker has committed its
    first unit; and seconds from the call to the first unit's commit."""

    rate: float
    rate_later: float
    first: float


def run_of_pipeline(source: str, out: str, weights: dict[str, str], place: Workplace) -> Run:
    """One curated folder."""
    began = time.time()
    curate(source, out, recipe(weights), place=place)
    suited = place.suited_to(recipe(weights))
    at_a_time = max(1, suited.processes) * suited.abreast
    stats = Path(out).glob("scores/*_stats.json")
    commits = sorted((file.stat().st_mtime, json.loads(file.read_text())["count"]) for file in stats)
    later = commits[at_a_time:]
    return Run(
        json.loads((Path(out) / "run.json").read_text())["stages"]["score"]["images_per_s"],
        sum(n for _, n in later) / (later[-1][0] - commits[at_a_time - 1][0]) if later else float("nan"),
        commits[0][0] - began,
    )


def rate_of_engines(weights: dict[str, str], files: list[Path]) -> float:
    """Images/s of the three networks alone, one process per core or GPU, over pictures that are prepared beforehand:
    its share of all, or all where they are fewer than processes."""
    processes = torch.cuda.device_count() if CUDA else cores()
    with get_context("spawn").Manager() as manager, get_context("spawn").Pool(processes) as pool:
        barrier = manager.Barrier(processes)
        some = spread(files, min(len(files), PORTION * processes))
        return sum(
            pool.starmap(
                engines_loop,
                [(weights, some[number::processes] or some, barrier, number) for number in range(processes)],
                1,
            )
        )


def engines_loop(weights: dict[str, str], files: list[Path], start: Any, number: int) -> float:
    """One process's share of `rate_of_engines`."""
    os.environ["SAPIENS_GPU"] = str(number)  # as curation.worker tells a worker
    loads = prepared(weights, files)
    for runner, pictures in loads * (3 if CUDA else 1):  # the first calls load kernels and fetch memory
        runner(pictures if CUDA else pictures[:4])
    start.wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        for runner, pictures in loads:
            runner(pictures)
        done += len(files)
    return done / (time.perf_counter() - began)


def prepared(weights: dict[str, str], files: list[Path]) -> list[tuple[Any, list[Any]]]:
    """Each network on one thread, and the pictures cut for it."""
    from curation.decode import decode
    from curation.full import clip, craft, detector
    from curation.full.networks import FullNetworks

    networks = FullNetworks(recipe(weights), threads=1)
    images = [decode(file.read_bytes()).rgb for file in files]
    facts = networks.clip._runner.facts
    cut = [clip.fit(i, facts["size"], facts["resize_mode"], facts["interpolation"]) for i in images]
    return [
        (networks.detector._runner, [detector.letterbox(image) for image in images]),
        (networks.text._runner, [craft.canvas(image)[0] for image in images]),
        (networks.clip._runner, cut),
    ]


def rate_of_decoding(files: list[Path]) -> float:
    """JPEGs/s from bytes to working pictures, one process per core: what no pipeline on these cores can exceed."""
    with get_context("spawn").Manager() as manager, get_context("spawn").Pool(cores()) as pool:
        barrier = manager.Barrier(cores())
        return sum(pool.starmap(decode_loop, [([file.read_bytes() for file in files], barrier)] * cores()))


def decode_loop(data: list[bytes], start: Any) -> float:
    """One process's share of `rate_of_decoding`."""
    from curation.decode import decode

    decode(data[0])
    start.wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS / 6:
        decode(data[done % len(data)])
        done += 1
    return done / (time.perf_counter() - began)


def core_seconds(weights: dict[str, str], files: list[Path]) -> dict[str, float]:
    """Core-seconds per image of each, networks loaded: what rates of an idle machine come down to."""
    from curation.batch import Batch
    from curation.decode import decode
    from curation.scorers import make_scorers

    scorers = make_scorers(recipe(weights), threads=1)

    def curated() -> None:
        batch = Batch([], [decode(file.read_bytes()) for file in files])
        for scorer in scorers:
            batch.scored.update(scorer.score(batch))

    loads = prepared(weights, files)
    ask = plain_script(weights)
    costs = {
        "sapiens-curate": _cost(curated, len(files)),
        "bare engines": _cost(lambda: [runner(pictures) for runner, pictures in loads], len(files)),
    }
    torch.set_num_threads(cores())
    costs["plain script"] = _cost(lambda: [ask(file) for file in files], len(files))
    ratios = {
        f"{name} / sapiens-curate": costs[name] / costs["sapiens-curate"] for name in ("plain script", "bare engines")
    }
    return {name: round(value, 3) for name, value in (costs | ratios).items()}


def _cost(work: Callable[[], object], images: int) -> float:
    work()
    began = time.process_time()
    work()
    return (time.process_time() - began) / images


def rate_of_plain_script(weights: dict[str, str], files: list[Path]) -> float:
    """Images/s of the libraries' own calls, one image after another, networks loaded, torch using every core."""
    torch.set_num_threads(cores())
    ask = plain_script(weights)
    for file in files[:3]:
        ask(file)
    began = time.perf_counter()
    for file in files:
        ask(file)
    return len(files) / (time.perf_counter() - began)


def plain_script(weights: dict[str, str]) -> Callable[[Path], None]:
    """What one writes first: predict, detect, encode_image."""
    import open_clip
    from easyocr.detection import get_detector, get_textbox
    from easyocr.easyocr import Reader
    from ultralytics import YOLO

    from curation.full.concepts import CONCEPTS

    device = "cuda" if CUDA else "cpu"

    class DetectorOnly(Reader):
        """`Reader(["en"])` with local detector weights and without the recogniser, which nobody here calls."""

        def __init__(self) -> None:
            self.detector = get_detector(weights["text"], device)
            self.get_textbox, self.device = get_textbox, device

    yolo, reader = YOLO(weights["people"]), DetectorOnly()
    model, file = weights["clip"].split("/", 1)
    clip, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=f"/{file.lstrip('/')}", device=device)
    clip.eval()
    tokenizer = open_clip.get_tokenizer(model)
    with torch.no_grad(), torch.autocast(device, enabled=CUDA):
        phrases = [tokenizer([*c.yes, *c.no]).to(device) for c in CONCEPTS.values()]
        text = [clip.encode_text(some, normalize=True) for some in phrases]

    def ask(file: Path) -> None:
        yolo.predict(file, classes=[0], conf=0.05, device=device, verbose=False)
        reader.detect(np.asarray(Image.open(file).convert("RGB")), canvas_size=768)
        with torch.no_grad(), torch.autocast(device, enabled=CUDA):
            image = clip.encode_image(preprocess(Image.open(file)).unsqueeze(0).to(device), normalize=True)
            for phrases in text:
                (100 * image @ phrases.T).softmax(-1).tolist()

    return ask


if __name__ == "__main__":
    main()
