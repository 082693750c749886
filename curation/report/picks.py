"""Which few images stand for many: the same rows on every run, chosen in one pass and a few kilobytes."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Smallest:
    """The `count` rows of lowest rank so far; of equal ranks the earlier row."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows = np.zeros(0, np.int64)
        self.ranks = np.zeros(0)

    def add(self, rows: np.ndarray, ranks: np.ndarray) -> None:
        """`rows` int (n,) are row numbers of the manifest, `ranks` float (n,)."""
        if len(rows) > self.count:
            best = np.argpartition(ranks, self.count - 1)[: self.count]
            best = np.flatnonzero(ranks <= ranks[best].max())  # ties are settled below, by row
            rows, ranks = rows[best], ranks[best]
        rows, ranks = np.concatenate([self.rows, rows]), np.concatenate([self.ranks, ranks])
        order = np.lexsort((rows, ranks))[: self.count]
        self.rows, self.ranks = rows[order], ranks[order]


def spread(rows: np.ndarray) -> np.ndarray:
    """A rank whose lowest lie evenly over the whole run: multiples of the golden ratio, modulo 1."""
    return (rows.astype(np.uint64) * GOLDEN).astype(np.float64)
