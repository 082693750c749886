"""Images/s of the four tasks in one pass ÷ four separate passes, and how far operations alone would take it.

    python benchmarks/predict.py                                  # tiny, 256 x 192, on what hardware there is
    python benchmarks/predict.py --precision bf16
    python benchmarks/predict.py --model 0.3b --images 4 --rounds 3
    python benchmarks/predict.py --operations                     # counts only, all sizes, nothing is run

One pass: a photo is decoded once, every person is one view, and the encoder that the four models share runs once. Four
passes: the same code with one model at a time, as four programs would do it (decoding included, boxes given, nothing
written). Weights are random; photos are JPEGs of 1280 x 960 with two boxes each. Then the networks alone, from one
batch of views to their outputs. Rounds alternate between the two, so that whatever else the machine does hits both;
figures are medians. Before timing, both must give the same answers.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import simplejpeg
import torch
from torch.utils.flop_counter import FlopCounterMode

from shards.crop import Encoded
from training.labels.sets import ClassList, KeypointSet
from training.models.heads import Head
from training.models.task import TASKS, LoadedTask, TaskModel, channels_of
from training.models.zoo import FAMILY, PATCH, Architecture, build_encoder
from training.predict.compose import Prediction
from training.predict.inputs import Photo
from training.predict.models import Models, choose_device
from training.predict.people import Given
from training.predict.run import Answer, Predictor

LABELS = {
    "pose": {"format": 1, "task": "pose", "keypoints": KeypointSet.load("coco17").to_dict()},
    "parts": {"format": 1, "task": "parts", "classes": ClassList.load("sapiens28").to_dict()},
    "depth": {"format": 1, "task": "depth", "unit": "relative"},
    "normals": {"format": 1, "task": "normals", "axes": "x right, y up, z towards the camera"},
}
BOXES = np.array([[160, 60, 560, 940, 1], [640, 100, 1180, 900, 1]], np.float32)


def input_size(arch: Architecture) -> tuple[int, int]:
    return (256, 192) if arch.name == "tiny" else (1024, 768)


def make_tasks(arch: Architecture, device: torch.device) -> dict[str, LoadedTask]:
    """Four untrained models whose encoders are equal, drawn on the device."""
    size = input_size(arch)
    tasks = {}
    for number, task in enumerate(TASKS):
        with device:
            torch.manual_seed(0)
            encoder = build_encoder(arch, (size[0] // PATCH, size[1] // PATCH), cls_token=False)
            torch.manual_seed(number)
            model = TaskModel(encoder, Head(task, arch, channels_of(task, LABELS[task]))).eval()
        tasks[task] = LoadedTask(task, model, arch, size, LABELS[task], "the same", "")
    return tasks


def operations(arch: Architecture) -> tuple[float, float]:
    """10**12 operations (a multiply-add is 2) of the encoder and of the four decoders together, for one view."""
    rows, columns = input_size(arch)
    with torch.device("meta"):
        encoder = build_encoder(arch, (rows // PATCH, columns // PATCH), cls_token=False)
        heads = [Head(task, arch, channels_of(task, LABELS[task])) for task in TASKS]
        image = torch.empty(1, rows, columns, 3, dtype=torch.uint8)
        features = torch.empty(1, arch.width, rows // PATCH, columns // PATCH)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(image)
    encoding = counter.get_total_flops()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for head in heads:
            head(features)
    return encoding / 1e12, counter.get_total_flops() / 1e12


def write_photos(folder: Path, count: int) -> list[Photo]:
    generator = np.random.default_rng(0)
    photos = []
    for number in range(count):
        coarse = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        path = folder / f"{number}.jpg"
        path.write_bytes(simplejpeg.encode_jpeg(cv2.resize(coarse, (1280, 960), interpolation=cv2.INTER_CUBIC)))
        photos.append(Photo(str(number), str(path)))
    return photos


def answer(predictor: Predictor, photos: list[Photo]) -> list[Prediction]:
    """Decode and answer every photo, as `sapiens-train predict` does before it writes."""
    answers = predictor(photos, [Encoded(photo.read()).decode() for photo in photos])
    return [a.found for a in answers if isinstance(a, Answer)]


def check(together: list[Prediction], apart: dict[str, list[Prediction]], exact: bool) -> None:
    """Parts mask depth and normals only where they are asked in the same pass, so what both hold is compared."""
    tolerance = 1e-3 if exact else 0.1
    for number, one in enumerate(together):
        for a, b in zip(one.people, apart["pose"][number].people, strict=True):
            assert a.keypoints is not None
            assert b.keypoints is not None
            np.testing.assert_allclose(a.keypoints[:, 2], b.keypoints[:, 2], atol=tolerance)
            if exact:  # in bf16 the peaks of untrained heatmaps jump
                np.testing.assert_allclose(a.keypoints[:, :2], b.keypoints[:, :2], atol=0.5)
        same = one.parts == apart["parts"][number].parts
        assert np.mean(same) > (0.999 if exact else 0.8)
        known = (one.owner == apart["depth"][number].owner) & (one.owner > 0)  # type: ignore[operator]
        np.testing.assert_allclose(one.depth[known], apart["depth"][number].depth[known], atol=10 * tolerance)  # type: ignore[index]
        known = (one.owner == apart["normals"][number].owner) & (one.owner > 0)  # type: ignore[operator]
        ours, theirs = one.normals[known], apart["normals"][number].normals[known]  # type: ignore[index]
        assert np.mean((ours.astype(float) * theirs).sum(-1) > 0.99) > (0.999 if exact else 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=list(FAMILY))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4, help="people per pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--operations", action="store_true", help="count, do not run")
    given = parser.parse_args()

    if given.operations:
        print(f"{'model':>6} {'encoder':>9} {'4 heads':>9}   four passes / one pass")
        for arch in FAMILY.values():
            encoding, heads = operations(arch)
            ratio = (4 * encoding + heads) / (encoding + heads)
            print(f"{arch.name:>6} {encoding:>7.3f} T {heads:>7.3f} T   {ratio:.2f}")
        return

    device = choose_device(given.device)
    tasks = make_tasks(FAMILY[given.model], device)
    models = Models(tasks, device, given.precision)
    with TemporaryDirectory() as folder:
        photos = write_photos(Path(folder), given.images)
        people = Given({(str(Path(p.uri).resolve()), ""): BOXES for p in photos}, "")
        one = Predictor(models, people, given.batch)
        four = {t: Predictor(Models({t: tasks[t]}, device, given.precision), people, given.batch) for t in tasks}
        check(answer(one, photos[:2]), {t: answer(p, photos[:2]) for t, p in four.items()}, given.precision == "fp32")
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        print(f"sapiens-{given.model} on {name}, {given.precision}, {given.batch} people per pass:")
        in_turn(
            "images",
            given.images,
            given.rounds,
            lambda: answer(one, photos),
            [partial(answer, p, photos) for p in four.values()],
        )
    size = input_size(FAMILY[given.model])
    views = {size: np.random.default_rng(0).integers(0, 256, (given.batch, *size, 3), np.uint8)}
    in_turn(
        "views, networks alone",
        given.batch,
        given.rounds,
        lambda: models(views),
        [partial(p.models, views) for p in four.values()],
    )
    encoding, heads = operations(FAMILY[given.model])
    print(f"by operations alone {(4 * encoding + heads) / (encoding + heads):.2f}")


def in_turn(
    what: str, count: int, rounds: int, one: Callable[[], object], four: Sequence[Callable[[], object]]
) -> None:
    """Time the one pass and the four, in turn, and print how many of something a second each does."""
    whole: list[float] = []
    parts: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        one()
        middle = time.perf_counter()
        for function in four:
            function()
        whole.append(middle - start)
        parts.append(time.perf_counter() - middle)
    a, b = (count / statistics.median(seconds) for seconds in (whole, parts))
    ratios = [after / before for before, after in zip(whole, parts, strict=True)]
    print(
        f"{what}/s: one pass {a:.2f}, four passes {b:.2f}, ratio {statistics.median(ratios):.2f} "
        f"(rounds {min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
