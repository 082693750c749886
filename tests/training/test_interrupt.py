"""Ctrl-C in a terminal reaches every process of the job."""

import multiprocessing
import signal

from training.interrupt import Interrupt


def _ctrl_c_twice() -> None:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def test_forked_decoders_leave_ctrl_c_to_the_trainer() -> None:
    with Interrupt() as interrupt:
        decoder = multiprocessing.get_context("fork").Process(target=_ctrl_c_twice)
        decoder.start()
        decoder.join()
    assert decoder.exitcode == 0
    assert not interrupt.asked
