"""Random numbers that are a pure function of a key and a counter.

The generator is SplitMix64 (Steele, Lea & Flood 2014) read at any counter: draw `i` of key `k` is
`mix(k + (i + 1)·G)`. There is no state to save and nothing depends on a process, a worker or the clock: the same
sample in the same epoch gets the same numbers on every machine.
"""

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_64 = (1 << 64) - 1


def mix(x: int) -> int:
    """SplitMix64's finaliser on one integer, modulo 2**64."""
    x &= _64
    x = ((x ^ (x >> 30)) * _M1) & _64
    x = ((x ^ (x >> 27)) * _M2) & _64
    return x ^ (x >> 31)


def key_of(*parts: int) -> int:
    """One 64-bit key from a sequence of integers; their order matters."""
    key = 0
    for part in parts:
        key = mix((key + _GOLDEN) ^ mix(part + _GOLDEN))
    return key


def bits(key: int, count: int) -> np.ndarray:
    """The first `count` draws of a key: (count,) uint64."""
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_M1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_M2)
    return x ^ (x >> np.uint64(31))


def uniforms(key: int, count: int) -> np.ndarray:
    """The first `count` draws of a key as numbers in [0, 1): (count,) float64."""
    return (bits(key, count) >> np.uint64(11)) * 2.0**-53


def permutation(key: int, count: int) -> np.ndarray:
    """A uniformly random permutation of range(count): (count,) int64."""
    return np.argsort(bits(key, count), kind="stable")
