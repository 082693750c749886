"""Two processes over gloo: the same samples as one, the same losses to rounding, checkpoints that load on either."""

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from tests.training.test_pretrain import metrics, tensors
from training.config import RunConfig, save_config
from training.distributed import Ranks, compiles, forget_gradients, gradients_synced, multiplies_bf16, spread
from training.models.mae import MAE, Decoder
from training.models.vit import ViT
from training.pretrain import pretrain


def torchrun(
    config: RunConfig, folder: Path, *flags: str, processes: int = 2, command_name: str = "pretrain"
) -> subprocess.CompletedProcess[str]:
    save_config(config, folder / "config.yaml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
        *("--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "training.cli", "--"),
        *(command_name, "--config", str(folder / "config.yaml"), *flags),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def same_but_for_rounding(a: Path, b: Path) -> None:
    ours, theirs = metrics(a), metrics(b)
    assert [m["samples"] for m in ours] == [m["samples"] for m in theirs]
    assert [m["loss"] for m in ours] == pytest.approx([m["loss"] for m in theirs], rel=1e-4)
    assert [m["grad_norm"] for m in ours] == pytest.approx([m["grad_norm"] for m in theirs], rel=1e-3)
    one, other = tensors(a, 6), tensors(b, 6)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=2e-3, rtol=1e-2, msg=name)


@pytest.mark.parametrize(
    ("parallel", "back"),
    [
        ("ddp", False),
        pytest.param("ddp", True, marks=pytest.mark.slow),
        pytest.param("fsdp", True, marks=pytest.mark.slow),
    ],
)
def test_two_processes_then_one_then_two(config, tmp_path, parallel, back):
    """Steps 1-2 on two, 3-4 on one, 5-6 on two or (not back) one; beside six steps on one."""
    common = {"precision": "fp32", "ema": 0.9, "base_lr": 0.003}
    assert pretrain(config(run=str(tmp_path / "straight"), **common)) == 0
    moved = {**common, "parallel": parallel, "workers": 1, "activation_checkpointing": parallel == "fsdp"}
    run = tmp_path / "run"
    first = torchrun(config(**moved), tmp_path, "--run", str(run))  # a flag that torchrun must not take for its own
    assert first.returncode == 0, first.stderr
    keep_until(run, 2)
    assert len(list((run / "ckpt/step-00000002").glob("rank-*.safetensors"))) == 2

    assert pretrain(config(**common)) == 0
    if back:
        keep_until(run, 4)
        assert len(list((run / "ckpt/step-00000004").glob("rank-*.safetensors"))) == 1
        second = torchrun(config(**moved), tmp_path)
        assert second.returncode == 0, second.stderr
        assert "resuming from" in second.stdout
    same_but_for_rounding(tmp_path / "straight", run)


def keep_until(run: Path, step: int) -> None:
    """Throw away what was saved after a step, as a crash would have."""
    for path in (run / "ckpt").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


def _blocks_see(rendezvous: Path, sharded: bool, answer: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    torch.manual_seed(0)
    mae = MAE(ViT(64, 4, 4, (4, 4)), Decoder(64, 32, 2, 4, (4, 4)))
    blocks, seen = [mae.encoder.blocks, mae.decoder.blocks], []
    ranks = Ranks(0, 2, 0, torch.device("cpu"))  # two, or nothing would be sharded; the group has one
    model = spread(mae, blocks, ranks, sharded=sharded, compiled=False, recompute=False, bf16=True)
    for group in blocks:
        for block in group:
            block.register_forward_hook(lambda _, given, out: seen.extend([given[0].dtype, out.dtype]))
    images = torch.randint(0, 255, (2, 64, 64, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        loss = float(model(images, torch.tensor([5, 6])))
    answer.put((loss, set(map(str, seen))))


def _held_between_passes(rank: int, rendezvous: Path, sharded: bool, answer: Any) -> None:
    """After each of three passes, with gradients exchanged in the last, in three steps: how many weights have whole
    gradients under FSDP, where the gradients lie under DDP.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.manual_seed(0)
    mae = MAE(ViT(64, 4, 4, (4, 4)), Decoder(64, 32, 2, 4, (4, 4)))
    ranks = Ranks(rank, 2, rank, torch.device("cpu"))
    blocks = [mae.encoder.blocks, mae.decoder.blocks]
    model = spread(mae, blocks, ranks, sharded=sharded, compiled=False, recompute=False, bf16=False)
    images = torch.randint(0, 255, (2, 64, 64, 3), generator=torch.Generator().manual_seed(rank), dtype=torch.uint8)
    held = []
    for _ in range(3):
        for number in range(3):
            with gradients_synced(model, now=number == 2):
                model(images, torch.tensor([5, 6])).backward()
            held.append(sum(map(_whole_gradients, model.modules())) if sharded else _storages(model))
        forget_gradients(model)
    if rank == 0:
        answer.put(held)
    torch.distributed.barrier()


def _whole_gradients(module: torch.nn.Module) -> int:
    if not isinstance(module, FSDPModule):
        return 0
    weights = module._get_fsdp_state()._fsdp_param_group.fsdp_params
    return sum(w.unsharded_accumulated_grad is not None or w._unsharded_param.grad is not None for w in weights)


def _storages(model: torch.nn.Module) -> set[int]:
    return {p.grad.untyped_storage().data_ptr() for p in model.parameters() if p.grad is not None}


@pytest.mark.parametrize("sharded", [False, True])
def test_gradients_lie_in_one_place_while_they_add_up(tmp_path, sharded):
    """FSDP shares them out in every pass; those of DDP stay in its buckets, arranged anew in step 2."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=_held_between_passes, args=(rank, tmp_path / "meet", sharded, queue), daemon=True)
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    held = queue.get(timeout=120)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    settled = held if sharded else held[5:]
    assert settled == [settled[0]] * len(settled)
    assert not sharded or settled[0] == 0


def test_sharded_weights_compute_in_bf16_what_whole_ones_do(tmp_path):
    """The sum that the blocks add to stays float32."""
    context, answers = multiprocessing.get_context("fork"), []
    for sharded in (False, True):
        queue = context.Queue()
        process = context.Process(target=_blocks_see, args=(tmp_path / f"meet-{sharded}", sharded, queue))
        process.start()
        answers.append(queue.get(timeout=120))
        process.join()
    assert answers[0] == answers[1]
    assert answers[1][1] == {"torch.float32"}


def test_a_gpu_without_bf16_units_trains_in_float32(monkeypatch):
    """A T4: torch imitates bf16 there, and its compiler refuses to."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    gpu = torch.device("cuda", 0)
    assert not multiplies_bf16("auto", gpu)
    assert multiplies_bf16("bf16", gpu)
    assert compiles("auto", False, gpu)
    assert not compiles("auto", True, gpu)
    assert compiles("on", True, gpu)
    assert not compiles("auto", False, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (6, 1))
    assert not compiles("auto", False, gpu)


@pytest.mark.slow
def test_an_error_on_every_rank_is_one_sentence(config, tmp_path):
    done = torchrun(config(micro_batch=3), tmp_path)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("sapiens-train: ")]
    assert 1 <= len(said) <= 2  # the launcher may stop the second rank before it speaks
    assert "a batch of 8 cannot be split over 2 processes x 3 images" in said[0]


@pytest.mark.slow
def test_a_broken_shard_on_one_rank_ends_all(config, tmp_path, data):
    """The second rank's samples are gone: the first must not wait for ever."""
    settings = config(images=4800)
    for tar in sorted((data / "shards").glob("*.tar"))[1:]:
        tar.write_bytes(bytes(tar.stat().st_size))
    done = torchrun(settings, tmp_path)
    assert done.returncode != 0
    assert "samples in a row of" in done.stderr


@pytest.mark.parametrize(
    ("precision", "device", "units", "chosen"),
    [
        ("auto", "cpu", False, False),
        ("auto", "cpu", True, True),
        ("auto", "cuda", True, True),
        ("bf16", "cpu", False, True),
        ("fp32", "cuda", True, False),
    ],
)
def test_products_are_bf16_where_the_hardware_has_it(monkeypatch, precision, device, units, chosen):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: units)
    assert multiplies_bf16(precision, torch.device(device)) is chosen
