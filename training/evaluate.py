"""How well a fine-tuned model does on labelled shards: every sample once, on any number of ranks."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from manifests.account import numbered
from shards.crop import BrokenImage
from shards.labelled import LabelledSample, LabelledShards, open_labelled
from training.config import UsageError
from training.distributed import Ranks, all_ranks
from training.models.task import LoadedTask, label_set, load_task
from training.tasks import MODULES
from training.tasks.view import View


@dataclass(frozen=True)
class Evaluation:
    """values: metric → number, None where nothing can be measured. n: samples measured. broken: samples that could
    not be read, with the reason.
    """

    task: str
    weights: str
    data: tuple[str, ...]
    n: int
    protocol: str
    flip_test: bool
    values: dict[str, float | None]
    broken: tuple[str, ...]

    def as_text(self) -> str:
        """A table."""
        rows = [
            f"{name:<28}{'n/a' if value is None else format(value, '.4f'):>10}" for name, value in self.values.items()
        ]
        noted = [f"{numbered(len(self.broken), 'sample')} could not be read:", *self.broken[:5]] if self.broken else []
        flip = ", averaged with the mirrored view" if self.flip_test else ""
        return "\n".join([f"{self.task}: {self.weights}", f"n = {self.n}; {self.protocol}{flip}", *rows, *noted])

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def evaluate(
    task: str, weights: str, data: tuple[str, ...], batch: int = 16, workers: int = 2, flip_test: bool = True
) -> Evaluation | None:
    """Measure a model on all samples; the result on rank 0, None on the others.

    flip_test: for pose, average with the heatmaps of the mirrored view, as published.
    """
    with all_ranks() as ranks:
        loaded = load_task(weights)
        shards = open_labelled(data)
        _check(task, loaded, shards, data)
        return _measure(loaded, shards, data, batch, workers, flip_test and task == "pose", ranks)


def _check(task: str, loaded: LoadedTask, shards: LabelledShards, data: tuple[str, ...]) -> None:
    for what, found in ((loaded.path, loaded.task), (", ".join(data), shards.task)):
        if found != task:
            raise UsageError(f"{what} is for {found}, not for {task}; give a model and shards of one task")
    known, given = label_set(task, loaded.labels), label_set(task, shards.labels)
    if known and given and known.names != given.names:
        kind = "keypoints" if task == "pose" else "classes"
        raise UsageError(
            f"{loaded.path} knows the {kind} of {known.name}, and {', '.join(data)} has those of {given.name}; they "
            "cannot be compared"
        )


def _measure(
    loaded: LoadedTask,
    shards: LabelledShards,
    data: tuple[str, ...],
    batch: int,
    workers: int,
    flip_test: bool,
    ranks: Ranks,
) -> Evaluation | None:
    module, labels = MODULES[loaded.task], loaded.label_set
    metric = module.Metric(labels)
    model = loaded.model.to(ranks.device)
    broken: list[str] = []
    for images, found in _batches(loaded, shards, batch, workers, ranks, broken):
        with torch.inference_mode():
            outputs = model(images.to(ranks.device)).cpu().numpy()
            if flip_test:
                mirrored = model(images.flip(2).to(ranks.device)).cpu().numpy()
                outputs = np.stack(
                    [(o + module.unmirror(m, labels)) / 2 for o, m in zip(outputs, mirrored, strict=True)]
                )
        for output, (view, sample) in zip(outputs, found, strict=True):
            metric.add(output, view, sample)
    states = ranks.gather(metric.state())
    all_broken = tuple(text for part in ranks.gather(broken) for text in part)
    if not ranks.is_first:
        return None
    whole = module.Metric.from_states(states, labels)
    return Evaluation(
        loaded.task, loaded.path, data, whole.n, module.Metric.protocol, flip_test, whole.result(), all_broken
    )


Item = tuple[np.ndarray, View, LabelledSample]


class _Views(Dataset[Item | str]):
    """The plain views of some rows; a text for a sample that cannot be read."""

    def __init__(self, loaded: LoadedTask, shards: LabelledShards, places: list[tuple[int, int]]) -> None:
        self.shards, self.places = shards, places
        self.draw = MODULES[loaded.task].Draw(loaded.size, loaded.label_set, False)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Item | str:
        number, row = self.places[index]
        sample = self.shards.read(number, row)
        try:
            return self.draw(sample)[0], self.draw.view(sample), sample
        except BrokenImage as error:
            return f"{self.shards.shards.shards[number].url} row {row} (key {sample.key}): {error}"


def _batches(
    loaded: LoadedTask, shards: LabelledShards, batch: int, workers: int, ranks: Ranks, broken: list[str]
) -> Iterator[tuple[torch.Tensor, list[tuple[View, LabelledSample]]]]:
    """This rank's share of all samples; what cannot be read goes to `broken`."""
    everything = [(number, row) for number, count in enumerate(shards.shards.counts) for row in range(count)]
    loader = DataLoader(
        _Views(loaded, shards, everything[ranks.rank :: ranks.world]),
        batch_size=batch,
        num_workers=workers,
        collate_fn=list,
        multiprocessing_context="fork" if workers else None,
    )
    for items in loader:
        broken += [item for item in items if isinstance(item, str)]
        if whole := [item for item in items if not isinstance(item, str)]:
            yield torch.from_numpy(np.stack([image for image, _, _ in whole])), [(v, s) for _, v, s in whole]
