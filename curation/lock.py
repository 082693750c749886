"""One run at a time on an output folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from curation.errors import UsageError
from curation.plan import PLAN_FILE
from manifests.lock import InUse, held
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
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(path))
        except InUse as holder:
            raise UsageError(f"{store.root} is in use by {holder}; wait for it or choose another folder") from None
        except OSError as error:
            raise UsageError(
                f"cannot write in {store.root}: {error.strerror}; choose a folder that can be written"
            ) from None
        try:
            yield
        except BaseException:
            if not store.exists(PLAN_FILE):
                path.unlink()
                with suppress(OSError):  # somebody has put something there
                    for folder in made:
                        folder.rmdir()
            raise
