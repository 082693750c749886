"""Locks between processes. The system frees them when a process ends, however it does."""

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})
"""What a file system without locks answers, such as Lustre mounted without them: nothing is held there."""


class InUse(OSError):
    """Another process holds it; its text names that process."""


_open_files: set[FileIO] = set()


def _close_in_child() -> None:
    """Or the locks of a process that is killed stay with the children that it forked."""
    for file in _open_files:
        file.close()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for whoever has it."""
    with _opened(path) as file:
        _flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock file and write into it which process this is. Raises InUse where another has it."""
    with _opened(path) as file:
        try:
            _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InUse(file.read().decode().strip() or "another process") from None
        file.truncate(0)
        with suppress(OSError):  # of a full disk, which is told by what has more to write
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


@contextmanager
def alone_in(folder: Path, is_begun: Callable[[], bool]) -> Iterator[None]:
    """Hold `.lock` in a folder, which is made. Where an error comes before anything `is_begun`, such as that of a
    mistyped name, nothing stays of the two. Raises InUse, and OSError where the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock"):
        try:
            yield
        except BaseException:
            if not is_begun():
                (folder / ".lock").unlink()
                with suppress(OSError):  # somebody has put something there
                    for path in made:
                        path.rmdir()
            raise


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    """Open a lock file, and let go of it at the end."""
    with path.open("a+b", buffering=0) as file:
        _open_files.add(file)
        try:
            yield file
        finally:
            _open_files.discard(file)
            _flock(file, fcntl.LOCK_UN)  # a child that was forked just now may not have closed it yet


def _flock(file: FileIO, how: int) -> None:
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
