"""Which images repeat an earlier one: byte for byte, or by perceptual hash within a Hamming distance.

An image repeats another when an earlier image in plan order, one that passes every rule and repeats none itself, is
close enough: so of several copies the first usable one is kept, and never is an image dropped for one that was not
kept. Near pairs are found among millions without comparing all: two hashes that differ in at most d of 64 bits agree
in at least two of d + 2 bands, so only hashes equal in some pair of bands are compared.
"""

from itertools import combinations

import numpy as np

NONE = -1


def exact_duplicates(uids: np.ndarray, passes: np.ndarray) -> np.ndarray:
    """int64 (n,): index of the first passing image with the same uid, where that is earlier; else -1.

    `uids` uint64 (n, 2): the first 128 bits of each file's sha256; `passes` bool (n,).
    """
    return _first_of_group(uids, passes)


def near_duplicates(
    uids: np.ndarray, hashes: np.ndarray, known: np.ndarray, passes: np.ndarray, distance: int
) -> np.ndarray:
    """int64 (n,): index of the kept image that each repeats, or -1.

    `uids` and `passes` as above; `hashes` uint64 (n,); `known` bool (n,): False where there is no hash and only equal
    bytes count; `distance` in bits of 64.
    """
    result = _first_of_group(uids, passes)
    order = np.nonzero(known)[0]
    if len(order) == 0:
        return result
    values, group = np.unique(hashes[order], return_inverse=True)
    first = np.full(len(values), len(hashes), np.int64)
    passing = passes[order]
    np.minimum.at(first, group[passing], order[passing])  # first passing image of each hash value
    near = _neighbours(values, distance, first < len(hashes))
    keeper = _keepers(first, near, len(hashes))
    earliest = keeper[group]
    repeats = earliest < order
    better = repeats & ((result[order] == NONE) | (earliest < result[order]))
    result[order[better]] = earliest[better]
    return result


def _first_of_group(uids: np.ndarray, passes: np.ndarray) -> np.ndarray:
    order = np.lexsort((uids[:, 1], uids[:, 0]))
    differs = np.any(uids[order[1:]] != uids[order[:-1]], axis=1)
    group = np.empty(len(uids), np.int64)
    group[order] = np.concatenate([[0], np.cumsum(differs)])[: len(uids)]
    rows = np.arange(len(uids))
    first = np.full(len(uids), len(uids), np.int64)
    np.minimum.at(first, group[passes], rows[passes])
    earliest = first[group]
    return np.where(earliest < rows, earliest, NONE)


def _neighbours(values: np.ndarray, distance: int, passes: np.ndarray) -> np.ndarray:
    """int64 (m, 2): pairs of indices into the sorted unique `values` within `distance`, the first of which passes."""
    bands = distance + 2
    edges = np.linspace(0, 64, bands + 1).round().astype(int)
    found = []
    for a, b in combinations(range(bands), 2):
        mask = _band(edges[a], edges[a + 1]) | _band(edges[b], edges[b + 1])
        found.extend(_pairs_with_equal(values, mask, distance))
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return both[passes[both[:, 0]]]


def _pairs_with_equal(values: np.ndarray, mask: np.uint64, distance: int) -> list[np.ndarray]:
    """Pairs equal under `mask` and within `distance`: sort by the masked value, compare at growing offsets."""
    masked = values & mask
    order = np.argsort(masked, kind="stable")
    masked, sorted_values = masked[order], values[order]
    found, same = [], np.arange(len(values))
    for lag in range(1, len(values)):
        same = same[same < len(values) - lag]
        same = same[masked[same + lag] == masked[same]]  # sorted: what differs at one lag differs at every longer one
        if len(same) == 0:
            break
        close = np.bitwise_count(sorted_values[same] ^ sorted_values[same + lag]) <= distance
        if close.any():
            found.append(np.stack([order[same[close]], order[same[close] + lag]], axis=1))
    return found


def _keepers(first: np.ndarray, near: np.ndarray, never: int) -> np.ndarray:
    """Per hash value the row of the kept image it falls to, `never` where none.

    Values are visited by their first passing image; one whose neighbour is already kept before it keeps none.
    """
    keeper = first.copy()
    if len(near) == 0:
        return keeper
    near = near[np.lexsort((first[near[:, 0]], near[:, 1], first[near[:, 1]]))]
    kept = first < never
    starts = np.nonzero(np.r_[True, near[1:, 1] != near[:-1, 1]])[0]
    for start, stop in zip(starts, np.r_[starts[1:], len(near)], strict=True):
        value = near[start, 1]
        for other in near[start:stop, 0]:
            if kept[other] and first[other] < first[value]:
                keeper[value] = first[other]
                kept[value] = False
                break
    return keeper


def _band(low: int, high: int) -> np.uint64:
    return np.uint64(((1 << int(high)) - 1) ^ ((1 << int(low)) - 1))
