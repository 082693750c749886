"""Work around the networks is shared out to helpers of the thread that asks."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from curation import winograd
from curation.engines import Pixels, eager
from curation.errors import Stopped
from curation.full.network import Built, Network, Runner, spread


def test_a_gpu_that_cannot_take_a_network_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no image's fault: every one would fail, and the run end well."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("curation.full.network.compile_torch", full)
    small = Network("net@1", lambda: Built(torch.nn.Conv2d(3, 1, 1), (8, 8), {}), lambda facts: Pixels(), any_size=True)
    runner = Runner(small)
    with pytest.raises(Stopped, match=r"net@1 cannot be put on cuda:0 \(CUDA out of memory"):
        runner([np.zeros((8, 8, 3), np.uint8)])


def test_what_ncnn_cannot_run_openvino_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("ncnn")

    def refuse(*_: object) -> None:
        raise RuntimeError("ncnn cannot load it")

    monkeypatch.setenv("SAPIENS_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(winograd, "is_quicker_here", lambda: True)
    monkeypatch.setattr(winograd, "convert", refuse)
    torch.manual_seed(0)
    module = torch.nn.Conv2d(3, 1, 3)
    network = Network("n@1", lambda: Built(module, (8, 8), {}), lambda _: Pixels(), any_size=True, of_convolutions=True)
    picture = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    ((found,),) = Runner(network, precision="fp32")([picture])
    np.testing.assert_allclose(found, eager(module, Pixels())(picture[None])[0][0], atol=1e-5)
    assert caplog.messages == ["n@1 cannot be converted for ncnn (RuntimeError): it runs in OpenVINO, slower"]


def test_answers_stay_in_order_and_helpers_end_with_the_thread_that_asked() -> None:
    helpers: set[threading.Thread] = set()
    answers: list[int] = []

    def twice(number: int) -> int:
        helpers.add(threading.current_thread())
        time.sleep(0.1 if number == 0 else 0.01)  # the first is done last
        return 2 * number

    caller = threading.Thread(target=lambda: answers.extend(spread(twice, range(8), 3)))
    caller.start()
    caller.join()
    assert answers == list(range(0, 16, 2))
    assert 1 < len(helpers) <= 3
    assert caller not in helpers
    for helper in helpers:
        helper.join(10)
    assert not any(helper.is_alive() for helper in helpers)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_exception_reaches_the_caller(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        spread(lambda number: 1 // number, [1, 0, 1], threads)
    assert spread(lambda number: 1 // number, [1, 1], threads) == [1, 1]
