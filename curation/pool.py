"""Run one function over many jobs: in this process, or on Dask workers with back-pressure."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import dask
from distributed import Client, Future, LocalCluster, as_completed
from distributed.scheduler import KilledWorker
from rich.console import Console

from curation.errors import Stopped, UsageError

Job = TypeVar("Job")
Result = TypeVar("Result")
IN_FLIGHT = 2  # jobs per worker thread that the scheduler holds at a time


class WorkerDied(RuntimeError):
    """The worker process died while it ran a job: out of memory, or a crash in a decoder."""


class Outcome(Generic[Job, Result]):
    """What became of a job: a result, or the error that ended it."""

    def __init__(self, job: Job, result: Result | None = None, error: BaseException | None = None) -> None:
        self.job, self._result, self.error = job, result, error

    def result(self) -> Result:
        """The result, or the error raised."""
        if self.error is not None:
            raise self.error
        assert self._result is not None
        return self._result


class Pool(Protocol):
    """Where jobs run."""

    @property
    def workers(self) -> int: ...

    @property
    def dashboard(self) -> str | None: ...

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Outcome[Job, Result]]:
        """Outcomes as they come, in any order; only a few jobs per worker are handed out ahead."""


class InlinePool:
    """Jobs one after another in this process."""

    workers = 1
    dashboard = None

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Outcome[Job, Result]]:
        for job in jobs:
            try:
                yield Outcome(job, function(job))
            except Exception as error:
                yield Outcome(job, error=error)


class DaskPool:
    """Jobs on the workers of a Dask cluster."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.workers = sum(client.nthreads().values())
        self.dashboard = client.dashboard_link

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Outcome[Job, Result]]:
        queue = iter(jobs)
        running: dict[Future, Job] = {}
        done = as_completed([])

        def top_up() -> None:
            threads = sum(self.client.nthreads().values())  # now: a cluster may grow and shrink
            while len(running) < max(1, threads) * IN_FLIGHT and (job := next(queue, None)) is not None:
                future = self.client.submit(function, job, pure=False)
                running[future] = job
                done.add(future)

        top_up()
        for future in done:
            job = running.pop(future)
            outcome: Outcome[Job, Result] = _outcome(job, future)
            future.release()
            top_up()
            yield outcome


@contextmanager
def open_pool(workers: int, scheduler: str | None, abreast: int = 1) -> Iterator[Pool]:
    """`scheduler`: address of an existing cluster. Otherwise `workers` local processes, each on `abreast` jobs at a
    time; 0 works in this one."""
    if scheduler:
        with _connect(scheduler) as client:
            yield DaskPool(client)
    elif workers == 0:
        yield InlinePool()
    else:
        settings = {
            "distributed.scheduler.allowed-failures": 0,
            # Dask has workers give freed memory back at once; every batch would fetch its arrays anew, page by page
            "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
        }
        logging.getLogger("distributed").setLevel(logging.ERROR)  # what a user must know, the run says itself
        with (
            dask.config.set(settings),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=abreast,
                memory_limit=None,  # Dask pauses a worker above its share: for ever, as networks stay in memory
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                preload="curation.worker",
            ) as cluster,
            Client(cluster) as client,
        ):
            yield DaskPool(client)


def survived(
    pool: Pool,
    work: Callable[[Job], Result],
    carefully: Callable[[Job], Result],
    jobs: Iterable[Job],
    console: Console,
) -> Iterator[Outcome[Job, Result]]:
    """Outcomes of all jobs on the workers; those of which one dies are done last, with care and from here: the dead
    worker's successor may not be there yet, or go the same way."""
    died: list[Job] = []
    for outcome in pool.map(work, jobs):
        if isinstance(outcome.error, WorkerDied):
            died.append(outcome.job)
        else:
            yield outcome
    if died:
        console.print(f"a worker died; what it worked on ({len(died)}) is gone through again image by image")
    yield from InlinePool().map(carefully, died)


def _connect(scheduler: str) -> Client:
    try:
        return Client(scheduler)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {scheduler} ({error}); give its address as it prints it, tcp://host:8786"
        ) from None


def _outcome(job: Job, future: Future) -> Outcome[Job, Result]:
    if future.cancelled():  # by nobody here
        raise Stopped("the Dask scheduler is gone, or has forgotten this run; what is committed stays: start it again")
    error = future.exception()
    if isinstance(error, KilledWorker):
        error = WorkerDied(str(error))
    return Outcome(job, error=error) if error is not None else Outcome(job, future.result())
