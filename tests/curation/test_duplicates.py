import numpy as np
import pytest

from curation.duplicates import NONE, exact_duplicates, near_duplicates


def brute_force(
    uids: np.ndarray, hashes: np.ndarray, known: np.ndarray, passes: np.ndarray, distance: int
) -> list[int]:
    """The definition, row by row: the earliest kept image that is close enough."""
    kept: list[int] = []
    repeats = []
    for row in range(len(uids)):
        close = [
            other
            for other in kept
            if (uids[other] == uids[row]).all()
            or (known[row] and known[other] and int(hashes[row] ^ hashes[other]).bit_count() <= distance)
        ]
        repeats.append(close[0] if close else NONE)
        if passes[row] and not close:
            kept.append(row)
    return repeats


def random_case(seed: int, rows: int = 250) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hashes in families a few bits apart, some bytes equal, some without a hash."""
    rng = np.random.default_rng(seed)
    family = rng.integers(0, 1 << 63, 20, dtype=np.uint64)
    hashes = family[rng.integers(0, 20, rows)]
    for _ in range(3):
        flip = rng.random(rows) < 0.6
        hashes = np.where(flip, hashes ^ (np.uint64(1) << rng.integers(0, 64, rows, dtype=np.uint64)), hashes)
    same = rng.integers(0, rows, rows // 5)
    uids = rng.integers(0, 1 << 63, (rows, 2), dtype=np.uint64)
    known = rng.random(rows) < 0.95
    for row in same:
        uids[row], hashes[row], known[row] = uids[0], hashes[0], known[0]
    return uids, hashes, known, rng.random(rows) < 0.7


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("distance", [1, 4, 8])
def test_near_duplicates_are_those_of_the_definition(seed: int, distance: int) -> None:
    case = random_case(seed)
    assert near_duplicates(*case, distance).tolist() == brute_force(*case, distance)


def test_a_copy_is_not_dropped_for_an_image_that_is_not_kept() -> None:
    uids = np.array([[1, 1], [1, 1], [1, 1]], np.uint64)
    assert exact_duplicates(uids, np.array([False, True, True])).tolist() == [NONE, NONE, 1]


def test_no_image_at_all() -> None:
    assert exact_duplicates(np.empty((0, 2), np.uint64), np.empty(0, bool)).tolist() == []
