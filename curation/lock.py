"""One run at a time on an output folder. The lock goes with the process, however it ends."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from curation.errors import UsageError
from curation.plan import PLAN_FILE
from manifests.store import Store


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Hold OUT/.lock; UsageError naming the holder where another process has it. Remote folders are not locked.

    Where an error ends it before there is a plan, as that of a mistyped name, nothing stays of the lock and its folder.
    """
    if not store.is_local:
        yield
        return
    path = Path(store.full(".lock"))
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - held until the run ends
    except OSError as error:
        raise UsageError(
            f"cannot write in {store.root}: {error.strerror}; choose a folder that can be written"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(f"{store.root} is in use by {holder}; wait for it or choose another folder") from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        except BaseException:
            if not store.exists(PLAN_FILE):
                path.unlink()
                with suppress(OSError):  # somebody has put something there
                    for folder in made:
                        folder.rmdir()
            raise
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open too
