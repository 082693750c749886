"""Arrays kept between runs of a training."""

import os
from pathlib import Path
from typing import Any

import numpy as np


def write_arrays(path: Path, **arrays: Any) -> None:
    """An .npz that is there whole or not at all."""
    with path.with_suffix(".part").open("wb") as handle:
        np.savez(handle, **arrays)
    os.replace(path.with_suffix(".part"), path)
