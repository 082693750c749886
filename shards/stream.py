"""Batches of training crops from shards, in an order that any number of ranks and workers continues exactly.

The stream has no state of its own: the trainer says how many samples it has seen, and positions follow by
arithmetic. What a position gives depends only on (seed, position, data set): its sample by `order`, its crop
and mask by a key of (seed, epoch, uid).
"""

import atexit
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from shards.cache import ReadAhead, ShardError, is_remote
from shards.crop import BrokenImage
from shards.draws import key_of
from shards.index import ShardSet
from shards.order import Order

_CROP, _MASK = 1, 2  # what a sample's key is for
_SUBSTITUTES = 16
_PREFETCH = 2  # batches that each worker makes ahead

Read = Callable[[int, int], Any]
"""(shard, row) → the sample there."""


Targets = dict[str, np.ndarray]


class Augment(Protocol):
    """Makes an image of a fixed size, (rows, columns, 3) uint8, out of a sample as `read` gives it and a 64-bit
    key; for labelled samples also the targets that go with it. Raises BrokenImage.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    def __call__(self, sample: Any, key: int, /) -> np.ndarray | tuple[np.ndarray, Targets]: ...


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
    broken: those that were replaced. targets: (B, …) each; none for pictures without labels.
    """

    images: Tensor
    mask_keys: Tensor
    uids: tuple[str, ...]
    broken: tuple[Broken, ...]
    targets: dict[str, Tensor]
    piece: int = -1  # of the Recycler's memory that the images were decoded into; -1: none

    def pin_memory(self) -> "Batch":
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        targets = {name: change(target) for name, target in self.targets.items()}
        return replace(self, images=change(self.images), mask_keys=change(self.mask_keys), targets=targets)


class Crops(Dataset[Batch]):
    """The crops of any positions of the endless order, a task at a time."""

    def __init__(self, shards: ShardSet, order: Order, augment: Augment, memory: "Recycler", read: Read) -> None:
        self.shards, self.order, self.augment, self.memory, self.read = shards, order, augment, memory, read

    def __getitem__(self, task: "Task") -> Batch:
        return self.__getitems__(task)

    def __getitems__(self, task: "Task") -> Batch:
        """The batch of a task; the name is the one by which DataLoader asks for whole batches."""
        positions, piece = task
        shape = (len(positions), *self.augment.size, 3)
        images = self.memory.pieces[piece] if piece >= 0 else torch.empty(shape, dtype=torch.uint8)
        keys: list[int] = []
        uids: list[str] = []
        broken: list[Broken] = []
        labels: list[Targets] = []
        for slot, position in enumerate(positions):
            crop, targets, mask_key, uid = self._sample(position, broken)
            images[slot] = torch.from_numpy(crop)
            labels.append(targets)
            keys.append(mask_key)
            uids.append(uid)
        mask_keys = torch.from_numpy(np.array(keys, dtype=np.uint64).view(np.int64))
        stacked = {name: torch.from_numpy(np.stack([one[name] for one in labels])) for name in labels[0]}
        return Batch(images, mask_keys, tuple(uids), tuple(broken), stacked, piece)

    def _sample(self, position: int, broken: list[Broken]) -> tuple[np.ndarray, Targets, int, str]:
        """Crop, targets, mask key and uid at a position. A broken sample is replaced by the next row of its
        shard, then the next …
        """
        epoch, number, first = self.order.sample_at(position)
        samples = self.shards.samples(number)
        url, failed = self.shards.shards[number].url, ""
        for step in range(_SUBSTITUTES):
            row = (first + step) % len(samples.size)
            halves = samples.uid[row].tolist()
            try:
                made = self.augment(self.read(number, row), key_of(self.order.seed, epoch, *halves, _CROP))
                crop, targets = made if isinstance(made, tuple) else (made, {})
                return crop, targets, key_of(self.order.seed, epoch, *halves, _MASK), samples.uid_hex(row)
            except BrokenImage as error:
                failed = f"{type(error).__name__}: {error}"
                broken.append(Broken(url, row, str(samples.key[row]), failed))
        raise ShardError(
            f"{_SUBSTITUTES} samples in a row of {url} from row {first} on are broken ({failed}); copy the shard again"
        )


class Recycler:
    """Shared memory that workers decode into, used again as soon as nobody holds the batch that lay in it.

    Fresh shared memory costs a page fault and 4 kB of zeros for every 4 kB: about a tenth of decoding a
    photo.
    """

    def __init__(self, pieces: int, shape: tuple[int, ...]) -> None:
        try:
            self.pieces = tuple(torch.empty(shape, dtype=torch.uint8).share_memory_() for _ in range(pieces))
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            raise ShardError(
                f"the decoding processes need {pieces * math.prod(shape) / 1e9:.1f} GB of shared memory, and /dev/shm "
                "has less; give the container more (docker run --shm-size=8g or --ipc=host), or fewer --workers, or a "
                "smaller --micro-batch"
            ) from None
        self._free = list(range(pieces))
        self._held: dict[int, StorageWeakRef] = {}

    def lend(self) -> int:
        """Number of a free piece; -1 where a trainer holds on to so many batches that there is none."""
        for piece in [piece for piece, memory in self._held.items() if memory.expired()]:
            del self._held[piece]
            self._free.append(piece)
        return self._free.pop() if self._free else -1

    def watch(self, batch: Batch) -> None:
        """Lend the piece of a batch again once nothing refers to its memory: no tensor, view or array.

        Images that were copied to pinned memory have left their piece already.
        """
        if batch.piece >= 0 and batch.images.is_shared():
            self._held[batch.piece] = StorageWeakRef(batch.images.untyped_storage())
        elif batch.piece >= 0:
            self._free.append(batch.piece)


class Task(NamedTuple):
    """What a worker is asked for: positions, and the piece of memory to decode them into."""

    positions: range
    piece: int


class Tasks(Sampler[Task]):
    """Every micro-batch of one rank as a task."""

    def __init__(self, positions: "Positions", memory: Recycler) -> None:
        self.positions, self.memory = positions, memory

    def __iter__(self) -> Iterator[Task]:
        return (Task(positions, self.memory.lend()) for positions in self.positions)


class Positions:
    """The positions of every micro-batch that one rank takes, from `start` up to `stop`.

    Micro-batch i of rank r holds start + (i·world + r)·micro_batch …: what an optimiser step holds does not
    depend on the ranks.
    """

    def __init__(self, start: int, stop: int, micro_batch: int, rank: int, world: int) -> None:
        self.start, self.stop, self.micro_batch, self.rank, self.world = start, stop, micro_batch, rank, world

    def __iter__(self) -> Iterator[range]:
        first = self.start + self.rank * self.micro_batch
        for position in range(first, self.stop - self.micro_batch + 1, self.micro_batch * self.world):
            yield range(position, position + self.micro_batch)

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
    read: Read | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    stuck_after: int = 900,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Micro-batches of one rank for the positions start … stop-1; only whole ones.

    read: gives the sample at (shard, row) to `augment`; default: the encoded image.
    workers: processes that decode; the batches are the same for any number. stuck_after: seconds without a
    batch after which a waiting trainer gets an error instead of a hang.
    """
    remote = any(is_remote(shard.url) for shard in shards.shards)
    if remote:
        _check_cache_size(shards, order)
    shards.hold(order.window)
    in_flight = _PREFETCH * workers
    memory = Recycler(in_flight + 2 if workers else 0, (micro_batch, *augment.size, 3))
    loader = DataLoader(
        Crops(shards, order, augment, memory, read or shards.read),
        batch_sampler=Tasks(Positions(start, stop, micro_batch, rank, world), memory),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_as_it_is,  # `__getitems__` gives whole batches
        pin_memory=pin_memory,
        timeout=stuck_after if workers else 0,
        prefetch_factor=_PREFETCH if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    with _deaf_to_sigterm():
        batches = iter(loader)  # starts the workers: before any thread of ours
    ending = ExitStack()
    ending.callback(atexit.unregister, ending.close)
    ending.callback(_end_workers, batches)
    atexit.register(ending.close)  # an error's traceback holds on to this generator for as long as the process lives
    position = start + rank * micro_batch
    try:
        ahead = ending.enter_context(closing(ReadAhead(shards.cache))) if remote else None
        while True:
            if ahead:
                _read_ahead(ahead, shards, order, position)
            if (batch := next(batches, None)) is None:
                return
            memory.watch(batch)
            yield batch
            del batch
            position += micro_batch * world
    except ShardError as error:  # a worker's message comes wrapped in its traceback
        raise ShardError(str(error).strip().rsplit("ShardError: ", 1)[-1]) from error
    finally:
        ending.close()


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


@contextmanager
def _deaf_to_sigterm() -> Iterator[None]:
    """What is forked meanwhile never sees a SIGTERM: SLURM and systemd send it to every process of a job, and the
    trainer wants to finish its step. Blocked rather than ignored, because torch sets a handler of its own in a worker.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_workers(batches: Any) -> None:
    """Torch and multiprocessing end a worker by SIGTERM and wait for ever for one that does not hear it."""
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        batches._shutdown_workers()  # type: ignore[no-untyped-call]  # asks them to end, and no longer watches them
        for worker in batches._workers:
            worker.kill()


def _as_it_is(batch: Any) -> Any:
    return batch
