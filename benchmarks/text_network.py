"""The text network of the profile `full` in each library and precision that this CPU has: seconds, memory, agreement.

    python benchmarks/text_network.py PHOTOS [--count 16]

PHOTOS is a folder of JPEGs, of which `--count` are taken, evenly spread, at the sizes that EasyOCR reads them at (the
longer side at most 768 px). The weights are random, made here. One thread, each line in a process of its own: seconds
per photo in a second pass, memory at its highest, Python and torch included, and how far the maps are from eager fp32
torch's. `sapiens-curate` takes ncnn on x86-64 without matrix units, OpenVINO elsewhere.
"""

import argparse
import os
import resource
import tempfile
import time
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from curation import winograd
from curation.decode import decode
from curation.engines import Precision
from curation.full.craft import TextDetector, canvas, load_craft

WAYS: list[tuple[str, Precision]] = [("torch", "fp32")]
WAYS += [(library, precision) for library in ("OpenVINO", "ncnn") for precision in ("fp32", "auto")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of JPEGs")
    parser.add_argument("--count", type=int, default=16)
    args = parser.parse_args()
    found = sorted(args.photos.rglob("*.jpg"))
    if not found or args.count < 1:
        parser.error(f"{len(found)} *.jpg in {args.photos}, --count {args.count}: at least 1 of each is needed")
    count = min(args.count, len(found))
    files = [found[i * len(found) // count] for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAPIENS_CACHE"] = f"{folder}/cache"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # or a GPU would answer
        make_weights(Path(folder))
        print(f"{count} photos, load {os.getloadavg()[0]:.1f}")
        print(f"{'':<18}{'s a photo':>12}{'MB':>8}{'largest difference':>20}{'mean':>10}", flush=True)
        for library, precision in WAYS:
            if library == "ncnn" and not (find_spec("ncnn") and find_spec("pnnx")):
                continue
            with get_context("spawn").Pool(1) as pool:
                seconds, memory, largest, mean = pool.apply(measure, (library, precision, folder, files))
            name = f"{library} {precision}"
            print(f"{name:<18}{seconds:>12.3f}{memory:>8.0f}{largest:>20.6f}{mean:>10.6f}", flush=True)


def make_weights(folder: Path) -> None:
    from curation.full.torchvision_ops import make_importable

    make_importable()
    from easyocr.craft import CRAFT

    torch.manual_seed(0)
    torch.save(CRAFT().state_dict(), folder / "craft_mlt_25k.pth")


def measure(library: str, precision: Precision, folder: str, files: list[Path]) -> tuple[float, float, float, float]:
    """Seconds per photo, megabytes, and the largest and the mean difference; torch's maps are kept in `folder`."""
    torch.set_num_threads(1)
    weights, reference = Path(folder) / "craft_mlt_25k.pth", Path(folder) / "maps.npz"
    pictures = [canvas(decode(file.read_bytes()).rgb)[0] for file in files]
    detector = TextDetector(weights, precision=precision)
    if library == "torch":
        craft, pixels = load_craft(weights), detector._runner.network.pixels({})
        mean, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (pixels.mean, pixels.scale))

        def ask(picture: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                x = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
                return craft((x - mean) / scale)[0][0].numpy()
    else:
        winograd.is_quicker_here = lambda: library == "ncnn"
        assert detector._runner._source.library.name == library

        def ask(picture: np.ndarray) -> np.ndarray:
            return detector._runner([picture])[0][0]

    for picture in pictures:
        ask(picture)
    began = time.perf_counter()
    maps = [ask(picture) for picture in pictures]
    seconds = (time.perf_counter() - began) / len(pictures)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if library == "torch":
        np.savez(reference, *maps)
    with np.load(reference) as wanted:
        differences = np.concatenate([np.abs(a - wanted[n]).ravel() for a, n in zip(maps, wanted.files, strict=True)])
    return seconds, memory, float(differences.max()), float(differences.mean())


if __name__ == "__main__":
    main()
