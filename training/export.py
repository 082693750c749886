"""A fine-tuned model as a file that runs without this project: an ONNX graph, or a `torch.export` archive.

Both take uint8 RGB images (B, rows, columns, 3) of the model's size, for any B, and answer with the float32 output of
the task's decoder: normalisation is inside. Every file is read back and run before it gets its name.
"""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from manifests.store import fsync
from training.config import UsageError
from training.models.task import LoadedTask, load_task

SUFFIXES = {".onnx": "ONNX", ".pt2": "torch.export archive"}
INPUT, OUTPUT = "images", "output"
OPSET = 18

LARGEST_ONNX = 1_900_000_000
"""Bytes of weights that fit into one .onnx file, which as a protocol buffer ends at 2 GiB."""

TOLERANCE = 1e-3
"""Largest difference from the model, relative to the largest absolute output, that an export may show; float32 sums in
another order stay near 1e-5."""

_BATCHES = (1, 3)
"""Batch sizes that are checked; neither is the one that was traced."""


@dataclass(frozen=True)
class Exported:
    """A written file. difference: the largest from the model's own output, relative to its largest absolute value."""

    path: Path
    kind: str
    task: str
    size: tuple[int, int]
    difference: float
    checked_with: str
    bytes: int


def export(checkpoint: str, out: Path) -> Exported:
    """Write a fine-tuned model to `out` (.onnx or .pt2) and check it against the model on random images.

    Raises UsageError where the name is none of these, packages are missing, or the file's answers differ.
    """
    if out.suffix not in SUFFIXES:
        raise UsageError(f"the output is '{out}'; give a name that ends in .onnx or .pt2 (torch.export)")
    if out.suffix == ".onnx":
        require_onnx()
    loaded = load_task(checkpoint)
    program = trace(loaded)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
        beside = Path(folder) / out.name
        if out.suffix == ".onnx":
            write_onnx(program, loaded, beside)
            run, name = open_onnx(beside), "OpenVINO"
        else:
            write_archive(program, loaded, beside)
            run, name = open_archive(beside), "torch"
        difference = compare(loaded, run)
        if not difference <= TOLERANCE:
            raise UsageError(
                f"the {SUFFIXES[out.suffix]} of {checkpoint} differs from the model by {difference:.1e} of its largest "
                f"output, more than {TOLERANCE:g}, so it was not kept; please report this with the versions of torch "
                "and onnxscript"
            )
        for file in sorted(Path(folder).iterdir(), reverse=True):  # weights beside an .onnx come before it
            fsync(file)
            os.replace(file, out.parent / file.name)
    return Exported(out, SUFFIXES[out.suffix], loaded.task, loaded.size, difference, name, out.stat().st_size)


def trace(loaded: LoadedTask) -> ExportedProgram:
    """The model as a graph over uint8 images (B, rows, columns, 3) with B left open."""
    example = torch.zeros(2, *loaded.size, 3, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(loaded.model.eval(), (example,), dynamic_shapes=({0: Dim("batch", min=1)},))


def write_onnx(program: ExportedProgram, loaded: LoadedTask, path: Path) -> None:
    """One .onnx file; task, size and labels are in its metadata. Weights over 2 GB, the limit of the format, lie beside
    it in .onnx.data.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about itself
        made = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: "batch"},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    made.model.metadata_props.update(facts(loaded))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    made.save(path, external_data=weights > LARGEST_ONNX)


def write_archive(program: ExportedProgram, loaded: LoadedTask, path: Path) -> None:
    """A .pt2 archive for `torch.export.load`; task, size and labels are in its extra file `model.json`."""
    torch.export.save(program, path, extra_files={"model.json": json.dumps(facts(loaded))})


def facts(loaded: LoadedTask) -> dict[str, str]:
    """What a user of the file must know, as text."""
    return {
        "task": loaded.task,
        "input": f"uint8 RGB (batch, {loaded.size[0]}, {loaded.size[1]}, 3)",
        "labels": json.dumps(loaded.labels),
    }


def open_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Run an ONNX file with OpenVINO on the CPU, in float32."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # else it tells Google of its import
    import openvino as ov

    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.array(compiled(images)[0])


def open_archive(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Run a `torch.export` archive."""
    module = torch.export.load(path).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            output: Tensor = module(torch.from_numpy(images))
        return output.numpy()

    return run


def compare(loaded: LoadedTask, run: Callable[[np.ndarray], np.ndarray]) -> float:
    """Largest difference of an exported file's answers from the model's, over batches of random images, relative to the
    model's largest absolute answer; infinite where shapes or finiteness differ.
    """
    generator = np.random.default_rng(0)
    worst = 0.0
    for batch in _BATCHES:
        images = generator.integers(0, 256, (batch, *loaded.size, 3), dtype=np.uint8)
        with torch.no_grad():
            expected = loaded.model(torch.from_numpy(images)).numpy()
        answer = run(images)
        if answer.shape != expected.shape or not np.isfinite(answer).all():
            return float("inf")
        worst = max(worst, float(np.abs(answer - expected).max() / np.abs(expected).max()))
    return worst


def require_onnx() -> None:
    """Raises UsageError with what to install where writing ONNX is not possible."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise UsageError(
            f"writing ONNX needs {' and '.join(missing)}, which are not installed; "
            "pip install 'sapiens-curation[export]', or give a name that ends in .pt2"
        )
