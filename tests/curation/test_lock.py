"""The locks of output and cache folders are free as soon as whoever held them lets go."""

import fcntl
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from curation.lock import locked
from manifests.store import Store, exclusive


@pytest.mark.parametrize("hold", [lambda folder: locked(Store(folder)), lambda folder: exclusive(folder / ".lock")])
def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(
    tmp_path: Path, hold: Callable[[Path], AbstractContextManager[None]]
) -> None:
    with hold(tmp_path):
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
    try:
        with (tmp_path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
