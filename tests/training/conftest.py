"""A run small enough for a test: the tiny model at 64 px on 24 synthetic photos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.shard_factory import write_curated
from training.config import PretrainConfig


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAPIENS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """What is compared to the bit must be computed with the same number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_curated(tmp_path / "data", shards=3, per_shard=8)


@pytest.fixture
def config(tmp_path: Path, data: Path) -> Callable[..., PretrainConfig]:
    """Make a config for the small run; keyword arguments override."""

    def make(**changed: Any) -> PretrainConfig:
        values: dict[str, Any] = {
            "data": (str(data),),
            "run": str(tmp_path / "run"),
            "model": "tiny",
            "size": "64",
            "images": 48,
            "batch": 8,
            "micro_batch": 4,
            "base_lr": 0.03,
            "warmup": 0.2,
            "workers": 0,
            "window": 2,
            "log_every": 1,
            "save_every": 2,
            "keep": 99,
        }
        return PretrainConfig(**{**values, **changed})

    return make
