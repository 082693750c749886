"""Work around the networks is shared out to helpers of the thread that asks."""

import threading
import time

import pytest

from curation.full.network import spread


def test_answers_stay_in_order_and_helpers_end_with_the_thread_that_asked() -> None:
    helpers: set[threading.Thread] = set()
    answers: list[int] = []

    def twice(number: int) -> int:
        helpers.add(threading.current_thread())
        time.sleep(0.1 if number == 0 else 0.01)  # the first is done last
        return 2 * number

    caller = threading.Thread(target=lambda: answers.extend(spread(twice, range(8), 3)))
    caller.start()
    caller.join()
    assert answers == list(range(0, 16, 2))
    assert 1 < len(helpers) <= 3
    assert caller not in helpers
    for helper in helpers:
        helper.join(10)
    assert not any(helper.is_alive() for helper in helpers)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_exception_reaches_the_caller(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        spread(lambda number: 1 // number, [1, 0, 1], threads)
    assert spread(lambda number: 1 // number, [1, 1], threads) == [1, 1]
