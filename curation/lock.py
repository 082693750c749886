"""One run at a time on an output folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from curation.errors import UsageError
from curation.plan import PLAN_FILE
from manifests.lock import InUse, alone_in
from manifests.store import Store


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Hold OUT/.lock; UsageError naming the holder where another process has it. Remote folders are not locked.

    Where an error ends it before there is a plan nothing stays of the lock and its folder.
    """
    if not store.is_local:
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(alone_in(Path(store.full(".lock")).parent, lambda: store.exists(PLAN_FILE)))
        except InUse as holder:
            raise UsageError(f"{store.root} is in use by {holder}; wait for it or choose another folder") from None
        except OSError as error:
            raise UsageError(
                f"cannot write in {store.root}: {error.strerror}; choose a folder that can be written"
            ) from None
        yield
