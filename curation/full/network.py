"""A torch network that is converted once per machine, and run on batches of one size."""

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from curation import winograd
from curation.converted import OPENVINO, Library, keep, ncnn, network_file
from curation.engines import Engine, Pixels, Precision, compile_ir, compile_torch, eager
from curation.errors import Stopped, reason_of
from manifests.lock import exclusive

Array = NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")
_own = threading.local()


@dataclass(frozen=True)
class Built:
    """A network in torch, mapping float32 [B,3,H,W] to a tensor or a tuple of them, a (height, width) it accepts, and
    what its user must know of it (JSON)."""

    module: nn.Module
    example_size: tuple[int, int]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Network:
    """How to come by a network. `build` runs only where nothing is cached under `identity`. Networks that take pictures
    of `any_size` are compiled once, the others for the size that they are given. `of_convolutions`: most of the work is
    in 3 x 3 convolutions of many channels, and pictures have any size."""

    identity: str
    build: Callable[[], Built]
    pixels: Callable[[dict[str, Any]], Pixels]  # from the facts
    batch: int = 1  # pictures per request on a CPU
    any_size: bool = False
    of_convolutions: bool = False


def normalised(facts: dict[str, Any]) -> Pixels:
    """Of a network whose facts are the `mean` and `std` of its channels, 0…1."""
    mean, std = ((255 * v[0], 255 * v[1], 255 * v[2]) for v in (facts["mean"], facts["std"]))
    return Pixels(mean, std)


class Runner:
    """Runs a `Network` on pictures of any sizes; `facts` are those of `Built`. Threads may share one."""

    def __init__(self, network: Network, threads: int = 1, precision: Precision = "auto") -> None:
        self.network, self.threads, self.precision = network, threads, precision
        self._engines: dict[tuple[int, int] | None, Engine] = {}
        self._loading = threading.RLock()

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[Array, ...]]:
        """uint8 RGB [H,W,3] pictures → each one's outputs, without the batch dimension. Equal sizes run together."""
        answers: list[tuple[Array, ...]] = [()] * len(pictures)
        for size, members in by_size(pictures).items():
            outputs = self._engine(size)(np.stack([pictures[i] for i in members]))
            for place, member in enumerate(members):
                answers[member] = tuple(output[place] for output in outputs)
        return answers

    @property
    def facts(self) -> dict[str, Any]:
        with self._loading:
            return self._source.facts

    def _engine(self, size: tuple[int, int]) -> Engine:
        key = None if self.network.any_size else size
        with self._loading:
            if key not in self._engines:
                self._engines[key] = self._source.engine(key)
            return self._engines[key]

    @cached_property
    def _source(self) -> "_Converted | _InTorch":
        network, pixels = self.network, self.network.pixels
        if torch.cuda.is_available():
            built, device = network.build(), gpu(torch.cuda.device_count())
            try:
                engine = compile_torch(
                    built.module, built.example_size, pixels(built.facts), precision=self.precision, device=device
                )
            except RuntimeError as error:  # of memory, or of a GPU that this torch has no kernels for
                reason = reason_of(error)
                raise Stopped(
                    f"{network.identity} cannot be put on {device} ({reason}): free its memory, give fewer --workers, "
                    "or hide the GPU with CUDA_VISIBLE_DEVICES="
                ) from None
            return _InTorch(engine, built.facts)
        quickest = [ncnn()] if network.of_convolutions and winograd.is_quicker_here() else []
        for library in [*quickest, OPENVINO]:
            file = network_file(network.identity, library)
            with exclusive(file.with_suffix(".lock")):  # workers that start together convert once
                if file.exists() or self._kept(file, library):
                    facts = json.loads(file.with_suffix(".json").read_text())
                    return _Converted(library, file, facts, pixels(facts), self.threads, self.precision, network.batch)
        built = network.build()
        return _InTorch(eager(built.module, pixels(built.facts)), built.facts)

    def _kept(self, file: Path, library: Library) -> bool:
        """Convert the network into `file`; or say that it cannot be: what one library cannot do, the next one can."""
        built = self.network.build()
        try:
            file.with_suffix(".json").write_text(json.dumps(built.facts))
            keep(built.module, built.example_size, file, library)
        except Exception as error:
            logging.getLogger("curation").warning(
                "%s cannot be converted for %s (%s): it runs in %s, slower",
                self.network.identity,
                library.name,
                type(error).__name__,
                "torch" if library is OPENVINO else OPENVINO.name,
            )
            return False
        return True


@dataclass(frozen=True)
class _Converted:
    library: Library
    file: Path
    facts: dict[str, Any]
    pixels: Pixels
    threads: int
    precision: Precision
    batch: int

    def engine(self, size: tuple[int, int] | None) -> Engine:
        if self.library is OPENVINO:
            return compile_ir(self.file, size, self.pixels, self.threads, self.precision, self.batch)
        return winograd.compile_ncnn(self.file, self.pixels, self.threads, self.precision)


@dataclass(frozen=True)
class _InTorch:
    whole: Engine
    facts: dict[str, Any]

    def engine(self, size: tuple[int, int] | None) -> Engine:
        return self.whole


def gpu(count: int) -> str:
    """torch's name of the GPU that this process works on: `$SAPIENS_GPU`, which workers set to their number."""
    number = os.environ.get("SAPIENS_GPU", "0")
    return f"cuda:{int(number) % count if number.isdecimal() else 0}"


def spread(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """`function` of every item, in order, on `threads` threads that belong to the caller's own."""
    if threads < 2 or len(items) < 2:
        return [function(item) for item in items]
    if not hasattr(_own, "helpers"):
        _own.helpers = ThreadPoolExecutor(threads)
    return list(_own.helpers.map(function, items))


def by_size(pictures: Sequence[Array]) -> dict[tuple[int, int], list[int]]:
    """(height, width) → positions of the pictures that have it, in order."""
    sizes: dict[tuple[int, int], list[int]] = {}
    for position, picture in enumerate(pictures):
        sizes.setdefault((picture.shape[0], picture.shape[1]), []).append(position)
    return sizes
