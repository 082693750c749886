"""Torch networks as OpenVINO or ncnn reads them, kept on disk: converted once per machine, by whichever process comes
first."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import openvino as ov
import torch
from torch import nn

from curation import winograd
from curation.engines import Engine, Pixels, Precision, cache_folder, compile_ir, convert
from manifests.lock import exclusive

Size = tuple[int, int]


@dataclass(frozen=True)
class Library:
    """What runs networks on a CPU. A converted one is a file that ends in `suffix`, and its weights beside it, .bin."""

    name: str
    version: str
    suffix: str
    convert: Callable[[nn.Module, Size, Path], None]


OPENVINO = Library("OpenVINO", ov.__version__, ".xml", convert)


def ncnn() -> Library:
    """Raises PackageNotFoundError where it is not installed."""
    return Library("ncnn", version("ncnn"), ".param", winograd.convert)


def compile_once(
    identity: str, build: Callable[[], nn.Module], size: Size, pixels: Pixels, threads: int, precision: Precision
) -> Engine:
    """The network for pictures of one size (height, width) on the CPU; `build` runs only where this size of `identity`
    was never converted.
    """
    file = network_file(f"{identity}-{size[0]}x{size[1]}", OPENVINO)
    with exclusive(file.with_suffix(".lock")):
        if not file.exists():
            keep(build(), size, file, OPENVINO)
    return compile_ir(file, size, pixels, threads, precision)


def network_file(identity: str, library: Library) -> Path:
    """Where a converted network is kept; another version of the library or of torch converts anew."""
    folder = cache_folder() / "networks"
    folder.mkdir(exist_ok=True)
    versions = sha256(f"{library.version} {torch.__version__}".encode()).hexdigest()[:6]
    return folder / f"{identity.replace('/', '-')}-{versions}{library.suffix}"


def keep(module: nn.Module, example_size: Size, file: Path, library: Library) -> None:
    """Convert into `file`, which appears last: where it is, the rest is whole."""
    partial = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    try:
        library.convert(module.eval(), example_size, partial)
        os.replace(partial.with_suffix(".bin"), file.with_suffix(".bin"))
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
        partial.with_suffix(".bin").unlink(missing_ok=True)
