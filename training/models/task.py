"""An encoder with one task's decoder: made for fine-tuning, read back for use, written as one file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from manifests.store import as_umask_says
from training.config import UsageError
from training.labels.sets import ClassList, KeypointSet
from training.models.convert import Weights, load_encoder, official_name, read_weights
from training.models.heads import HEADS, Head
from training.models.vit import ViT
from training.models.zoo import PATCH, Architecture, build_encoder

TASKS = tuple(HEADS)

_RELEASED_SETS = {
    ("pose", 17): "coco17",
    ("pose", 133): "wholebody133",
    ("pose", 308): "goliath308",
    ("parts", 28): "sapiens28",
    ("parts", 20): "lip20",
}
"""Label sets of the released models, by task and output channels; the files themselves do not name them."""


class TaskModel(nn.Module):
    """uint8 images (B, H, W, 3) → (B, channels, h, w) float32: heatmaps, class logits, depth or normals."""

    def __init__(self, encoder: ViT, head: Head, frozen: bool = False) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.encoder.requires_grad_(not frozen)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images)).float()

    def features(self, images: Tensor) -> Tensor:
        """The encoder's normed tokens as a map (B, D, H/16, W/16)."""
        tokens = self.encoder(images)
        rows, columns = images.shape[1] // PATCH, images.shape[2] // PATCH
        return tokens.transpose(1, 2).unflatten(2, (rows, columns))


@dataclass(frozen=True)
class LoadedTask:
    """A fine-tuned model ready for use, in evaluation mode, on the CPU.

    size: rows and columns of its input in pixels. labels: as `labels.json` of the shards it was trained on.
    encoder_hash: equal for two models exactly where one encoder pass serves both.
    """

    task: str
    model: TaskModel
    arch: Architecture
    size: tuple[int, int]
    labels: dict[str, Any]
    encoder_hash: str
    path: str

    @property
    def label_set(self) -> KeypointSet | ClassList | None:
        return label_set(self.task, self.labels)


def label_set(task: str, labels: Mapping[str, Any]) -> KeypointSet | ClassList | None:
    """Keypoints or classes out of what `labels.json` holds; None for depth and normals."""
    if task == "pose":
        return KeypointSet.from_dict(labels["keypoints"])
    return ClassList.from_dict(labels["classes"]) if task == "parts" else None


def channels_of(task: str, labels: Mapping[str, Any]) -> int:
    """Output channels of a task's decoder."""
    names = label_set(task, labels)
    if names is not None:
        return len(names.names)
    return 1 if task == "depth" else 3


def build_task(
    task: str,
    arch: Architecture,
    labels: Mapping[str, Any],
    size: tuple[int, int],
    init: str = "",
    patch_padding: int | None = None,
    frozen: bool = False,
) -> TaskModel:
    """A model to fine-tune: a fresh decoder on the encoder of `init` (a file, checkpoint or run folder), or on
    a fresh one. The position table is resized to `size` and, unless frozen, trained.
    """
    grid = (size[0] // PATCH, size[1] // PATCH)
    if init:
        encoder = load_encoder(init, grid, cls_token=False, patch_padding=patch_padding)
        found = encoder.patch_embed.proj.weight.shape[0]
        if found != arch.width or len(encoder.blocks) != arch.depth:
            raise UsageError(
                f"{init} is {found} wide and {len(encoder.blocks)} blocks deep, not a sapiens-{arch.name}; "
                "give the --model it was trained as"
            )
    else:
        encoder = build_encoder(arch, grid, cls_token=False, patch_padding=patch_padding or 0)
    return TaskModel(encoder, Head(task, arch, channels_of(task, labels)), frozen)


def load_task(path: str | Path) -> LoadedTask:
    """Read a fine-tuned model: a run or checkpoint folder, a .safetensors of `convert`, or a released .pth."""
    weights = read_weights(path)
    if not weights.head:
        raise UsageError(
            f"{path} has no task decoder: it is a pretrained encoder; fine-tune it first (sapiens-train finetune)"
        )
    task = _task_of(weights)
    labels = weights.facts.get("labels") or _released_labels(task, weights)
    labels = json.loads(labels) if isinstance(labels, str) else dict(labels)
    with torch.device("meta"):
        encoder = build_encoder(weights.arch, weights.grid, cls_token=False, patch_padding=weights.patch_padding)
        arch = replace(weights.arch, head_width=_head_width(task, weights))
        model = TaskModel(encoder, Head(task, arch, channels_of(task, labels)))
    named = {f"encoder.{n}": t for n, t in weights.encoder.items()} | {f"head.{n}": t for n, t in weights.head.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if expected != (found := {name: tuple(tensor.shape) for name, tensor in named.items()}):
        name = sorted(dict(expected.items() ^ found.items()))[0]
        raise UsageError(
            f"{path} is not a sapiens-{weights.arch.name} for {task}: {name} is {found.get(name, 'missing')}, "
            f"expected {expected.get(name, 'nothing')}"
        )
    model.load_state_dict(named, assign=True)
    model.eval().requires_grad_(False)
    size = (weights.grid[0] * PATCH, weights.grid[1] * PATCH)
    return LoadedTask(task, model, arch, size, labels, _hash(weights), str(path))


def write_task(loaded: LoadedTask, path: str | Path, official: bool = False) -> None:
    """Write a fine-tuned model as one safetensors file; official: under the names of Sapiens' released files."""
    encoder, head = loaded.model.encoder, loaded.model.head
    if official:
        prefix = HEADS[loaded.task].prefix
        tensors = {f"backbone.{official_name(n)}": t for n, t in encoder.state_dict().items()}
        tensors |= {f"{prefix}.{n}": t for n, t in head.state_dict().items()}
    else:
        tensors = loaded.model.state_dict()
    facts = {
        "task": loaded.task,
        "model": loaded.arch.name,
        "grid": f"{loaded.size[0] // PATCH}x{loaded.size[1] // PATCH}",
        "patch_padding": str(encoder.patch_padding),
        "layout": "official" if official else "task",
        "labels": json.dumps(loaded.labels),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=facts)
    as_umask_says(Path(path))


def _task_of(weights: Weights) -> str:
    """The task as the file names it, or as the released heads tell by their shape."""
    if "task" in weights.facts:
        return str(weights.facts["task"])
    if "final_layer.weight" in weights.head:
        return "pose"
    channels = weights.head["conv_seg.weight"].shape[0] if "conv_seg.weight" in weights.head else 0
    return {1: "depth", 3: "normals"}.get(channels, "parts")


def _released_labels(task: str, weights: Weights) -> dict[str, Any]:
    """The label set that a released head of this many channels was trained on."""
    if task == "depth":
        return {"format": 1, "task": task, "unit": "relative"}
    if task == "normals":
        return {"format": 1, "task": task, "axes": "x right, y up, z towards the camera"}
    channels = weights.head[f"{HEADS[task].last}.weight"].shape[0]
    if (task, channels) not in _RELEASED_SETS:
        known = ", ".join(f"{n} for {t}" for t, n in _RELEASED_SETS)
        raise UsageError(
            f"{weights.path} has {channels} channels for {task} and does not name its labels; released are {known}"
        )
    name = _RELEASED_SETS[task, channels]
    if task == "pose":
        return {"format": 1, "task": task, "keypoints": KeypointSet.load(name).to_dict()}
    return {"format": 1, "task": task, "classes": ClassList.load(name).to_dict()}


def _head_width(task: str, weights: Weights) -> int:
    """Channels of the decoder in the file, for those trained with another width."""
    width = weights.head[f"{HEADS[task].last}.weight"].shape[1]
    return int(width) * (2 if HEADS[task].half else 1)


def _hash(weights: Weights) -> str:
    """Hash of all that decides the encoder's output for an image of a size."""
    digest = sha256(f"{weights.arch.name} {weights.grid} {weights.patch_padding}".encode())
    for name in sorted(weights.encoder):
        digest.update(name.encode())
        digest.update(weights.encoder[name].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
