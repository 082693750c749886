"""Loaded by every local Dask worker process when it starts."""

import logging
import os
import signal

from distributed import Worker


def dask_setup(worker: Worker) -> None:
    """Ctrl-C reaches every process of a terminal; only the driver acts on it and closes the workers in order.

    Local workers are called 0, 1, …: on a machine with GPUs each takes the one of its number.
    """
    os.environ["SAPIENS_GPU"] = str(worker.name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what a task raises, the driver tells
