"""Ctrl-C in a terminal reaches every process of the job."""

import multiprocessing
import signal
from multiprocessing.sharedctypes import Synchronized

import pytest

from training import interrupt
from training.interrupt import Interrupt, ending_as_ctrl_c


def _ctrl_c_twice() -> None:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def _sigterm_twice(later: float, saved: Synchronized) -> None:
    clock = iter([100.0, 100.0 + later])
    interrupt.time.monotonic = lambda: next(clock)  # type: ignore[attr-defined]
    with Interrupt() as it:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        saved.value = it.asked


@pytest.mark.parametrize(("later", "saves"), [(0.1, True), (4.9, True), (60.0, False)])
def test_a_sigterm_that_torchrun_passes_on_is_the_first_once_more(later: float, saves: bool) -> None:
    """A batch system has sent it to every process already; a minute later somebody means it."""
    context = multiprocessing.get_context("fork")
    saved = context.Value("b", False)
    trainer = context.Process(target=_sigterm_twice, args=(later, saved))
    trainer.start()
    trainer.join()
    assert bool(saved.value) is saves
    assert trainer.exitcode == (0 if saves else 128 + signal.SIGTERM)


def test_a_closing_terminal_is_heard_once() -> None:
    """Its shell sends SIGHUP, and the system once more."""
    with Interrupt() as asked:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert asked.asked
    order = []
    with ending_as_ctrl_c():
        try:
            signal.raise_signal(signal.SIGHUP)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGHUP)  # while the recording is put in order
            order.append("kept")
    assert order == ["kept"]


def test_forked_decoders_leave_ctrl_c_to_the_trainer() -> None:
    with Interrupt() as asked:
        decoder = multiprocessing.get_context("fork").Process(target=_ctrl_c_twice)
        decoder.start()
        decoder.join()
    assert decoder.exitcode == 0
    assert not asked.asked
