"""Locks are free as soon as whoever held them lets go or is gone, and name their holder."""

import errno
import fcntl
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from manifests.lock import InUse, exclusive, held

Hold = Callable[[Path], AbstractContextManager[None]]


def is_free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("hold", [exclusive, held])
def test_it_is_held_and_let_go(tmp_path: Path, hold: Hold) -> None:
    with hold(tmp_path / ".lock"):
        assert not is_free(tmp_path / ".lock")
    assert is_free(tmp_path / ".lock")


@pytest.mark.parametrize("hold", [exclusive, held])
def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path, hold: Hold) -> None:
    with hold(tmp_path / ".lock"):
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
        assert not is_free(tmp_path / ".lock")
    try:
        assert is_free(tmp_path / ".lock")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("hold", [exclusive, held])
def test_children_of_a_killed_holder_do_not_keep_it_either(tmp_path: Path, hold: Hold) -> None:
    told, tell = os.pipe()
    holder = os.fork()
    if not holder:
        with hold(tmp_path / ".lock"):
            if not os.fork():
                os.write(tell, str(os.getpid()).encode())
            signal.pause()
        os._exit(0)
    child = int(os.read(told, 20))
    try:
        assert not is_free(tmp_path / ".lock")
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        assert is_free(tmp_path / ".lock")
    finally:
        os.kill(child, signal.SIGKILL)


def test_whoever_comes_second_is_told_who_has_it(tmp_path: Path) -> None:
    with held(tmp_path / ".lock"):
        with pytest.raises(InUse, match=rf"^process {os.getpid()} on .+"), held(tmp_path / ".lock"):
            pass
        assert not is_free(tmp_path / ".lock")


@pytest.mark.parametrize("hold", [exclusive, held])
def test_a_file_system_without_locks_is_used_without(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(tmp_path / ".lock"):
        pass


def test_other_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), held(tmp_path / ".lock"):
        pass
