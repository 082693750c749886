"""Networks are converted once per machine and size, and answer as in torch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from curation import converted
from curation.converted import compile_once
from curation.engines import Pixels, convert, eager


class Grid(nn.Module):
    """Has constants that depend on the size of its input, as a detector's cells."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1) + torch.arange(x.shape[3], dtype=torch.float32) + torch.arange(x.shape[2])[:, None]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAPIENS_CACHE", str(tmp_path))


@pytest.fixture
def built() -> list[Grid]:
    return []


def test_each_size_is_converted_once(built: list[Grid]) -> None:
    def build() -> Grid:
        built.append(Grid())
        return built[-1]

    for height, width, so_far in ((32, 48, 1), (48, 32, 2), (32, 48, 2)):
        pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        (found,) = compile_once("grid@1", build, (height, width), Pixels(), 1, "fp32")(pictures)
        np.testing.assert_allclose(found, eager(Grid(), Pixels())(pictures)[0], atol=1e-5)
        assert len(built) == so_far


def test_what_was_cut_off_while_converting_is_converted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(module: nn.Module, size: tuple[int, int], file: Path) -> None:
        convert(module, size, file)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(converted, "OPENVINO", replace(converted.OPENVINO, convert=cut_off))
        with pytest.raises(KeyboardInterrupt):
            compile_once("grid@1", Grid, (32, 48), Pixels(), 1, "fp32")
    assert not [file for file in tmp_path.rglob("*") if file.suffix in {".xml", ".bin"}]
    compile_once("grid@1", Grid, (32, 48), Pixels(), 1, "fp32")
