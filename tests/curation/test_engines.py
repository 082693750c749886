"""The engine seam against eager torch, on a small network and on the wheels' files."""

import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from curation.builtin.wheels import nudenet_file
from curation.engines import (
    Pixels,
    cache_folder,
    compile_ir,
    compile_onnx,
    compile_torch,
    convert,
    eager,
    halved_on_oom,
    traced_if_possible,
    weights_identity,
)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 8, 3, 2, 1)
        self.b = nn.Conv2d(8, 4, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.a(x))
        return self.b(y), y.mean((2, 3))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAPIENS_CACHE", str(tmp_path))


def pictures(n: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("bgr", [False, True])
def test_fp32_engine_equals_eager_torch_with_pixels_folded_in(bgr: bool) -> None:
    pixels = Pixels((10.0, 20.0, 30.0), (50.0, 60.0, 70.0), bgr)
    batch = pictures(3)
    ours = compile_torch(Small(), (32, 48), pixels, precision="fp32")(batch)
    reference = eager(Small(), pixels)(batch)
    assert [a.shape for a in ours] == [a.shape for a in reference]
    for a, b in zip(ours, reference, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_engines_own_precision_stays_close_to_eager() -> None:
    batch = pictures(2)
    ours, reference = compile_torch(Small(), (32, 48), Pixels())(batch)[0], eager(Small(), Pixels())(batch)[0]
    assert np.abs(ours - reference).max() < 0.02 * max(1.0, np.abs(reference).max())


def test_answers_do_not_depend_on_the_batch_or_the_threads() -> None:
    batch = pictures(5)
    one = compile_torch(Small(), (32, 48), Pixels(), threads=1)
    two = compile_torch(Small(), (32, 48), Pixels(), threads=2)
    alone = np.concatenate([one(batch[i : i + 1])[0] for i in range(5)])
    np.testing.assert_array_equal(alone, one(batch)[0])
    np.testing.assert_array_equal(alone, two(batch)[0])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_engine_for_all_sizes_answers_as_one_for_each(tmp_path: Path, batch: int, threads: int) -> None:
    """In whatever order the sizes come."""
    convert(Small(), (32, 48), tmp_path / "small.xml")
    of_any = compile_ir(tmp_path / "small.xml", None, Pixels(), threads, batch=batch)
    for size in ((32, 48), (64, 40), (16, 16), (32, 48)):
        of_one = compile_ir(tmp_path / "small.xml", size, Pixels(), threads, batch=batch)
        for ours, reference in zip(of_any(pictures(5, *size)), of_one(pictures(5, *size)), strict=True):
            assert len(ours) == 5
            np.testing.assert_array_equal(ours, reference)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's own list of threads")
def test_no_thread_is_tied_to_one_core() -> None:
    """Several workers would otherwise all sit on the machine's first core."""
    allowed = os.sched_getaffinity(0)
    engine = compile_torch(Small(), (32, 48), Pixels())
    engine(pictures(2))
    assert all(os.sched_getaffinity(int(thread.name)) == allowed for thread in Path("/proc/self/task").iterdir())


def test_onnx_outputs_come_first_and_the_named_ones_after() -> None:
    engine = compile_onnx(nudenet_file(), (64, 96), ("/model.9/cv2/act/Mul_output_0",), Pixels())
    boxes, features = engine(pictures(2, 64, 96))
    assert boxes.shape == (2, 22, 8 * 12 + 4 * 6 + 2 * 3)
    assert features.shape == (2, 256, 2, 3)


def test_a_second_compilation_finds_the_first_in_the_cache() -> None:
    before = compile_torch(Small(), (32, 48), Pixels())
    blobs = sorted((cache_folder() / "openvino").glob("*.blob"))
    after = compile_torch(Small(), (32, 48), Pixels())
    assert blobs
    assert sorted((cache_folder() / "openvino").glob("*.blob")) == blobs
    np.testing.assert_array_equal(before(pictures(1))[0], after(pictures(1))[0])


def test_a_damaged_cache_entry_is_no_obstacle() -> None:
    good = compile_torch(Small(), (32, 48), Pixels())(pictures(1))[0]
    for blob in (cache_folder() / "openvino").glob("*.blob"):
        blob.chmod(0o600)
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    np.testing.assert_array_equal(compile_torch(Small(), (32, 48), Pixels())(pictures(1))[0], good)


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered() -> None:
    sizes: list[int] = []

    def device(batch: np.ndarray) -> tuple[np.ndarray, ...]:
        """A device whose memory holds three pictures."""
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch.mean((1, 2, 3)), batch[:, 0, 0]

    batch = pictures(13)
    run = halved_on_oom(device)
    for first, second in (run(batch), run(batch)):
        np.testing.assert_array_equal(first, batch.mean((1, 2, 3)))
        np.testing.assert_array_equal(second, batch[:, 0, 0])
    assert sizes == [13, 6, 3, 3, 3, 3, 1, 3, 3, 3, 3, 1]


def test_a_picture_that_does_not_fit_alone_is_an_error() -> None:
    def full(batch: np.ndarray) -> tuple[np.ndarray, ...]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        halved_on_oom(full)(pictures(4))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.0)])
def test_one_trace_serves_all_sizes_and_batches(dtype: torch.dtype, tolerance: float) -> None:
    net = Small().eval()
    run = traced_if_possible(net, torch.zeros(2, 3, 32, 48), dtype)
    for shape in ((1, 3, 32, 48), (5, 3, 64, 32), (3, 3, 96, 96)):
        x = torch.rand(shape)
        with torch.autocast("cpu", dtype, dtype is torch.bfloat16):
            wanted = net(x)
        torch.testing.assert_close(run(x), wanted, atol=tolerance, rtol=0)


def test_threads_that_trace_at_once_leave_the_process_as_it_was() -> None:
    """Python's filters of warnings, and in torch no network that would stay in memory."""

    class Slow(Small):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            time.sleep(0.3)
            return super().forward(x)

    def trace(number: int) -> None:
        time.sleep(0.1 * number)  # the first to begin is the first to end
        traced_if_possible(Slow().eval(), torch.zeros(2, 3, 32, 48), torch.float32)

    filters = list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(trace, range(2)))
    assert warnings.filters == filters
    assert torch.jit._trace._trace_module_map is None


def test_memory_that_ends_within_a_trace_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(x: torch.Tensor) -> None:
        if len(x) > 1:
            raise RuntimeError("The following operation failed in the TorchScript interpreter. … CUDA out of memory. …")

    monkeypatch.setattr(torch.jit, "freeze", lambda traced: full)
    with pytest.raises(torch.OutOfMemoryError):
        traced_if_possible(Small().eval(), torch.zeros(2, 3, 32, 48), torch.float32)(torch.zeros(2, 3, 32, 48))


def test_what_a_trace_would_bind_to_one_size_of_batch_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Bound(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)).view(len(x), -1)

    run, x = traced_if_possible(Bound().eval(), torch.zeros(2, 3, 32, 48), torch.float32), torch.rand(3, 3, 32, 48)
    assert torch.equal(run(x), x.mean((2, 3)))
    assert "Bound cannot be traced" in caplog.text


def test_what_cannot_be_traced_runs_as_it_is_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_trace(*args: object, **settings: object) -> None:
        raise RuntimeError("no tracer")

    monkeypatch.setattr(torch.jit, "trace", no_trace)
    net, x = Small().eval(), torch.rand(2, 3, 32, 48)
    run = traced_if_possible(net, x, torch.float32)
    for _ in range(2):
        assert torch.equal(run(x)[0], net(x)[0])
    assert [record.message for record in caplog.records] == [
        "Small cannot be traced (RuntimeError): it runs in eager torch"
    ]


def test_memory_that_ends_while_a_network_is_traced_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object, **settings: object) -> None:
        raise torch.cuda.OutOfMemoryError("Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.jit, "trace", full)
    net, x = Small().eval(), torch.rand(2, 3, 32, 48)
    assert torch.equal(traced_if_possible(net, x, torch.float32)(x)[0], net(x)[0])
    assert [record.message for record in caplog.records] == [
        "the memory of cpu was full when Small was traced: it runs in eager torch, slower; free memory or give fewer "
        "--workers, and run it again"
    ]


def test_threads_may_share_an_engine() -> None:
    engine, batch = compile_torch(Small(), (32, 48), Pixels(), threads=2), pictures(12)
    wanted = engine(batch)[0]
    with ThreadPoolExecutor(4) as pool:
        for found, _ in pool.map(engine, [batch] * 16):
            np.testing.assert_array_equal(found, wanted)


def test_identity_follows_bytes_and_version(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = weights_identity("people", file)
    assert first.startswith("people@")
    assert len(first) == len("people@") + 12
    assert weights_identity("people", file, version=2) != first
    file.write_bytes(b"two")
    assert weights_identity("people", file) != first


def test_openvino_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    """Its telemetry counts uses in ~/intel before it sends them."""
    script = "import torch; from curation.engines import compile_torch; compile_torch(torch.nn.Conv2d(3, 4, 3), (8, 8))"
    subprocess.run([sys.executable, "-c", script], env=os.environ | {"HOME": str(tmp_path), "CI": ""}, check=True)
    assert not (tmp_path / "intel").exists()
