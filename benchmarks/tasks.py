"""What fine-tuning learns: each task on rendered practice people against the trivial answer, and on real labels from
a pretrained encoder against a random one, with the same steps.

    python benchmarks/tasks.py prepare WORK --data DATA      render, pack; DATA: the folder that holds train/ and dev/
    python benchmarks/tasks.py train WORK --init ENCODER     train and measure everything, on a GPU where there is one
    python benchmarks/tasks.py table WORK                    the figures so far, over all seeds

Everything is what the `sapiens-train` commands that it prints do, and figures are those of `sapiens-train eval`. What
is done already is not done again, and a training that was stopped goes on. `--jobs 2`: so many trainings at a time,
one core each.
"""

import argparse
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # trainings run side by side, one core each

import cv2
import numpy as np
import torch
from kitchen import split_kitchen

from shards.labelled import LabelledSample, LabelledShards, open_labelled
from training.config import FinetuneConfig, config_from
from training.evaluate import evaluate
from training.finetune import finetune
from training.labels.dense_files import Convention
from training.labels.pack import Packing, pack
from training.models.task import channels_of, label_set
from training.practice.write import write_practice
from training.tasks import MODULES
from training.tasks.heatmaps import encode

TASKS = ("pose", "parts", "depth", "normals")
FOLDS = 5
ENOUGH = 1000
"""Training samples whose mean label is the trivial answer."""


@dataclass(frozen=True)
class Run:
    """One training: steps of batch samples at a size (rows, columns). folds: so many parts of the data are held out
    in turn, or 0 where there is a set to measure on. lr: 0 for the published one. augment: disturb the views; there
    are enough practice people to do without. workers: processes that decode; 0: the training's own. layer_decay: 1
    where the first layers have as much to learn as the last.
    """

    steps: int
    batch: int = 8
    size: str = "128x96"
    folds: int = 0
    lr: float = 0.0
    augment: bool = True
    workers: int = 0
    layer_decay: float = 0.85
    depth_floor: float = 0.1


ON_A_CPU = {
    ("practice", "pose"): Run(1500, lr=1e-3, augment=False),
    ("practice", "parts"): Run(3000, lr=1e-3, augment=False),
    ("practice", "depth"): Run(12000, 16, lr=7e-4, augment=False, layer_decay=1, depth_floor=1),
    ("practice", "normals"): Run(2500, 16, lr=1e-3, augment=False, layer_decay=1),
    ("real", "pose"): Run(1000, lr=1e-3),
    ("real", "parts"): Run(1250, lr=1e-3, augment=False),
    ("real", "depth"): Run(200, size="96x128", folds=FOLDS),
    ("real", "normals"): Run(200, size="96x128", folds=FOLDS),
}
ON_A_GPU = {
    ("practice", "pose"): Run(500, 32, "256x192", lr=1e-3, augment=False, workers=1),
    ("practice", "parts"): Run(1200, 32, "256x192", lr=1e-3, augment=False, workers=1),
    ("practice", "depth"): Run(2000, 64, "256x192", lr=1e-3, augment=False, workers=4),
    ("practice", "normals"): Run(500, 32, "256x192", lr=1e-3, augment=False, workers=1),
    ("real", "pose"): Run(800, 32, "256x192", lr=1e-3, workers=1),
    ("real", "parts"): Run(1500, 32, "256x192", lr=1e-3, augment=False, workers=2),
    ("real", "depth"): Run(600, 8, "192x256", FOLDS),
    ("real", "normals"): Run(600, 8, "192x256", FOLDS),
}
RUNS = ON_A_GPU if torch.cuda.is_available() else ON_A_CPU
STARTS = ("pretrained", "random")
MAIN = {
    "pose": ("PCK@0.1 ↑", "AP ↑"),
    "parts": ("mIoU ↑", "mAcc ↑"),
    "depth": ("AbsRel ↓", "RMSE/relative ↓"),
    "normals": ("mean ↓", "within_30 ↑"),
}


@dataclass(frozen=True)
class Job:
    """A training and its measurement, or (start "trivial") the measurement of the trivial answer."""

    work: Path
    labels: str
    task: str
    start: str
    seed: int
    fold: int
    init: str
    longer: float

    @property
    def run(self) -> Run:
        return RUNS[self.labels, self.task]

    @property
    def name(self) -> str:
        fold = f"-{self.fold}" if self.run.folds else ""
        return f"{self.labels}-{self.task}{fold}-{self.start}-{self.seed}"

    @property
    def result(self) -> Path:
        return self.work / "results" / f"{self.name}.json"

    def data(self, part: str) -> Path:
        """Packed labels to train on or, of the part dev, to measure on."""
        return packed(self.work, self.labels, self.task, part, self.fold)


def packed(work: Path, labels: str, task: str, part: str, fold: int) -> Path:
    number = f"-{fold}" if RUNS[labels, task].folds else ""
    return work / "packed" / f"{labels}-{task}{number}-{part}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "train", "table"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--init", default="", help="Pretrained tiny encoder: a run of pretrain, or a file.")
    parser.add_argument("--pictures", type=int, default=6000, help="Practice pictures to train on.")
    parser.add_argument("--longer", type=float, default=1.0, help="Times the steps.")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="Processes at a time.")
    parser.add_argument("--labels", nargs="+", default=["practice", "real"], choices=("practice", "real"))
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--starts", nargs="+", default=STARTS, choices=STARTS)
    given = parser.parse_args()
    (given.work / "results").mkdir(parents=True, exist_ok=True)
    if given.what == "prepare":
        prepare(given)
    if given.what == "train":
        train(list(jobs(given)), given.jobs)
    if given.what != "prepare":
        print(table(given.work))


# -- data --------------------------------------------------------------------------------------------------------------


def prepare(given: argparse.Namespace) -> None:
    """Render practice people, cut the kitchen into folds, and pack all labels."""
    if "practice" in given.labels:
        for name, count, seed in (("train", given.pictures, 1), ("dev", max(given.pictures // 20, 1), 2)):
            out = given.work / f"practice-{name}"
            if not (out / "keypoints.json").exists():
                print("$ sapiens-train practice", out, "--count", count, "--seed", seed, flush=True)
                deque(write_practice(out, count, seed, workers=given.jobs), maxlen=0)
    if "real" in given.labels and {"depth", "normals"} & set(given.tasks):
        split_kitchen(given.data / "dev" / "depth-kitchen-000.tar", given.work / "kitchen", FOLDS)
    kinds = [(labels, task) for labels in given.labels for task in given.tasks]
    with ProcessPoolExecutor(given.jobs, get_context("spawn"), one_thread) as pool:
        deque(pool.map(pack_labels, [one for kind in kinds for one in packings(given, *kind)]), maxlen=0)


def packings(given: argparse.Namespace, labels: str, task: str) -> Iterator[Packing]:
    """What is to be packed: for each part and fold."""
    names = {"pose": "lsp14", "parts": str(given.data / "train" / "parts-fashion-classes.json")}
    for part in ("train", "dev"):
        for fold in range(max(RUNS[labels, task].folds, 1)):
            out = packed(given.work, labels, task, part, fold)
            if labels == "practice":
                yield Packing(task, (given.work / f"practice-{part}",), out)
            elif task in names:
                tars = {"pose": "pose-sport-*.tar", "parts": "parts-fashion-*.tar"}[task]
                yield Packing(task, tuple(sorted((given.data / part).glob(tars))), out, names[task])
            else:
                suffix = "-normals" if task == "normals" else ""
                tar = given.work / "kitchen" / f"{fold}-{part}{suffix}.tar"
                yield Packing(task, (tar,), out, how=Convention(scale=0.001 if task == "depth" else None))


def pack_labels(packing: Packing) -> None:
    if (packing.out / "labels.json").exists():
        return
    flags = ["--set", packing.names] if packing.names else []
    flags += ["--scale", packing.how.scale] if packing.how.scale else []
    print("$ sapiens-train pack", packing.task, *packing.labels, packing.out, *flags, flush=True)
    deque(pack(packing), maxlen=0)


# -- trainings ---------------------------------------------------------------------------------------------------------


def jobs(given: argparse.Namespace) -> Iterator[Job]:
    """All trivial answers and trainings, seed after seed, so that what is cut short has a table; long ones first."""
    kinds = [(labels, task) for labels in given.labels for task in given.tasks]
    kinds.sort(key=lambda kind: -RUNS[kind].steps * RUNS[kind].batch)
    for seed in range(given.seeds):
        for labels, task in kinds:
            for start in (*given.starts, *(() if seed else ("trivial",))):
                for fold in range(max(RUNS[labels, task].folds, 1)):
                    init = given.init if start == "pretrained" else ""
                    yield Job(given.work, labels, task, start, seed, fold, init, given.longer)


def train(todo: list[Job], at_a_time: int) -> None:
    started = time.monotonic()
    todo = [job for job in todo if not job.result.exists()]
    if not all(job.init for job in todo if job.start == "pretrained"):
        raise SystemExit("give the pretrained encoder with --init")
    with ProcessPoolExecutor(at_a_time, get_context("spawn"), one_thread) as pool:
        running = {pool.submit(perform, job): job for job in todo}
        for count, done in enumerate(as_completed(running), 1):
            problem = f": {done.exception()!r}" if done.exception() else ""
            print(
                f"{time.monotonic() - started:5.0f} s  {count}/{len(todo)}  {running[done].name}{problem}", flush=True
            )


def one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def perform(job: Job) -> None:
    if job.start == "trivial":
        trivial(job)
    else:
        fit(job)


def fit(job: Job) -> None:
    """Fine-tune and measure; what the two print goes to a log beside the run."""
    run, folder = job.run, job.work / "runs" / job.name
    steps = max(round(run.steps * job.longer), 1)
    settings = {"model": "tiny", "size": run.size, "images": steps * run.batch, "batch": run.batch}
    settings |= {"micro_batch": run.batch, "lr": run.lr, "warmup_steps": steps // 10, "seed": job.seed}
    settings |= {"workers": run.workers, "compile": "off", "log_every": 50, "save_every": 1000}
    settings |= {"layer_decay": run.layer_decay, "depth_floor": run.depth_floor}
    settings |= {"init": job.init} if job.init else {}
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in settings.items()]
    flags += [] if run.augment else ["--no-augment"]
    settings["augment"] = run.augment
    print("$ sapiens-train finetune", job.task, job.data("train"), folder, *flags, flush=True)
    config = config_from(FinetuneConfig, settings | {"task": job.task, "data": str(job.data("train")), "out": folder})
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log, redirect_stdout(log):
        if finetune(config):
            raise RuntimeError("the training was stopped")
        found = evaluate(job.task, str(folder), (str(job.data("dev")),), workers=0)
        assert found is not None
        print(found.as_text())
    found.write(job.result)


def trivial(job: Job) -> None:
    """Measure the answer that does not look at the picture: at each place of the view, the mean training label."""
    train, dev = (open_labelled(str(job.data(part))) for part in ("train", "dev"))
    labels, module = label_set(job.task, train.labels), MODULES[job.task]
    rows, columns = map(int, job.run.size.split("x"))
    draw = module.Draw((rows, columns), labels, False)
    answer = mean_label(
        job.task, (draw(sample)[1] for sample in islice(samples(train), ENOUGH)), channels_of(job.task, train.labels)
    )
    if job.task == "pose":
        places = torch.from_numpy(answer)[None]
        answer = encode(places, torch.ones(1, len(answer)), (rows // 4, columns // 4))[0][0].numpy()
    metric = module.Metric(labels)
    for sample in samples(dev):
        metric.add(answer, draw.view(sample), sample)
    job.result.write_text(json.dumps({"n": metric.n, "values": metric.result()}, indent=1))


def mean_label(task: str, targets: Iterable[dict[str, np.ndarray]], channels: int) -> np.ndarray:
    """Float32 mean over the targets that are labelled: points (K, 2), or maps (channels, rows, columns)."""
    total, count = np.float64(0), np.float64(1e-9)
    for target in targets:
        if task == "pose":
            value, known = target["points"], target["visible"][:, None]
        elif task == "parts":
            value, known = np.arange(channels)[:, None, None] == target["classes"], np.float64(1)
        elif task == "depth":
            value, known = target["depth"][None], target["depth"] >= 0
        else:
            value, known = target["normals"].transpose(2, 0, 1), (target["normals"] != 0).any(axis=2)
        total, count = total + np.where(known, value, 0), count + known
    return (total / count).astype(np.float32)


def samples(shards: LabelledShards) -> Iterator[LabelledSample]:
    for number, count in enumerate(shards.shards.counts):
        for row in range(count):
            yield shards.read(number, row)


# -- figures -----------------------------------------------------------------------------------------------------------


def table(work: Path) -> str:
    """All that was measured: means over the seeds, with their standard deviation where there are several. A seed's
    figure is the mean over its folds.
    """
    lines = ["| labels | task | metric | trivial | random | pretrained | n |", "|---|---|---|---|---|---|---|"]
    for (labels, task), run in RUNS.items():
        for metric in MAIN[task]:
            cells, n = {}, 0
            for start in ("trivial", "random", "pretrained"):
                by_seed = measured(work, labels, task, start, max(run.folds, 1))
                by_fold = [[one["values"][metric[:-2]] for one in seed] for seed in by_seed]
                cells[start] = shown([float(np.mean(values)) for values in by_fold if None not in values])
                n = max([n, *(sum(one["n"] for one in seed) for seed in by_seed)])
            if any(cells.values()):
                lines.append(f"| {labels} | {task} | {metric} | {' | '.join(cells.values())} | {n} |")
    return "\n".join(lines)


def measured(work: Path, labels: str, task: str, start: str, folds: int) -> list[list[dict]]:
    """The results of each seed that has those of all its folds."""
    found: dict[str, list[dict]] = {}
    for path in sorted((work / "results").glob(f"{labels}-{task}-*{start}-*.json")):
        found.setdefault(path.stem.rsplit("-", 1)[1], []).append(json.loads(path.read_text()))
    return [one for one in found.values() if len(one) == folds]


def shown(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}" if values else ""


if __name__ == "__main__":
    main()
