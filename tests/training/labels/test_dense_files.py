"""Reading the bytes of label files."""

import gc
import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from training.labels.dense_files import Convention, read_dense


def test_arrays_are_read_by_many_threads_at_once() -> None:
    """CPython 3.11 fails with a SystemError where a collection lets another thread into the reading of a header."""
    file = io.BytesIO()
    np.save(file, np.ones((4, 4)))

    def switch(phase: str, info: object) -> None:
        time.sleep(1e-5)

    before = gc.get_threshold()
    gc.callbacks.append(switch)
    gc.set_threshold(7)
    try:
        with ThreadPoolExecutor(8) as pool:
            depths = list(pool.map(lambda _: read_dense("depth", "a.npy", file.getvalue(), Convention()), range(300)))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(switch)
    assert all((depth == 1).all() for depth in depths)
