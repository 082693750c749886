"""Run a network on this machine: OpenVINO on a CPU, torch on a CUDA device, eager torch as the reference for both.

An engine takes a batch of pixels, uint8 [B,H,W,3] (or float32 [B,3,H,W] where the network was compiled so), and
returns a tuple of float32 arrays, one per output. Scaling to the network's units happens on the device. On
a CPU every picture is one request of batch 1, with as many requests in flight as there are threads: the answers then do
not depend on the batch a picture came in, and nothing is compiled twice. Graphs compiled for one size are kept in
`$SAPIENS_CACHE` (default `~/.cache/sapiens`); those for pictures of all sizes compile in a moment.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor
from torch import nn

from manifests.lock import exclusive
from shards.cache import cache_home

Precision = Literal["auto", "fp32"]
Array = NDArray[Any]
tracing = threading.Lock()
"""Whoever traces changes what belongs to the process: torch's names of modules and Python's filters of warnings."""


@dataclass(frozen=True)
class Pixels:
    """How uint8 RGB becomes what a network was trained on: (value - mean) / scale per channel, then RGB or BGR."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (255.0, 255.0, 255.0)
    bgr: bool = False


@dataclass(frozen=True)
class Engine:
    """A compiled network. `where` and `precision` say what it runs on: ("cpu", "bf16"), ("cuda:0", "bf16"), …

    Threads may share one; it works on one batch at a time.
    """

    run: Callable[[Array], tuple[Array, ...]]
    where: str
    precision: str
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self, batch: Array) -> tuple[Array, ...]:
        with self._turn:
            return self.run(batch)


def compile_onnx(
    path: Path,
    input_size: tuple[int, int],
    extra_outputs: Sequence[str] = (),
    pixels: Pixels | None = None,
    threads: int = 1,
    precision: Precision = "auto",
) -> Engine:
    """Compile an ONNX file for pictures of `input_size` (height, width) on the CPU.

    The outputs are the file's own, then the tensors named in `extra_outputs`. With `pixels` None the engine takes
    float32 [B,3,H,W] that is already in the network's units.
    """
    model = ov.Core().read_model(path)
    for name in extra_outputs:
        model.add_outputs(name)
    return _openvino(model, input_size, pixels, threads, precision)


def compile_torch(
    module: nn.Module,
    input_size: tuple[int, int],
    pixels: Pixels | None = None,
    threads: int = 1,
    precision: Precision = "auto",
    device: str = "cpu",
) -> Engine:
    """Compile a torch module that maps float32 [B,3,H,W] to a tensor or a tuple of tensors."""
    module = module.eval()
    if device != "cpu":
        return _torch(module, input_size, pixels, device, precision)
    example = torch.zeros(1, 3, *input_size)
    with tracing, torch.no_grad():
        model = ov.convert_model(module, example_input=example)
    return _openvino(model, input_size, pixels, threads, precision)


def convert(module: nn.Module, example_size: tuple[int, int], file: Path) -> None:
    """Write a torch module as OpenVINO IR (`file` ends in .xml; its weights, fp32, lie beside it in .bin).

    The module maps float32 [B,3,H,W] to a tensor or a tuple of tensors; `example_size` is a (height, width) it accepts.
    """
    example = torch.zeros(1, 3, *example_size)
    with tracing, torch.no_grad():
        module(example)  # modules that remember the last size would otherwise differ between the two traces
        model = ov.convert_model(module, example_input=example)
    ov.save_model(model, file, compress_to_fp16=False)


def compile_ir(
    file: Path,
    input_size: tuple[int, int] | None,
    pixels: Pixels | None = None,
    threads: int = 1,
    precision: Precision = "auto",
    batch: int = 1,
) -> Engine:
    """Compile what `convert` wrote for pictures of `input_size` (height, width) on the CPU, `batch` per request.

    None: of any size. That holds the weights once, and its answers are bit for bit those of one for the size.
    """
    return _openvino(ov.Core().read_model(file), input_size, pixels, threads, precision, batch, from_file=True)


def eager(module: nn.Module, pixels: Pixels | None = None) -> Engine:
    """The reference: the module as it is, fp32, on the CPU."""
    return Engine(_torch_call(_whole(module, pixels), "cpu"), "cpu", "fp32")


def weights_identity(name: str, *files: Path, version: int = 1) -> str:
    """`name@<12 hex>` over the files' bytes and the version of what is done before and after the network."""
    digest = hashlib.sha256(f"{version}".encode())
    for file in files:
        digest.update(file.read_bytes())
    return f"{name}@{digest.hexdigest()[:12]}"


def cache_folder() -> Path:
    """Where compiled networks are kept: `$SAPIENS_CACHE`, else `~/.cache/sapiens`."""
    folder = cache_home()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _openvino(
    model: ov.Model,
    size: tuple[int, int] | None,
    pixels: Pixels | None,
    threads: int,
    precision: Precision,
    batch: int = 1,
    from_file: bool = False,
) -> Engine:
    model.reshape([batch, 3, *(size or (-1, -1))])
    if pixels is not None:
        model = _fold_pixels(model, pixels)
    core = ov.Core()
    bf16 = precision == "auto" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        "ENABLE_CPU_PINNING": False,  # every process would pin its first thread to the machine's first core
        "CACHE_DIR": str(cache_folder() / "openvino"),
    }
    if from_file:
        settings["CACHE_MODE"] = (
            "OPTIMIZE_SIZE"  # the weights stay in the file; an entry is some kB instead of a copy of them
        )
    with exclusive(cache_folder() / "openvino.lock"):  # or workers that start together read what is half written
        compiled = core.compile_model(model, "CPU", settings)
    requests = [compiled.create_infer_request() for _ in range(threads)]

    def run(pictures: Array) -> tuple[Array, ...]:
        firsts = range(0, len(pictures), batch)
        answers = _answers(requests[0], len(firsts) * batch) if size else []
        for start in range(0, len(firsts), threads):
            busy = []
            for request, first in zip(requests, firsts[start : start + threads], strict=False):
                portion = np.ascontiguousarray(_filled(pictures[first : first + batch], batch))
                request.set_input_tensor(ov.Tensor(portion, shared_memory=True))
                if size:
                    for number, answer in enumerate(answers):
                        request.set_output_tensor(number, ov.Tensor(answer[first : first + batch], shared_memory=True))
                request.start_async()
                busy.append((request, first, portion))  # which the network reads where it lies
            for request, first, _ in busy:
                request.wait()
                if not size:  # how large an answer is, is known by now
                    answers = answers or _answers(request, len(firsts) * batch)
                    for answer, tensor in zip(answers, request.output_tensors, strict=True):
                        answer[first : first + batch] = tensor.data
        return tuple(answer[: len(pictures)] for answer in answers)

    return Engine(run, "cpu", "bf16" if bf16 else "fp32")


def _answers(request: ov.InferRequest, count: int) -> list[Array]:
    """Room for `count` answers of the shapes that a request's have."""
    return [np.empty((count, *tensor.shape[1:]), np.float32) for tensor in request.output_tensors]


def _filled(pictures: Array, batch: int) -> Array:
    """The last portion of a batch, brought to the compiled size by repeating its last picture."""
    missing = batch - len(pictures)
    return pictures if missing == 0 else np.concatenate([pictures, pictures[-1:].repeat(missing, 0)])


def _fold_pixels(model: ov.Model, pixels: Pixels) -> ov.Model:
    prepared = PrePostProcessor(model)
    entry = prepared.input()
    entry.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    entry.tensor().set_color_format(ov.preprocess.ColorFormat.RGB)
    entry.model().set_layout(ov.Layout("NCHW"))
    steps = entry.preprocess().convert_element_type(ov.Type.f32)
    steps.mean(list(pixels.mean)).scale(list(pixels.scale))
    if pixels.bgr:
        steps.convert_color(ov.preprocess.ColorFormat.BGR)
    return prepared.build()


def _torch(
    module: nn.Module, size: tuple[int, int], pixels: Pixels | None, device: str, precision: Precision
) -> Engine:
    dtype = torch.bfloat16 if precision == "auto" else torch.float32
    whole = _whole(module, pixels).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    shape = (2, 3, *size) if pixels is None else (2, *size, 3)
    example = torch.zeros(shape, dtype=torch.float32 if pixels is None else torch.uint8, device=device)
    call = halved_on_oom(_torch_call(traced_if_possible(whole, example, dtype), device))
    return Engine(call, device, "bf16" if dtype is torch.bfloat16 else "fp32")


def traced_if_possible(module: nn.Module, example: torch.Tensor, dtype: torch.dtype) -> Callable[[torch.Tensor], Any]:
    """`module` as one TorchScript graph for batches and pictures of all sizes, run without Python and so without its
    lock; or, said once, as it is where torch cannot trace it.

    Tracing takes seconds. torch.compile takes minutes for sizes that vary and then fails at YOLO11.
    """

    def lowered(cached: bool = True) -> torch.autocast:
        return torch.autocast(example.device.type, dtype, dtype is torch.bfloat16, cached)

    def as_it_is(x: torch.Tensor) -> Any:
        with lowered():
            return module(x)

    def run(x: torch.Tensor) -> Any:
        try:
            with torch.jit.optimized_execution(False):  # or the first calls of every size compile kernels
                return traced(x)
        except RuntimeError as error:
            if _is_of_memory(error):
                raise torch.OutOfMemoryError(str(error)) from None
            raise

    try:
        with tracing, warnings.catch_warnings(), torch.no_grad(), lowered(cached=False):
            warnings.simplefilter("ignore")  # of sizes that are constants in the trace: those of fixed layers
            traced = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))
        with torch.no_grad():
            run(example[:1])  # fails where the batch's size is a constant as well
    except Exception as error:
        name, log = type(module).__name__, logging.getLogger("curation")
        if _is_of_memory(error):
            log.warning(
                "the memory of %s was full when %s was traced: it runs in eager torch, slower; free memory or give "
                "fewer --workers, and run it again",
                example.device,
                name,
            )
        else:
            log.warning("%s cannot be traced (%s): it runs in eager torch", name, type(error).__name__)
        return as_it_is
    return run


def _is_of_memory(error: Exception) -> bool:
    """Whether a device's memory was full; TorchScript keeps of an exception the text alone."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def halved_on_oom(call: Callable[[Array], tuple[Array, ...]]) -> Callable[[Array], tuple[Array, ...]]:
    """`call` in portions: where the device's memory does not hold one, half as many pictures, from then on.

    Raises torch.OutOfMemoryError where not even one picture fits.
    """
    largest = 1 << 30

    def run(pictures: Array) -> tuple[Array, ...]:
        nonlocal largest
        rows: list[tuple[Array, ...]] = []
        first = 0
        while first < len(pictures):
            portion = pictures[first : first + largest]
            try:
                rows.append(call(portion))
                first += len(portion)
                continue
            except torch.OutOfMemoryError:
                if len(portion) == 1:
                    raise
            largest = len(portion) // 2
            torch.cuda.empty_cache()  # here, where the exception no longer holds the tensors
        return tuple(np.concatenate(column) for column in zip(*rows, strict=True))

    return run


class _FromPixels(nn.Module):
    """uint8 [B,H,W,3] → what `module` gives for them in its units."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, module: nn.Module, pixels: Pixels) -> None:
        super().__init__()
        self.module, self.bgr = module, pixels.bgr
        self.register_buffer("mean", torch.tensor(pixels.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(pixels.scale).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> Any:
        x = (x.permute(0, 3, 1, 2).float() - self.mean) / self.scale  # channels last in memory, as the weights
        return self.module(x.flip(1) if self.bgr else x)


def _whole(module: nn.Module, pixels: Pixels | None) -> nn.Module:
    return (module if pixels is None else _FromPixels(module, pixels)).eval()


def _torch_call(call: Callable[[torch.Tensor], Any], device: str) -> Callable[[Array], tuple[Array, ...]]:
    on = torch.device(device)

    @torch.inference_mode()
    def run(batch: Array) -> tuple[Array, ...]:
        x = torch.from_numpy(np.ascontiguousarray(batch))
        if on.type == "cuda":  # from pinned memory the copy does not wait for what the device is doing
            x = x.pin_memory().to(on, non_blocking=True)
        out = call(x)
        outputs = [o.to("cpu", non_blocking=True) for o in (out if isinstance(out, tuple | list) else (out,))]
        if on.type == "cuda":  # these lie in pinned memory too, once what was queued so far is done
            done = torch.cuda.Event(blocking=True)
            done.record(torch.cuda.current_stream(on))
            done.synchronize()
        return tuple(o.float().numpy() for o in outputs)

    return run
