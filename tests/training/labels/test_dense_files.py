"""Reading the bytes of label files."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from training.labels.dense_files import Convention, read_dense


def test_headers_of_arrays_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two at once CPython 3.11 may make a SystemError, where a collection lets the other thread in."""
    file = io.BytesIO()
    np.save(file, np.ones((4, 4)))
    load, now, most = np.load, [0], [0]

    def watched(*given: Any, **options: Any) -> Any:
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(1e-3)
        try:
            return load(*given, **options)
        finally:
            now[0] -= 1

    monkeypatch.setattr(np, "load", watched)
    with ThreadPoolExecutor(8) as pool:
        depths = list(pool.map(lambda _: read_dense("depth", "a.npy", file.getvalue(), Convention()), range(40)))
    assert most[0] == 1
    assert all((depth == 1).all() for depth in depths)
