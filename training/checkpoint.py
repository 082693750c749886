"""Checkpoints that survive anything and load on any number of processes.

    ckpt/step-00001000/
      manifest.json             step, settings, every file's size and sha256, and where each tensor's rows lie
      rank-00000.safetensors    rows of tensors, one file per process that saved

A checkpoint is written beside, synced to disk and renamed when it is whole; a folder without a manifest that
verifies does not count. No pickle is involved. All processes must see the same folder.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from manifests.store import as_umask_says, fsync
from training.config import UsageError
from training.distributed import Ranks

FORMAT = 1


class DamagedCheckpoint(UsageError):
    """A checkpoint whose files are not what its manifest says."""


@dataclass(frozen=True)
class Piece:
    """Rows start … start+len of a tensor that this process holds."""

    local: Tensor
    start: int
    whole: bool


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], ranks: Ranks, keep: int
) -> Path:
    """Write `tensors` (plain or sharded) and `facts` (JSON) as the checkpoint of a step, and delete all but
    the newest `keep`.

    Raises UsageError on every process if one of them could not write, with the earlier checkpoints untouched.
    """
    final, beside = folder / f"step-{step:08d}", folder / f".tmp-step-{step:08d}"
    obstacle = ranks.from_first(_make_afresh(beside) if ranks.is_first else None)
    report = {"problem": obstacle} if obstacle else _write_own(beside, tensors, ranks)
    reports = ranks.gather(report)
    problem = next((r["problem"] for r in reports if "problem" in r), None)
    if ranks.is_first and problem is None:
        problem = _publish(beside, final, step, tensors, facts, reports)
    if problem := ranks.from_first(problem):
        if ranks.is_first:
            shutil.rmtree(beside, ignore_errors=True)
        raise UsageError(
            f"the checkpoint of step {step} could not be written to {folder} ({problem}); earlier checkpoints are "
            "unharmed: make room and start the same command again"
        )
    if ranks.is_first:
        saved = [path for path in saved_in(folder) if path.name <= final.name]  # later ones are damaged
        for old in saved[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def saved_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first. A copy under a longer name is the user's own."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of a run that verifies, None where there is none. Damaged ones are named on
    stderr and passed over.

    Raises DamagedCheckpoint when there are checkpoints and none of them verifies.
    """
    candidates = saved_in(folder)[::-1]
    for path in candidates:
        try:
            verify(path)
            return path
        except DamagedCheckpoint as error:
            print(f"WARNING: {error}; falling back to the checkpoint before it", file=sys.stderr, flush=True)
    if candidates:
        raise DamagedCheckpoint(
            f"none of the {len(candidates)} checkpoints in {folder} can be used; give another --run"
        )
    return None


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files all have the size and sha256 it states. Raises
    DamagedCheckpoint.
    """
    manifest = read_manifest(path)
    for name, expected in manifest["files"].items():
        file = path / name
        try:
            if not file.is_file() or file.stat().st_size != expected["bytes"]:
                raise DamagedCheckpoint(f"{file} is missing or not {expected['bytes']} bytes long")
            with open(file, "rb") as opened:
                digest = file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise DamagedCheckpoint(f"{file} cannot be read ({error.strerror})") from error
        if digest != expected["sha256"]:
            raise DamagedCheckpoint(f"{file} does not have the sha256 of its manifest")
    return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise UsageError(f"{path} has checkpoint format {manifest['format']}; this version reads {FORMAT}")
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path}/manifest.json cannot be read ({error!r})") from error


def load(path: Path, tensors: Mapping[str, Tensor], part: str = "") -> None:
    """Fill `tensors` in place, each process reading only the rows it holds.

    Names and shapes must agree exactly; with `part`, among the stored names that start with it.
    """
    stored = {n: entry for n, entry in read_manifest(path)["tensors"].items() if n.startswith(part)}
    compare_names(set(stored), set(tensors), str(path))
    wrong = [n for n, t in tensors.items() if list(t.shape) != stored[n]["shape"]]
    if wrong:
        name = wrong[0]
        raise UsageError(
            f"{path} is of another model: {len(wrong)} tensors differ in shape, such as {name}: "
            f"{stored[name]['shape']} there, {list(tensors[name].shape)} here"
        )
    opened = lru_cache(maxsize=None)(lambda file: safe_open(path / file, framework="pt"))
    with torch.no_grad():
        for name, tensor in tensors.items():
            own = _own_rows(tensor)
            for piece in stored[name]["pieces"]:
                _copy_overlap(opened(piece["file"]), name, piece, own)


def compare_names(there: set[str], here: set[str], what: str) -> None:
    """Raise UsageError with the names that only one side has."""
    for title, names in (("lacks", here - there), ("has, unexpectedly,", there - here)):
        if names:
            some = ", ".join(sorted(names)[:8]) + (f" … ({len(names)} in all)" if len(names) > 8 else "")
            raise UsageError(f"{what} {title} {some}; it is of another model, or partial")


def _own_rows(tensor: Tensor) -> Piece:
    if not isinstance(tensor, DTensor):
        return Piece(tensor.detach(), 0, True)
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Piece(tensor.to_local().detach(), offset[0], False)


def _copy_overlap(file: Any, name: str, stored: Mapping[str, Any], own: Piece) -> None:
    if own.local.ndim == 0:
        own.local.copy_(file.get_tensor(name))
        return
    first = max(stored["start"], own.start)
    last = min(stored["start"] + stored["rows"], own.start + own.local.shape[0])
    if first < last:
        rows = file.get_slice(name)[first - stored["start"] : last - stored["start"]]
        own.local[first - own.start : last - own.start].copy_(rows)


def _make_afresh(beside: Path) -> str | None:
    """Make the folder to write in, after deleting what processes that were killed while saving, at whatever step, left
    of theirs; returns what went wrong.
    """
    try:
        for left in beside.parent.glob(".tmp-step-*"):
            shutil.rmtree(left, ignore_errors=True)
        beside.mkdir(parents=True)
    except OSError as error:
        return str(error)
    return None


def _write_own(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Any]:
    """Write the rows that this process is to save. Whole tensors, alike on all processes, are dealt out by
    turns.
    """
    name = f"rank-{ranks.rank:05d}.safetensors"
    rows: dict[str, Tensor] = {}
    pieces: dict[str, dict[str, Any]] = {}
    for turn, (key, tensor) in enumerate(tensors.items()):
        own = _own_rows(tensor)
        mine = turn % ranks.world == ranks.rank if own.whole else own.local.numel() > 0
        if mine:
            rows[key] = own.local.cpu().contiguous()
            count = own.local.shape[0] if own.local.ndim else 1
            pieces[key] = {"file": name, "start": own.start, "rows": count}
    try:
        save_file(rows, folder / name)
        as_umask_says(folder / name)
        fsync(folder / name)
        with open(folder / name, "rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        return {"name": name, "bytes": (folder / name).stat().st_size, "sha256": digest, "pieces": pieces}
    except (OSError, SafetensorError) as error:
        return {"problem": str(error)}


def _publish(
    beside: Path,
    final: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    reports: list[dict[str, Any]],
) -> str | None:
    """Write the manifest and give the folder its name; returns what went wrong."""
    manifest = {
        "format": FORMAT,
        "step": step,
        **facts,
        "files": {r["name"]: {"bytes": r["bytes"], "sha256": r["sha256"]} for r in reports},
        "tensors": {
            name: {
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "pieces": [r["pieces"][name] for r in reports if name in r["pieces"]],
            }
            for name, tensor in tensors.items()
        },
    }
    try:
        (beside / "manifest.json").write_text(json.dumps(manifest, indent=1))
        fsync(beside / "manifest.json")
        fsync(beside)
        if final.exists():  # a damaged one of the same step
            shutil.rmtree(final)
        os.replace(beside, final)
        fsync(final.parent)
    except OSError as error:
        return str(error)
    return None
