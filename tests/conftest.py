"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real photos and labels, for tests marked `real_data`; skips where it is absent."""
    folder = Path(os.environ.get("SAPIENS_SHARED", REPO.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no photo collection at {folder}")
    return folder
