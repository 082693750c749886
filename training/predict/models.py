"""Up to four fine-tuned models as one: an encoder that several of them share runs once per view."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.config import UsageError
from training.models.task import TASKS, LoadedTask, TaskModel, load_task


@dataclass(frozen=True)
class Group:
    """Tasks that one encoder pass serves: same weights, patch padding and input size. The first's encoder runs."""

    size: tuple[int, int]
    models: dict[str, TaskModel]


class Models:
    """The models of a run on one device.

    labels of a task are those its checkpoint was trained with. precision: fp32, or bf16 matrix products.
    """

    def __init__(
        self, tasks: Mapping[str, LoadedTask], device: torch.device, precision: str = "fp32", share: bool = True
    ) -> None:
        self.tasks = dict(tasks)
        self.device, self.precision = device, precision
        self.groups = _groups(self.tasks, share)
        for group in self.groups:
            first = next(iter(group.models.values()))
            first.encoder.to(device)
            for model in group.models.values():
                model.head.to(device)

    @torch.inference_mode()
    def __call__(self, views: Mapping[tuple[int, int], np.ndarray]) -> dict[str, np.ndarray]:
        """Views (B, H, W, 3) uint8 RGB by input size (rows, columns) → task → output (B, C, h, w) float32."""
        outputs: dict[str, np.ndarray] = {}
        for group in self.groups:
            images = torch.from_numpy(views[group.size]).to(self.device, non_blocking=True)
            for task, output in self._run(group, images).items():
                outputs[task] = output.float().cpu().numpy()
        return {task: outputs[task] for task in self.tasks}

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """Input sizes in rows and columns of pixels: a person is drawn once for each."""
        return {group.size for group in self.groups}

    def _run(self, group: Group, images: Tensor) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features = next(iter(group.models.values())).features(images)
            return {task: model.head(features) for task, model in group.models.items()}


def load_models(paths: Mapping[str, str], device: torch.device, precision: str = "fp32", share: bool = True) -> Models:
    """The models of task → checkpoint. Raises UsageError for a checkpoint of another task, naming both."""
    if not paths:
        raise UsageError("no model was given; give at least one of --pose, --parts, --depth and --normals")
    loaded: dict[str, LoadedTask] = {}
    for task in (t for t in TASKS if t in paths):
        found = load_task(paths[task])
        if found.task != task:
            raise UsageError(
                f"--{task} is {paths[task]}, which was trained for {found.task}; give it as --{found.task}"
            )
        loaded[task] = found
    return Models(loaded, device, precision, share)


def choose_device(name: str) -> torch.device:
    """auto: CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device is '{name}'; allowed are auto, cpu, cuda and cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device is '{name}'; allowed are auto, cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device is '{name}' but torch sees {torch.cuda.device_count()} CUDA devices; try --device cpu"
        )
    return device


def _groups(tasks: Mapping[str, LoadedTask], share: bool) -> list[Group]:
    groups: dict[object, Group] = {}
    for task, loaded in tasks.items():
        key = (loaded.encoder_hash, loaded.size) if share else task
        groups.setdefault(key, Group(loaded.size, {})).models[task] = loaded.model
    return list(groups.values())
