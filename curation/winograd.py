"""Run a network of 3 x 3 convolutions on a CPU without matrix units: in ncnn, which computes them by Winograd's minimal
filtering (arXiv 1509.09308, F(4x4, 3x3)) with a quarter of the products, in fp32. OpenVINO has no such kernels.
"""

import logging
import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from curation.engines import Array, Engine, Pixels, Precision, eager, tracing


@cache
def is_quicker_here() -> bool:
    """Whether ncnn can be imported and this CPU has none of the units on which direct products in bf16 are quicker yet.

    Known of x86-64 alone.
    """
    if platform.machine() not in {"x86_64", "AMD64"} or torch.cpu._is_amx_tile_supported():
        return False
    try:
        import ncnn  # noqa: F401
        import pnnx  # noqa: F401
    except ImportError as error:
        logging.getLogger("curation").warning(
            "%s: the text network runs in OpenVINO and takes up to 2.3 times as long; pip install ncnn pnnx", error
        )
        return False
    return True


def convert(module: nn.Module, example_size: tuple[int, int], file: Path) -> None:
    """Write a torch module as ncnn reads it, for pictures of all sizes: `file` ends in .param; its weights, fp32, lie
    beside it in .bin.

    The module maps float32 [1,3,H,W] to a tensor or a tuple of tensors; `example_size` is a (height, width) it accepts,
    as it does twice that. Raises RuntimeError where ncnn cannot load the result or answers otherwise than torch.
    """
    import pnnx

    file = file.absolute()  # pnnx works in a folder of its own
    height, width = example_size
    with tempfile.TemporaryDirectory() as folder, tracing, torch.no_grad():
        torch.jit.trace(module, torch.zeros(1, 3, height, width)).save(f"{folder}/network.pt")
        shapes = [f"inputshape=[1,3,{height},{width}]", f"inputshape2=[1,3,{2 * height},{2 * width}]"]
        names = [f"ncnnparam={file}", f"ncnnbin={file.with_suffix('.bin')}"]
        command = [pnnx.EXEC_PATH, "network.pt", *shapes, *names, "fp16=0"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    _check(module, file, (2 * height, width))


def compile_ncnn(file: Path, pixels: Pixels, threads: int = 1, precision: Precision = "auto") -> Engine:
    """Load what `convert` wrote, for pictures of any size. One after another, each on all `threads`: a picture takes
    hundreds of megabytes while it is worked on.

    "auto" keeps what lies between layers in bf16 where the CPU has instructions for it; Winograd's products stay in
    fp32.
    """
    import ncnn

    kept = "bf16" if precision == "auto" and torch.cpu._is_avx512_bf16_supported() else "fp32"
    network = _load(file, kept, threads)
    names = network.output_names()
    kind = ncnn.Mat.PixelType.PIXEL_RGB2BGR if pixels.bgr else ncnn.Mat.PixelType.PIXEL_RGB
    order = -1 if pixels.bgr else 1
    mean, factors = list(pixels.mean[::order]), [1 / value for value in pixels.scale[::order]]

    def run(pictures: Array) -> tuple[Array, ...]:
        answers = []
        for picture in pictures:
            data = ncnn.Mat.from_pixels(picture, kind, picture.shape[1], picture.shape[0])
            data.substract_mean_normalize(mean, factors)
            extractor = network.create_extractor()
            extractor.input("in0", data)
            answers.append([_extracted(extractor, name) for name in names])
        return tuple(np.stack(column) for column in zip(*answers, strict=True))

    return Engine(run, "cpu", kept)


def _check(module: nn.Module, file: Path, size: tuple[int, int]) -> None:
    """Of a size that the network was not converted for: a converter takes what depends on it for a constant."""
    picture = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    pairs = zip(eager(module, Pixels())(picture), compile_ncnn(file, Pixels(), precision="fp32")(picture), strict=True)
    if not all(a.shape == b.shape and np.allclose(a, b, rtol=1e-2, atol=1e-2 * np.abs(a).max()) for a, b in pairs):
        raise RuntimeError(f"ncnn answers otherwise than torch with {file}")


def _extracted(extractor: Any, name: str) -> Array:
    failed, answer = extractor.extract(name)
    if failed:
        raise RuntimeError(f"ncnn has no {name}: error {failed}; is the memory full?")
    return np.array(answer)


def _load(file: Path, kept: str, threads: int) -> Any:
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = threads
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_packed = network.opt.use_bf16_storage = kept == "bf16"
    if network.load_param(str(file)) or network.load_model(str(file.with_suffix(".bin"))):
        raise RuntimeError(f"ncnn cannot load {file}")
    return network
