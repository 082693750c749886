"""Type checkers of programs that import these packages use their types."""

from importlib.resources import files

import pytest


@pytest.mark.parametrize("package", ["curation", "manifests", "shards", "training"])
def test_a_package_says_that_it_is_typed(package: str) -> None:
    assert (files(package) / "py.typed").is_file()
