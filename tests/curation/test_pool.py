"""Local workers and what they are started with."""

from os.path import expandvars

import pytest

from curation.pool import open_pool

VARIABLE = "MALLOC_TRIM_THRESHOLD_"


def seen_by_a_worker() -> str:
    with open_pool(1, None) as pool:
        (outcome,) = pool.map(expandvars, [f"${VARIABLE}"])
        return outcome.result()


def test_workers_keep_the_memory_that_a_batch_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert seen_by_a_worker() == f"${VARIABLE}", "Dask's own setting, which costs thousands of page faults a photo"
    monkeypatch.setenv(VARIABLE, "1000000")
    assert seen_by_a_worker() == "1000000", "what the user asks for"
