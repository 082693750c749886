"""A training that can be stopped at any time: its step, networks and optimizer in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

Parts = Mapping[str, nn.Module | torch.optim.Optimizer]


def save(path: Path, step: int, parts: Parts, **facts: str) -> None:
    """Write the state of all parts; the file is there whole or not at all."""
    state = {"step": step, **facts, **{name: part.state_dict() for name, part in parts.items()}}
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def resume(path: Path, parts: Parts, steps: int, **facts: str) -> int:
    """Fill all parts from the file and return its step. Ends the process where it is beyond `steps`, or where a fact is
    another than it was."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    for name, fact in facts.items():
        if state[name] != fact:
            raise SystemExit(f"{path} is of another {name} ({state[name]}, now {fact}): remove it to begin anew")
    if state["step"] > steps:
        raise SystemExit(f"{path} is at step {state['step']} already: give --steps {state['step']} or more")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    print(f"from step {state['step']}", flush=True)
    return int(state["step"])
