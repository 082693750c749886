"""Milliseconds per picture of each built-in backbone and of all together, one thread, pictures already decoded.

python benchmarks/builtin.py [--threads 1] [--seconds 4]
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from curation.builtin import ANSWERS, Builtin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    builtin = Builtin(args.threads)
    rng = np.random.default_rng(0)
    # Smooth pictures of a common size: noise would be full of edges that no photo has.
    images = [
        np.kron(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), np.ones((40, 40, 1), np.uint8)) for _ in range(8)
    ]
    questions: dict[str, set[str]] = {name: {name} for name in ANSWERS}
    questions["humans300m (all but safety)"] = set(ANSWERS) - {"safety"}
    questions["everything"] = set(ANSWERS)
    for name, needs in questions.items():
        print(
            f"{name}: {milliseconds(lambda needs=needs: ask(builtin, images, needs), len(images), args.seconds):.1f} ms"
        )


def ask(builtin: Builtin, images: list[np.ndarray], needs: set[str]) -> None:
    """Backbones and answers, as a scorer would."""
    f = builtin.features(images, needs)
    for name in needs:
        getattr(builtin, name)(f)


def milliseconds(work: Callable[[], None], count: int, seconds: float) -> float:
    """Best mean of three spells, per picture."""
    work()
    spells = []
    for _ in range(3):
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < seconds / 3:
            work()
            rounds += 1
        spells.append((time.perf_counter() - started) / rounds / count * 1000)
    return min(spells)


if __name__ == "__main__":
    main()
