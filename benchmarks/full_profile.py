"""The profile `full` beside a plain script that calls the same networks one image at a time, as their READMEs show.

    python benchmarks/full_profile.py PHOTOS [--plain 6] [--count 240]
    python benchmarks/full_profile.py PHOTOS --start     # seconds to start, to the first image and for each one after

PHOTOS is a folder. The weights are random, made here, the same for all three: a plain script (ultralytics `predict`,
EasyOCR `Reader.detect` at 768 px, open_clip `encode_image`), the bare engines in a loop over prepared pictures, and
`sapiens-curate` from files to scores on one worker per core. Ratios are of one run on one machine.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from curation.recipe import Recipe, from_dict
from curation.run import Workplace, cores, curate

SECONDS = 12.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of JPEGs")
    parser.add_argument("--plain", type=int, default=6, help="photos for the plain script, which is slow")
    parser.add_argument("--count", type=int, default=240, help="photos for the pipeline")
    parser.add_argument("--cache", type=Path, help="reuse this folder instead of starting cold")
    parser.add_argument("--start", action="store_true", help="start-up before and after the caches are filled instead")
    parser.add_argument("--cost", action="store_true", help="core-seconds per image instead: for a busy machine")
    args = parser.parse_args()
    files = sorted(args.photos.rglob("*.jpg"))[: args.count]
    with tempfile.TemporaryDirectory() as folder:
        if args.cost:
            os.environ["SAPIENS_CACHE"] = str(args.cache or Path(folder) / "cache")
            print(json.dumps(core_seconds(make_weights(Path(folder)), files[:24], args.plain), indent=2))
            return
        os.environ["SAPIENS_CACHE"] = str(args.cache or Path(folder) / "cache")
        weights = make_weights(Path(folder))
        if args.start:
            print_starts(weights, files)
            return
        source = copied(files, Path(folder) / "photos")
        cold = first_image(weights, files[0])
        warm = first_image(weights, files[0])
        curate(str(source), f"{folder}/warm", recipe(weights), place=Workplace(cores()))
        pipeline = rate_of_pipeline(str(source), f"{folder}/out", weights)
        bare = rate_of_engines(weights, files)
        plain = rate_of_plain_script(weights, files[: args.plain])
    figures = {
        "photos": len(files),
        "cores": cores(),
        "plain script, images/s": plain,
        "sapiens-curate, images/s": pipeline,
        "bare engines, images/s": bare,
        "sapiens-curate / plain script": pipeline / plain,
        "sapiens-curate / bare engines": pipeline / bare,
        "start to first scores, empty cache, s": cold,
        "start to first scores, warm cache, s": warm,
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=2))


def make_weights(folder: Path) -> dict[str, str]:
    """Random initial weights in the files that the three libraries use."""
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


def copied(files: list[Path], folder: Path) -> Path:
    """A folder of these files alone."""
    folder.mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, folder / f"{number:04d}.jpg")
    return folder


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


def rate_of_pipeline(source: str, out: str, weights: dict[str, str]) -> float:
    """Images/s of the stage `score`, networks loaded from a warm cache included."""
    curate(source, out, recipe(weights), place=Workplace(cores()))
    return float(json.loads((Path(out) / "run.json").read_text())["stages"]["score"]["images_per_s"])


def rate_of_engines(weights: dict[str, str], files: list[Path]) -> float:
    """Images/s of the three networks alone, one process per core, over pictures that are prepared beforehand."""
    with get_context("spawn").Manager() as manager, get_context("spawn").Pool(cores()) as pool:
        barrier = manager.Barrier(cores())
        return sum(pool.starmap(engines_loop, [(weights, files[:16], barrier)] * cores()))


def engines_loop(weights: dict[str, str], files: list[Path], start: Any) -> float:
    """One process's share of `rate_of_engines`."""
    loads = prepared(weights, files)
    for runner, pictures in loads:
        runner(pictures)
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


def core_seconds(weights: dict[str, str], files: list[Path], plain: int) -> dict[str, float]:
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
    costs["plain script"] = _cost(lambda: [ask(file) for file in files[:plain]], plain)
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
    """Images/s of the libraries' own calls, one image after another, torch using every core."""
    torch.set_num_threads(cores())
    ask = plain_script(weights)
    ask(files[0])
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

    class DetectorOnly(Reader):
        """`Reader(["en"])` with local detector weights and without the recogniser, which nobody here calls."""

        def __init__(self) -> None:
            self.detector = get_detector(weights["text"])
            self.get_textbox, self.device = get_textbox, "cpu"

    yolo, reader = YOLO(weights["people"]), DetectorOnly()
    model, file = weights["clip"].split("/", 1)
    clip, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=f"/{file.lstrip('/')}")
    clip.eval()
    tokenizer = open_clip.get_tokenizer(model)
    with torch.no_grad():
        text = [clip.encode_text(tokenizer([*c.yes, *c.no]), normalize=True) for c in CONCEPTS.values()]

    def ask(file: Path) -> None:
        yolo.predict(file, classes=[0], conf=0.05, device="cpu", verbose=False)
        reader.detect(np.asarray(Image.open(file).convert("RGB")), canvas_size=768)
        with torch.no_grad():
            image = clip.encode_image(preprocess(Image.open(file)).unsqueeze(0), normalize=True)
            for phrases in text:
                (100 * image @ phrases.T).softmax(-1)

    return ask


def first_image(weights: dict[str, str], file: Path) -> float:
    """Seconds from the start of a Python process to one image's scores."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, __file__, "first-image", json.dumps(weights), str(file)], check=True, capture_output=True
    )
    return time.perf_counter() - began


def print_starts(weights: dict[str, str], files: list[Path]) -> None:
    """A table of one worker's start on these photos: nothing cached, then everything."""
    print(f"{'seconds':<14}{'imports':>10}{'first image':>14}{'all others, each':>19}{'again, each':>14}")
    for name in ("empty caches", "full caches"):
        command = [sys.executable, __file__, "start", json.dumps(weights), *map(str, files)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        imports, first, others, again = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:<14}{imports:>10.2f}{first:>14.2f}{others:>19.3f}{again:>14.3f}")


def start(weights: dict[str, str], files: list[Path]) -> None:
    """One worker's start: seconds of imports, to the first image's scores, and per image of the rest, twice.

    The first pass over the rest compiles CRAFT and the detector for every size it meets, or reads that from the cache.
    """
    import psutil

    from curation.batch import Batch
    from curation.decode import decode
    from curation.scorers import make_scorers

    scorers = make_scorers(recipe(weights), threads=cores())
    imports = time.time() - psutil.Process().create_time()

    def ask(some: list[Path]) -> float:
        since = time.perf_counter()
        for first in range(0, len(some), 16):
            batch = Batch([], [decode(file.read_bytes()) for file in some[first : first + 16]])
            for scorer in scorers:
                batch.scored.update(scorer.score(batch))
        return (time.perf_counter() - since) / len(some)

    print(json.dumps([imports, ask(files[:1]), ask(files[1:]), ask(files[1:])]))


def score_one(weights: dict[str, str], file: Path) -> None:
    """Score one image in this process."""
    from curation.batch import Batch
    from curation.decode import decode
    from curation.scorers import make_scorers

    batch = Batch([file.read_bytes()], [decode(file.read_bytes())])
    for scorer in make_scorers(recipe(weights), threads=cores()):
        batch.scored.update(scorer.score(batch))


if __name__ == "__main__":
    if sys.argv[1:2] == ["first-image"]:
        score_one(json.loads(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["start"]:
        start(json.loads(sys.argv[2]), [Path(file) for file in sys.argv[3:]])
    else:
        main()
