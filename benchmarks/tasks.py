"""What fine-tuning learns: each task on rendered practice people against the trivial answer, and on real labels from
a pretrained encoder against a random one, with the same steps.

    python benchmarks/tasks.py practice WORK --init ENCODER
    python benchmarks/tasks.py real WORK --init ENCODER --data DATA      DATA: the folder that holds train/ and dev/
    python benchmarks/tasks.py table WORK

Every training and every evaluation is a `sapiens-train` command, printed as it runs; what is done already is not done
again. About an hour of one core.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from shards.labelled import open_labelled
from training.models.task import channels_of, label_set
from training.tasks import MODULES
from training.tasks.heatmaps import encode

TASKS = ("pose", "parts", "depth", "normals")


@dataclass(frozen=True)
class Run:
    """One training: steps of batch samples at a size (rows, columns), on augmented or on plain views."""

    steps: int
    augment: bool = False
    batch: int = 8
    size: tuple[int, int] = (192, 144)


RUNS = {
    ("practice", "pose"): Run(2000, batch=16, size=(128, 96)),
    ("practice", "parts"): Run(1000),
    ("practice", "depth"): Run(1800, batch=16, size=(128, 96)),
    ("practice", "normals"): Run(800),
    ("real", "pose"): Run(2000, batch=16, size=(128, 96)),
    ("real", "parts"): Run(1200, size=(128, 96)),
    ("real", "depth"): Run(200, size=(144, 192)),
    ("real", "normals"): Run(200, size=(144, 192)),
}
MAIN = {
    "pose": ("PCK@0.1", "AP"),
    "parts": ("mIoU", "mAcc"),
    "depth": ("AbsRel", "delta1"),
    "normals": ("mean", "within_30"),
}
REAL = {
    "pose": (["{data}/train/pose-sport-*.tar"], ["{data}/dev/pose-sport-*.tar"], ["--set", "lsp14"]),
    "parts": (
        ["{data}/train/parts-fashion-*.tar"],
        ["{data}/dev/parts-fashion-*.tar"],
        ["--set", "{data}/train/parts-fashion-classes.json"],
    ),
    "depth": (["{work}/kitchen/train.tar"], ["{work}/kitchen/held_out.tar"], ["--scale", "0.001"]),
    "normals": (["{work}/kitchen/train-normals.tar"], ["{work}/kitchen/held_out-normals.tar"], []),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("practice", "real", "table"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--init", default="", help="Pretrained tiny encoder.")
    parser.add_argument("--data", default="")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--longer", type=float, default=1.0, help="Times the steps.")
    parser.add_argument("--pictures", type=int, default=3000, help="Practice pictures to train on.")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.what == "practice":
        practice(options)
    elif options.what == "real":
        real(options)
    print(table(options.work))


def practice(options: argparse.Namespace) -> None:
    """Train on the people of one seed, measure on those of another, beside the trivial answer."""
    work = options.work
    for name, count, seed in (("train", options.pictures, 1), ("dev", 300, 2)):
        if not (work / f"practice-{name}" / "keypoints.json").exists():
            sapiens_train("practice", work / f"practice-{name}", "--count", count, "--seed", seed)
    for task in options.tasks:
        for name in ("train", "dev"):
            pack(task, [str(work / f"practice-{name}")], work / f"practice-{task}-{name}", [])
        data = {name: work / f"practice-{task}-{name}" for name in ("train", "dev")}
        trivial(task, RUNS["practice", task].size, data["train"], data["dev"], work / f"practice-{task}-trivial.json")
        fit(options, task, data, f"practice-{task}-pretrained", options.init)


def real(options: argparse.Namespace) -> None:
    """Train on real labels from a pretrained and from a random encoder, measure both on other pictures."""
    if {"depth", "normals"} & set(options.tasks):
        split_kitchen(Path(options.data) / "dev" / "depth-kitchen-000.tar", options.work / "kitchen")
    for task in options.tasks:
        train, dev, flags = REAL[task]
        data = {}
        for name, sources in (("train", train), ("dev", dev)):
            data[name] = options.work / f"real-{task}-{name}"
            found = [str(path) for source in sources for path in matching(filled(source, options))]
            pack(task, found, data[name], [filled(flag, options) for flag in flags])
        trivial(task, RUNS["real", task].size, data["train"], data["dev"], options.work / f"real-{task}-trivial.json")
        for start, init in (("pretrained", options.init), ("random", "")):
            fit(options, task, data, f"real-{task}-{start}", init)


def fit(options: argparse.Namespace, task: str, data: dict[str, Path], name: str, init: str) -> None:
    """Fine-tune and measure, unless it is measured already."""
    result = options.work / f"{name}.json"
    if result.exists():
        return
    run = options.work / name
    plan = RUNS[options.what, task]
    steps = round(plan.steps * options.longer)
    settings = ["--model", "tiny", "--size", "x".join(map(str, plan.size)), "--images", steps * plan.batch]
    settings += ["--batch", plan.batch, "--micro-batch", plan.batch, "--lr", options.lr]
    settings += ["--warmup-steps", steps // 10, "--augment" if plan.augment else "--no-augment"]
    settings += ["--workers", 0, "--save-every", 250, "--log-every", 50]
    sapiens_train("finetune", task, data["train"], run, *settings, *(["--init", init] if init else []))
    sapiens_train("eval", task, run, data["dev"], "--json", result, "--workers", 0)


def trivial(task: str, size: tuple[int, int], train: Path, dev: Path, result: Path) -> None:
    """Measure the answer that does not look at the picture: at each place of the view, the mean training label."""
    if result.exists():
        return
    shards = {name: open_labelled(str(path)) for name, path in (("train", train), ("dev", dev))}
    labels = label_set(task, shards["train"].labels)
    module, channels = MODULES[task], channels_of(task, shards["train"].labels)
    draw = module.Draw(size, labels, False)
    total, count = np.zeros((channels, *size)), np.zeros((1, *size)) + 1e-9
    points, seen = np.zeros((channels, 2)), np.zeros((channels, 1)) + 1e-9
    for sample in samples(shards["train"]):
        targets = draw(sample)[1]
        if task == "pose":
            points += targets["points"] * targets["visible"][:, None]
            seen += targets["visible"][:, None]
        elif task == "parts":
            total += np.arange(channels)[:, None, None] == targets["classes"]
            count += 1
        else:
            value = targets["depth"][None] if task == "depth" else targets["normals"].transpose(2, 0, 1)
            known = value >= 0 if task == "depth" else (value != 0).any(axis=0, keepdims=True)
            total += np.where(known, value, 0)
            count += known
    answer = (total / count).astype(np.float32)
    if task == "pose":
        import torch

        mean = torch.from_numpy((points / seen).astype(np.float32))[None]
        answer = encode(mean, torch.ones(1, channels), (size[0] // 4, size[1] // 4))[0][0].numpy()
    metric = module.Metric(labels)
    for sample in samples(shards["dev"]):
        metric.add(answer, draw.view(sample), sample)
    result.write_text(json.dumps({"n": metric.n, "values": metric.result()}, indent=1))


def samples(shards):
    for number, count in enumerate(shards.shards.counts):
        for row in range(count):
            yield shards.read(number, row)


def split_kitchen(source: Path, work: Path) -> None:
    """The depth pictures of one room as two tars each, the last two sevenths of the frames held out; and normals made
    from the depth by the pinhole model (intrinsics are with each picture), at half the size.
    """
    if work.exists():
        return
    work.mkdir()
    with tarfile.open(source) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    keys = sorted({name.split(".")[0] for name in files})
    held_out = set(keys[len(keys) * 5 // 7 :])
    for part in ("train", "held_out"):
        chosen = [key for key in keys if (key in held_out) == (part == "held_out")]
        with (
            tarfile.open(work / f"{part}.tar", "w") as depth,
            tarfile.open(work / f"{part}-normals.tar", "w") as normals,
        ):
            for key in chosen:
                record = json.loads(files[f"{key}.json"])
                for suffix in ("jpg", "json", "png"):
                    add(depth, f"{key}.{suffix}", files[f"{key}.{suffix}"])
                millimetres = cv2.imdecode(np.frombuffer(files[f"{key}.png"], np.uint8), cv2.IMREAD_UNCHANGED)
                buffer = io.BytesIO()
                np.save(buffer, normals_of(millimetres, *record["intrinsics"])[::2, ::2])
                photo = cv2.imdecode(np.frombuffer(files[f"{key}.jpg"], np.uint8), cv2.IMREAD_COLOR)
                half = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
                add(normals, f"{key}.jpg", cv2.imencode(".jpg", half)[1].tobytes())
                add(normals, f"{key}.normals.npy", buffer.getvalue())


def normals_of(millimetres: np.ndarray, fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """(H, W) uint16 depth → (H, W, 3) float32 normals: x right, y up, z towards the camera; NaN where unknown."""
    valid = (millimetres > 0) & (millimetres < 65535)
    z = np.where(valid, millimetres / 1000.0, np.nan).astype(np.float32)
    filled_in = np.where(valid, z, np.nanmedian(z)).astype(np.float32)
    smooth = cv2.bilateralFilter(filled_in, 9, 0.05, 5)
    rows, columns = np.indices(z.shape, dtype=np.float32)
    places = np.stack([(columns - cx) / fx * smooth, (rows - cy) / fy * smooth, smooth], axis=-1)
    across = cv2.blur(np.gradient(places, axis=1), (5, 5))
    down = cv2.blur(np.gradient(places, axis=0), (5, 5))
    normal = np.cross(down, across)  # towards the camera in x right, y down, z away
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
    normal *= np.array([1.0, -1.0, -1.0])
    near_unknown = cv2.dilate((~valid).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    jump = np.abs(cv2.Laplacian(smooth, cv2.CV_32F, ksize=5)) > 1.0
    normal[near_unknown | jump | ~np.isfinite(normal).all(axis=-1)] = np.nan
    return normal.astype(np.float32)


def pack(task: str, sources: list[str], out: Path, flags: list[str]) -> None:
    if not (out / "labels.json").exists():
        sapiens_train("pack", task, *sources, out, *flags)


def sapiens_train(*words: object) -> None:
    command = ["sapiens-train", *map(str, words)]
    print("$", " ".join(command), flush=True)
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def filled(text: str, options: argparse.Namespace) -> str:
    return text.format(data=options.data, work=options.work)


def matching(pattern: str) -> list[Path]:
    path = Path(pattern)
    return sorted(path.parent.glob(path.name))


def table(work: Path) -> str:
    """All that was measured, one row per task and start."""
    lines = ["| labels | task | metric | trivial | random | pretrained | n |", "|---|---|---|---|---|---|---|"]
    for labels in ("practice", "real"):
        for task in TASKS:
            found = {}
            for start in ("trivial", "random", "pretrained"):
                path = work / f"{labels}-{task}-{start}.json"
                found[start] = json.loads(path.read_text()) if path.exists() else None
            measured = [one for one in found.values() if one]
            for metric in MAIN[task] if measured else ():
                cells = [_cell(found[start], metric) for start in ("trivial", "random", "pretrained")]
                lines.append(f"| {labels} | {task} | {metric} | {' | '.join(cells)} | {measured[0]['n']} |")
    return "\n".join(lines)


def _cell(result: dict | None, metric: str) -> str:
    value = result["values"].get(metric) if result else None
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
