"""Untrained models of 64 x 48 px and pictures to try them on."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.shard_factory import photo
from training.labels.sets import ClassList, KeypointSet
from training.models.heads import Head
from training.models.task import LoadedTask, TaskModel, channels_of, write_task
from training.models.zoo import Architecture, build_encoder

ARCH = Architecture("tiny", 256, 6, 4, image=256, head_width=64)
SIZE = (64, 48)
LABELS = {
    "pose": {"format": 1, "task": "pose", "keypoints": KeypointSet.load("coco17").to_dict()},
    "parts": {"format": 1, "task": "parts", "classes": ClassList.load("sapiens28").to_dict()},
    "depth": {"format": 1, "task": "depth", "unit": "relative"},
    "normals": {"format": 1, "task": "normals", "axes": "x right, y up, z towards the camera"},
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files by task; pose, parts and depth share an encoder, normals has its own."""
    folder = tmp_path_factory.mktemp("models")
    paths = {}
    for number, (task, labels) in enumerate(LABELS.items()):
        torch.manual_seed(7 if task == "normals" else 0)
        encoder = build_encoder(ARCH, (SIZE[0] // 16, SIZE[1] // 16), cls_token=False)
        torch.manual_seed(number)
        model = TaskModel(encoder, Head(task, ARCH, channels_of(task, labels)))
        paths[task] = str(folder / f"{task}.safetensors")
        write_task(LoadedTask(task, model, ARCH, SIZE, labels, "", ""), paths[task])
    return paths


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three readable photos of different sizes and kinds, one in a folder below."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(photo(1))
    (folder / "b.PNG").write_bytes(cv2.imencode(".png", np.full((50, 30, 4), 90, np.uint8))[1].tobytes())
    (folder / "more" / "a.jpg").write_bytes(photo(2, 300, 200))
    return folder


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Files end after as many bytes with an OSError, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_video(path: Path, frames: int = 12, codec: str = "mp4v", size: tuple[int, int] = (96, 64)) -> Path:
    """A video of moving gradients; size is width, height."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 20, size)
    assert writer.isOpened()
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    for number in range(frames):
        writer.write(np.dstack([x, y, np.roll(x, 4 * number, 1)]).astype(np.uint8))
    writer.release()
    return path
