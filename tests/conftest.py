"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

# What is compared is text: typer and rich colour it where these ask for it, and typer reads them when it is imported.
for _name in ("FORCE_COLOR", "PY_COLORS"):
    os.environ.pop(_name, None)
os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real photos and labels, for tests marked `real_data`; skips where it is absent."""
    folder = Path(os.environ.get("SAPIENS_SHARED", REPO.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no photo collection at {folder}")
    return folder
