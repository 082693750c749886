"""Which sample comes at which position: a pure function, so a stream's only state is how many samples it has
given.

Every epoch permutes the shards, cuts them into windows of about `window` shards and shuffles the samples
inside each window. A reader at one place therefore touches one window of shards, the mixing spans the whole
window, and jumping to position 10**9 costs the same as starting at 0. Ranks and workers take positions by
arithmetic; they never enter here.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from shards.draws import key_of, permutation

ORDER_VERSION = 1
"""Raise when the same arguments would give another order; a run refuses to resume across versions."""

_SHARDS, _SAMPLES = 1, 2  # what a key is for


class Place(NamedTuple):
    """Where one position of the stream lies."""

    epoch: int
    shard: int
    row: int


class Order:
    """The endless order over all samples of all shards.

    counts: samples in each shard (≥ 1 in sum; empty shards are allowed). window: shards mixed together.
    Memory: one int64 per shard and per sample of two windows.
    """

    def __init__(self, counts: np.ndarray, seed: int, window: int = 16) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.epoch_size = int(self.counts.sum())
        self.seed = seed
        self.window = window
        if self.epoch_size < 1:
            raise ValueError("there are no samples to order")
        if window < 1:
            raise ValueError(f"window is {window}; give at least 1 shard")
        self._epoch = lru_cache(maxsize=2)(self._lay_out_epoch)
        self._window = lru_cache(maxsize=2)(self._lay_out_window)

    def __reduce__(self) -> tuple[type, tuple[np.ndarray, int, int]]:
        return Order, (self.counts, self.seed, self.window)

    def sample_at(self, position: int) -> Place:
        """Epoch, shard and row of the sample at a position (0, 1, 2, …)."""
        epoch, within = divmod(position, self.epoch_size)
        starts = self._epoch(epoch)[1]
        number = int(np.searchsorted(starts, within, side="right")) - 1
        shards, ends, shuffled = self._window(epoch, number)
        sample = shuffled[within - starts[number]]
        slot = int(np.searchsorted(ends, sample, side="right"))
        return Place(epoch, int(shards[slot]), int(sample - (ends[slot] - self.counts[shards[slot]])))

    def shards_from(self, position: int, windows: int = 2) -> list[int]:
        """Shards that the window at a position and those after it read, in order of need: for read-ahead."""
        epoch, within = divmod(position, self.epoch_size)
        number = int(np.searchsorted(self._epoch(epoch)[1], within, side="right")) - 1
        needed: list[int] = []
        for _ in range(windows):
            shard_order, _, bounds = self._epoch(epoch)
            needed += shard_order[bounds[number] : bounds[number + 1]].tolist()
            epoch, number = (epoch, number + 1) if number + 2 < len(bounds) else (epoch + 1, 0)
        return list(dict.fromkeys(needed))

    def _lay_out_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shards in this epoch's order, the first position of every window, and the windows' bounds in that
        order.
        """
        shard_order = permutation(key_of(self.seed, epoch, _SHARDS), len(self.counts))
        windows = -(-len(self.counts) // self.window)
        bounds = np.arange(windows + 1) * len(self.counts) // windows  # of even size: no thin last window
        before = np.concatenate([[0], np.cumsum(self.counts[shard_order])])
        return shard_order, before[bounds[:-1]], bounds

    def _lay_out_window(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A window's shards, their cumulative counts, and its samples shuffled."""
        shard_order, _, bounds = self._epoch(epoch)
        shards = shard_order[bounds[number] : bounds[number + 1]]
        ends = np.cumsum(self.counts[shards])
        return shards, ends, permutation(key_of(self.seed, epoch, _SAMPLES, number), int(ends[-1]))
