"""Workers share the GPUs of a machine; what runs on them needs one."""

import pytest

from curation.full.network import gpu


@pytest.mark.parametrize(
    ("worker", "count", "device"), [("0", 4, "cuda:0"), ("5", 4, "cuda:1"), ("tcp://far:1", 4, "cuda:0")]
)
def test_each_worker_takes_the_gpu_of_its_number(
    monkeypatch: pytest.MonkeyPatch, worker: str, count: int, device: str
) -> None:
    monkeypatch.setenv("SAPIENS_GPU", worker)
    assert gpu(count) == device
