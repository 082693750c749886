"""Workers: what they are started with, and that all of them get work."""

import time
from os.path import expandvars
from threading import Lock

import pytest
from distributed import Client, LocalCluster, get_worker

from curation.errors import Stopped
from curation.pool import DaskPool, open_pool

VARIABLE = "MALLOC_TRIM_THRESHOLD_"


def seen_by_a_worker() -> str:
    with open_pool(1, None) as pool:
        (outcome,) = pool.map(expandvars, [f"${VARIABLE}"])
        return outcome.result()


def test_workers_keep_the_memory_that_a_batch_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert seen_by_a_worker() == f"${VARIABLE}", "Dask's own setting, which costs thousands of page faults a photo"
    monkeypatch.setenv(VARIABLE, "1000000")
    assert seen_by_a_worker() == "1000000", "what the user asks for"


def is_limited(_: int) -> bool:
    return get_worker().memory_manager.memory_limit is not None


def test_no_worker_is_paused_for_the_memory_that_its_networks_keep() -> None:
    """Dask pauses one above its share of the machine, and it would never give enough of it back."""
    with open_pool(1, None) as pool:
        (outcome,) = pool.map(is_limited, [0])
        assert outcome.result() is False


def test_what_a_job_raises_goes_to_the_driver_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with open_pool(1, None) as pool:
        (outcome,) = pool.map(int, ["x"])
    assert isinstance(outcome.error, ValueError)
    assert "Traceback" not in capfd.readouterr().err


LOCK, RUNNING, MOST = Lock(), [], []


def work(job: int) -> int:
    """Notes how many jobs run at a time."""
    with LOCK:
        RUNNING.append(job)
        MOST.append(len(RUNNING))
    time.sleep(0.2)
    with LOCK:
        RUNNING.remove(job)
    return job


def test_workers_that_join_later_get_work() -> None:
    options = {"threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster) as client:
        outcomes = DaskPool(client).map(work, range(30))
        done = [next(outcomes).result()]
        assert max(MOST) == 1
        cluster.scale(5)
        client.wait_for_workers(5)
        done += [outcome.result() for outcome in outcomes]
    assert sorted(done) == list(range(30))
    assert max(MOST) > 2


def test_a_scheduler_that_goes_away_is_one_sentence() -> None:
    options = {"threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster) as client:
        outcomes = DaskPool(client).map(work, range(30))
        next(outcomes)
        cluster.close()
        with pytest.raises(Stopped, match="scheduler is gone"):
            list(outcomes)
