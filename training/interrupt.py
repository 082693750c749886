"""Leaving in good order when a scheduler asks."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_REQUEUE = 75
"""EX_TEMPFAIL: the work is saved and not finished; start the same command again."""


@contextmanager
def ending_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends what runs here as Ctrl-C does: what was done is put in order, a webcam's recording is kept."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


PASSED_ON = 5.0
"""Seconds within which a second SIGTERM may be the first once more."""


class Interrupt:
    """Remembers SIGTERM, SIGUSR1 and Ctrl-C for the loop to see at the end of a step. A second signal ends the
    process at once, but for a SIGTERM soon after the first: torchrun passes on the one that a batch system has sent to
    every process already.
    """

    def __init__(self) -> None:
        self.asked = False
        self._since = 0.0
        self._process = os.getpid()

    def __enter__(self) -> "Interrupt":
        self._before = {s: signal.signal(s, self._remember) for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
        return self

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and os.getpid() != self._process:
            return  # a forked decoder gets the terminal's Ctrl-C too; the trainer ends it
        now = time.monotonic()
        if self.asked and (number != signal.SIGTERM or now - self._since > PASSED_ON):
            os._exit(128 + number)
        self.asked, self._since = True, self._since or now

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
