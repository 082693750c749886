"""ncnn answers as torch does, for pictures of every size, and what it cannot run is known before it is kept."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from curation import winograd
from curation.engines import Pixels, eager

needs_ncnn = pytest.mark.skipif(
    not (find_spec("ncnn") and find_spec("pnnx")), reason="the extra `full` brings ncnn on x86-64 alone"
)
PIXELS = Pixels((120, 110, 100), (50, 60, 70))


class Two(nn.Module):
    """Wide enough for Winograd's form; two outputs of two shapes, the second of half the size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.second(torch.relu(self.first(x))))
        return y, torch.max_pool2d(y, 2)[:, :4]


@needs_ncnn
@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_it_answers_as_torch(tmp_path: Path, threads: int, bgr: bool) -> None:
    pixels = Pixels(PIXELS.mean, PIXELS.scale, bgr)
    winograd.convert(Two().eval(), (32, 48), tmp_path / "two.param")
    exact = winograd.compile_ncnn(tmp_path / "two.param", pixels, threads, "fp32")
    quick = winograd.compile_ncnn(tmp_path / "two.param", pixels, threads)
    assert (exact.where, exact.precision) == ("cpu", "fp32")
    assert quick.precision == ("bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32")
    for height, width, count in ((32, 48, 5), (70, 54, 1), (16, 200, 2), (32, 48, 4)):
        pictures = np.random.default_rng(height).integers(0, 256, (count, height, width, 3), np.uint8)
        for found, rough, wanted in zip(exact(pictures), quick(pictures), eager(Two(), pixels)(pictures), strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, atol=1e-4)
            np.testing.assert_allclose(rough, wanted, atol=0.03)
            assert np.array_equal(rough, found) == (quick.precision == "fp32")


@needs_ncnn
def test_a_relative_file_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    winograd.convert(Two().eval(), (32, 48), Path("two.param"))
    assert {file.name for file in tmp_path.iterdir()} == {"two.param", "two.bin"}


@needs_ncnn
def test_what_ncnn_lacks_is_not_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Sorted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sort(dim=3).values

    with pytest.raises(RuntimeError, match=r"ncnn cannot load .*sorted.param"):
        winograd.convert(Sorted(), (32, 48), tmp_path / "sorted.param")
    capfd.readouterr()  # ncnn's own words


@needs_ncnn
def test_what_ncnn_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = winograd._load

    def heedless(file: Path, kept: str, threads: int) -> object:
        text = file.read_text().splitlines()
        file.write_text("\n".join(line.replace(" 4=1", " 4=0") for line in text) + "\n")  # no padding on the left
        return right(file, kept, threads)

    monkeypatch.setattr(winograd, "_load", heedless)
    with pytest.raises(RuntimeError, match=r"ncnn answers otherwise than torch with .*two.param"):
        winograd.convert(Two().eval(), (32, 48), tmp_path / "two.param")


def test_a_package_that_is_missing_is_named_and_openvino_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for package in ("ncnn", "pnnx"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    assert winograd.is_quicker_here.__wrapped__()
    assert not caplog.records
    monkeypatch.setitem(sys.modules, "pnnx", None)
    assert not winograd.is_quicker_here.__wrapped__()
    (said,) = caplog.messages
    assert said.startswith("import of pnnx")
    assert said.endswith("takes up to 2.3 times as long; pip install ncnn pnnx")


@pytest.mark.parametrize(("machine", "matrix_units"), [("aarch64", False), ("x86_64", True)])
def test_other_cpus_have_quicker_ways(
    machine: str, matrix_units: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrix_units)
    assert not winograd.is_quicker_here.__wrapped__()
    assert not caplog.records
