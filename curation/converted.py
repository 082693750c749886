"""Torch networks as OpenVINO reads them, kept on disk: converted once per machine, by whichever process comes first."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import openvino as ov
import torch
from torch import nn

from curation.engines import Engine, Pixels, Precision, cache_folder, compile_ir, convert
from manifests.lock import exclusive

Size = tuple[int, int]


def compile_once(
    identity: str, build: Callable[[], nn.Module], size: Size, pixels: Pixels, threads: int, precision: Precision
) -> Engine:
    """The network for pictures of one size (height, width) on the CPU; `build` runs only where this size of `identity`
    was never converted.
    """
    file = network_file(f"{identity}-{size[0]}x{size[1]}")
    with exclusive(file.with_suffix(".lock")):
        if not file.exists():
            keep(build(), size, file)
    return compile_ir(file, size, pixels, threads, precision)


def network_file(identity: str) -> Path:
    """Where a converted network is kept; another OpenVINO or torch converts anew."""
    folder = cache_folder() / "networks"
    folder.mkdir(exist_ok=True)
    versions = sha256(f"{ov.__version__} {torch.__version__}".encode()).hexdigest()[:6]
    return folder / f"{identity.replace('/', '-')}-{versions}.xml"


def keep(module: nn.Module, example_size: Size, file: Path) -> None:
    """Convert into `file`. The .xml appears last: where it is, the rest is whole."""
    partial = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    try:
        convert(module.eval(), example_size, partial)
        os.replace(partial.with_suffix(".bin"), file.with_suffix(".bin"))
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
        partial.with_suffix(".bin").unlink(missing_ok=True)
