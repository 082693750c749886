"""One function over all units or shards of a run, on a few threads."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
THREADS = 4
ASKERS = 32
"""Threads that only ask: an object store takes as long for a word as for a megabyte."""


def in_order(work: Callable[[int], Result], units: int, threads: int = THREADS) -> Iterator[Result]:
    """`work(unit)` for every unit on a few threads, results in order, few held at a time."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for unit in range(units):
            waiting.append(pool.submit(work, unit))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
