"""Batches of training crops from shards, in an order that any number of ranks and workers continues exactly.

The stream has no state of its own: the trainer says how many samples it has seen, and positions follow by
arithmetic. What a position gives depends only on (seed, position, data set): its sample by `order`, its crop
and mask by a key of (seed, epoch, uid).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from shards.cache import ReadAhead, ShardError, is_remote
from shards.crop import BrokenImage
from shards.draws import key_of
from shards.index import ShardSet
from shards.order import Order

_CROP, _MASK = 1, 2  # what a sample's key is for
_SUBSTITUTES = 16

Augment = Callable[[bytes, int], np.ndarray]
"""Encoded image and a 64-bit key → (rows, columns, 3) uint8. Raises BrokenImage."""


@dataclass(frozen=True)
class Broken:
    """A sample that could not be used: its url, its row and key there, and why."""

    shard: str
    row: int
    key: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """images: (B, rows, columns, 3) uint8. mask_keys: (B,) int64. uids: of the samples that are in it.
    broken: those that were replaced.
    """

    images: Tensor
    mask_keys: Tensor
    uids: tuple[str, ...]
    broken: tuple[Broken, ...]

    def pin_memory(self) -> "Batch":
        return replace(self, images=self.images.pin_memory(), mask_keys=self.mask_keys.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        move = {name: getattr(self, name).to(device, non_blocking=True) for name in ("images", "mask_keys")}
        return replace(self, **move)


class Crops(Dataset[Batch]):
    """The crop at any position of the endless order. Safe to copy into worker processes."""

    def __init__(self, shards: ShardSet, order: Order, augment: Augment) -> None:
        self.shards, self.order, self.augment = shards, order, augment

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: list[int]) -> Batch:
        images = torch.empty(0)
        keys: list[int] = []
        uids: list[str] = []
        broken: list[Broken] = []
        for slot, position in enumerate(positions):
            crop, mask_key, uid = self._sample(position, broken)
            if slot == 0:
                images = _bytes_to_share((len(positions), *crop.shape))
            images[slot] = torch.from_numpy(crop)
            keys.append(mask_key)
            uids.append(uid)
        mask_keys = torch.from_numpy(np.array(keys, dtype=np.uint64).view(np.int64))
        return Batch(images, mask_keys, tuple(uids), tuple(broken))

    def _sample(self, position: int, broken: list[Broken]) -> tuple[np.ndarray, int, str]:
        """Crop, mask key and uid at a position. A broken sample is replaced by the next row of its shard,
        then the next …
        """
        epoch, number, first = self.order.sample_at(position)
        samples = self.shards.samples(number)
        url, failed = self.shards.shards[number].url, ""
        for step in range(_SUBSTITUTES):
            row = (first + step) % len(samples.size)
            halves = samples.uid[row].tolist()
            try:
                data = self.shards.read(number, row)
                crop = self.augment(data, key_of(self.order.seed, epoch, *halves, _CROP))
                return crop, key_of(self.order.seed, epoch, *halves, _MASK), samples.uid_hex(row)
            except BrokenImage as error:
                failed = f"{type(error).__name__}: {error}"
                broken.append(Broken(url, row, str(samples.key[row]), failed))
        raise ShardError(
            f"{_SUBSTITUTES} samples in a row of {url} from row {first} on are broken ({failed}); copy the shard again"
        )


class Positions(Sampler[list[int]]):
    """The positions of every micro-batch that one rank takes, from `start` up to `stop`.

    Micro-batch i of rank r holds start + (i·world + r)·micro_batch …: what an optimiser step holds does not
    depend on the ranks.
    """

    def __init__(self, start: int, stop: int, micro_batch: int, rank: int, world: int) -> None:
        self.start, self.stop, self.micro_batch, self.rank, self.world = start, stop, micro_batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start + self.rank * self.micro_batch
        for position in range(first, self.stop - self.micro_batch + 1, self.micro_batch * self.world):
            yield list(range(position, position + self.micro_batch))

    def __len__(self) -> int:
        return (self.stop - self.start) // (self.micro_batch * self.world)


def stream(
    shards: ShardSet,
    order: Order,
    augment: Augment,
    *,
    start: int,
    stop: int,
    micro_batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    stuck_after: int = 900,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Micro-batches of one rank for the positions start … stop-1; only whole ones.

    workers: processes that decode; the batches are the same for any number. stuck_after: seconds without a
    batch after which a waiting trainer gets an error instead of a hang.
    """
    loader = DataLoader(
        Crops(shards, order, augment),
        batch_sampler=Positions(start, stop, micro_batch, rank, world),
        num_workers=workers,
        collate_fn=_as_it_is,  # `__getitems__` gives whole batches
        pin_memory=pin_memory,
        timeout=stuck_after if workers else 0,
        prefetch_factor=2 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    batches = iter(loader)  # starts the workers: before any thread of ours
    remote = any(is_remote(shard.url) for shard in shards.shards)
    if remote:
        _check_cache_size(shards, order)
    ahead = ReadAhead(shards.cache) if remote else None
    position = start + rank * micro_batch
    try:
        while True:
            if ahead:
                _read_ahead(ahead, shards, order, position)
            if (batch := next(batches, None)) is None:
                return
            yield batch
            position += micro_batch * world
    except ShardError as error:  # a worker's message comes wrapped in its traceback
        raise ShardError(str(error).strip().rsplit("ShardError: ", 1)[-1]) from error
    finally:
        if ahead:
            ahead.close()


def _read_ahead(ahead: ReadAhead, shards: ShardSet, order: Order, position: int) -> None:
    needed = (shards.shards[number] for number in order.shards_from(position))
    ahead.want([(shard.url, shard.bytes, shard.stamp) for shard in needed])


def _check_cache_size(shards: ShardSet, order: Order) -> None:
    largest = sum(sorted((shard.bytes for shard in shards.shards), reverse=True)[: 2 * order.window])
    if largest > shards.cache.limit:
        raise ShardError(
            f"the shard cache may hold {shards.cache.limit / 1e9:.1f} GB, and two windows of {order.window} shards "
            f"need up to {largest / 1e9:.1f} GB; allow a larger cache (--cache-gb) or a smaller --window"
        )


def _bytes_to_share(shape: tuple[int, ...]) -> Tensor:
    """An empty uint8 tensor; in a worker it lies in shared memory, so that handing it over copies nothing."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    shared = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(shared).view(shape)


def _as_it_is(batch: Any) -> Any:
    return batch
