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
    """SIGTERM, and the end of a terminal, end what runs here as Ctrl-C does: what was done is put in order, a webcam's
    recording is kept.
    """
    heard = (signal.SIGTERM, *_hangup())

    def once(_number: int, _frame: FrameType | None) -> None:
        for number in heard:  # a closing terminal sends two, and the second would end the putting in order
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, once) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hangup() -> tuple[signal.Signals, ...]:
    """What a terminal sends when it is closed or its connection drops; nothing where nohup has had it ignored."""
    return () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)


PASSED_ON = 5.0
"""Seconds within which a second SIGTERM or SIGHUP may be the first once more."""


class Interrupt:
    """Remembers SIGTERM, SIGUSR1, SIGHUP and Ctrl-C for the loop to see at the end of a step. A second signal ends the
    process at once, but for a SIGTERM or SIGHUP soon after the first: torchrun passes on what a batch system has sent
    to every process already, and of a closing terminal both the shell and the system tell.
    """

    def __init__(self) -> None:
        self.asked = False
        self._since = 0.0
        self._process = os.getpid()

    def __enter__(self) -> "Interrupt":
        heard = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, *_hangup())
        self._before = {number: signal.signal(number, self._remember) for number in heard}
        return self

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if number in (signal.SIGINT, signal.SIGHUP) and os.getpid() != self._process:
            return  # a forked decoder gets what its terminal sends too; the trainer ends it
        now = time.monotonic()
        if self.asked and (number not in (signal.SIGTERM, signal.SIGHUP) or now - self._since > PASSED_ON):
            os._exit(128 + number)
        self.asked, self._since = True, self._since or now

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
