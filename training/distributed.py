"""One process or many: who am I, what do we agree on, and how the model is spread over GPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from training.config import UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among all of them."""

    rank: int
    world: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def sum(self, numbers: Tensor) -> Tensor:
        """Element-wise sum over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(numbers)
        return numbers

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on all ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """Join the processes that `torchrun` started; alone without it."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(0, 1, 0, device)
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UsageError(
            f"the environment has WORLD_SIZE and lacks {', '.join(missing)}; start all processes with torchrun or as "
            "docs/scale-out-training.md does with srun, or unset WORLD_SIZE to train alone"
        )
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(minutes=30))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), local_rank, device)
    finally:
        dist.destroy_process_group()


def multiplies_bf16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are to be bf16; auto: where the hardware has units for it. Other CPUs take ten times as
    long as for float32, and older GPUs, which only imitate it, are not compiled for.
    """
    if precision == "auto" and device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if precision == "auto" and device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return precision != "fp32"


def compiles(wanted: str, bf16: bool, device: torch.device) -> bool:
    """Whether blocks are compiled; auto: on GPUs for which torch's compiler has this arithmetic."""
    if wanted != "auto" or device.type != "cuda":
        return wanted == "on"
    can_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cuda.get_device_capability(device) >= (7, 0) and (can_bf16 or not bf16)


def spread(
    model: nn.Module,
    blocks: list[nn.ModuleList],
    ranks: Ranks,
    *,
    sharded: bool,
    compiled: bool,
    recompute: bool,
    bf16: bool,
) -> nn.Module:
    """The model ready to train on all ranks; blocks are the lists of transformer blocks in it, in forward
    order.

    The order is fixed: activation checkpointing wraps a block, compilation sees the wrapped block, sharding
    comes last, so that gathering weights stays outside the compiled graph and happens again before a
    recomputation.
    """
    for group in blocks:
        for i in range(len(group)):
            if recompute:
                group[i] = checkpoint_wrapper(group[i])
            if compiled:
                group[i].compile(fullgraph=True, dynamic=False)
    if ranks.world == 1:  # nobody to share with
        return model
    if not sharded:
        return DistributedDataParallel(
            model, device_ids=[ranks.local_rank] if ranks.device.type == "cuda" else None, gradient_as_bucket_view=True
        )
    # The blocks' weights travel as bf16; activations keep their type, so that autocast rules the arithmetic as it does
    # under DDP. Positions and tokens stay float32, or what the blocks add up would be bf16; on a CPU so do the blocks,
    # where autocast leaves their norms alone.
    whole = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = half if bf16 and ranks.device.type == "cuda" else whole
    every_block = [fully_shard(block, mp_policy=policy) for group in blocks for block in group]
    fully_shard(model, mp_policy=whole)
    for block, following in pairwise(every_block):
        block.set_modules_to_forward_prefetch([following])
        following.set_modules_to_backward_prefetch([block])
    return model


def bare(model: nn.Module) -> nn.Module:
    """The model without its DDP shell."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters under the names they have without any wrapper."""
    return {
        name.replace("_checkpoint_wrapped_module.", ""): parameter for name, parameter in bare(model).named_parameters()
    }


@contextmanager
def gradients_synced(model: nn.Module, now: bool) -> Iterator[None]:
    """Exchange gradients in this backward pass, or keep adding them up locally. Sharded ones are exchanged in every
    pass: FSDP would otherwise keep all of them, whole and in float32, on every GPU.
    """
    if isinstance(model, DistributedDataParallel) and not now:
        with model.no_sync():
            yield
    else:
        yield


def forget_gradients(model: nn.Module) -> None:
    """Before the next step. DDP's lie in its buckets and stay there as zeros: the passes before an exchange would
    otherwise make a second set beside the buckets.
    """
    model.zero_grad(set_to_none=not isinstance(model, DistributedDataParallel))
