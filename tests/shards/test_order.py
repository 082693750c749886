"""The sample order is a pure function, a permutation in every epoch, well mixed, and local."""

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.draws import bits, key_of, mix, permutation, uniforms
from shards.order import ORDER_VERSION, Order


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda c: sum(c) > 0),
    window=st.integers(1, 14),
    seed=st.integers(0, 2**62),
    epoch=st.integers(0, 10**6),
)
def test_every_sample_once_per_epoch(counts, window, seed, epoch):
    order = Order(np.array(counts), seed, window)
    size = sum(counts)
    places = [order.sample_at(epoch * size + i) for i in range(size)]
    assert {place.epoch for place in places} == {epoch}
    assert {(p.shard, p.row) for p in places} == {(s, r) for s, n in enumerate(counts) for r in range(n)}


def test_any_position_is_reached_directly():
    counts = np.full(300, 1000)
    walked = Order(counts, 5, 8)
    for position in range(10**9, 10**9 + 50):
        walked.sample_at(position)
    fresh = Order(counts, 5, 8)
    assert fresh.sample_at(10**9 + 49) == walked.sample_at(10**9 + 49)


def test_seed_and_epoch_change_the_order():
    counts = np.full(10, 50)
    first = [Order(counts, 0).sample_at(i)[1:] for i in range(500)]
    assert first != [Order(counts, 1).sample_at(i)[1:] for i in range(500)]
    assert first != [Order(counts, 0).sample_at(500 + i)[1:] for i in range(500)]


def test_a_window_of_positions_reads_a_window_of_shards():
    order = Order(np.full(64, 100), 3, window=8)
    for start in range(0, 6400, 800):
        touched = {order.sample_at(p).shard for p in range(start, start + 800)}
        assert len(touched) == 8
        assert touched <= set(order.shards_from(start, windows=1))


def test_read_ahead_names_the_shards_of_the_coming_windows_over_an_epochs_end():
    order = Order(np.full(10, 20), 3, window=5)
    for position in (0, 99, 100, 199, 200, 1234):
        needed = order.shards_from(position, windows=2)
        assert {order.sample_at(p).shard for p in range(position, position + 100)} <= set(needed)


def test_no_thin_last_window():
    order = Order(np.full(17, 10), 0, window=16)
    sizes = [len({order.sample_at(p).shard for p in range(*bounds)}) for bounds in ((0, 80), (80, 170))]
    assert sizes == [8, 9]


def test_samples_are_spread_evenly_over_an_epoch():
    """Where a sample comes is uniform: chi-square of the position of row 0 of shard 0 over 2000 epochs in 20 bins."""
    order = Order(np.full(4, 50), 11, window=2)
    where = []
    for epoch in range(2000):
        epoch_order = [order.sample_at(epoch * 200 + i)[1:] for i in range(200)]
        where.append(epoch_order.index((0, 0)))
    observed = np.histogram(where, bins=20, range=(0, 200))[0]
    chi2 = ((observed - 100) ** 2 / 100).sum()
    assert chi2 < 43.8  # 99.9 % quantile at 19 degrees of freedom


def test_the_order_of_this_version_is_frozen():
    """Other values here mean another order: raise ORDER_VERSION, or running trainings resume wrongly."""
    order = Order(np.array([3, 0, 7, 5, 11, 2, 4]), seed=42, window=3)
    text = str([tuple(order.sample_at(p)) for p in range(100)])
    assert (ORDER_VERSION, sha256(text.encode()).hexdigest()[:16]) == (1, "f474e2dfa4b502d3")


def test_no_samples_or_no_window_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        Order(np.array([0, 0]), 0)
    with pytest.raises(ValueError, match="at least 1"):
        Order(np.array([3]), 0, window=0)


def test_draws_are_those_of_splitmix64():
    """Reference: the first outputs of SplitMix64 seeded with 1234567, as published with the algorithm."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert bits(1234567, 3).tolist() == expected
    assert expected[0] == mix(1234567 + 0x9E3779B97F4A7C15)


def test_draws_are_uniform_and_keys_do_not_repeat():
    u = uniforms(key_of(1, 2, 3), 100_000)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01
    assert len({key_of(a, b) for a in range(100) for b in range(100)}) == 10_000
    assert sorted(permutation(7, 100)) == list(range(100))
