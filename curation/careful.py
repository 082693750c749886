"""Score a unit or pack a shard whose worker died: in a child process, image by image, so that the one that kills it is
known.

The child announces each image before it touches it, and -1 behind the last. When it dies, the image announced last is
marked as failed and another child takes over; every other image is worked on as usual.
"""

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from curation.errors import Stopped, UsageError
from curation.layout import shard_stats
from curation.pack import Packed, ShardJob, pack_shard
from curation.score import UnitJob, score_unit
from manifests.account import Counts
from manifests.store import Store

Job = TypeVar("Job", UnitJob, ShardJob)
RAISED = 3  # exit code of a child whose last word is what it raised
COMMAND = [sys.executable, "-P", "-m", "curation.careful"]  # -P: whatever the folder it is called in holds


def score_carefully(job: UnitJob) -> Counts:
    """Like `score_unit`, at the price of one process per deadly image. Raises what the child raises."""
    _in_children(score_unit, job, f"unit {job.unit}")
    return score_unit(replace(job, retry=False, deadly=()))  # committed by the child: only counted here


def pack_carefully(job: ShardJob) -> Packed:
    """Like `pack_shard`, in the same way."""
    _in_children(pack_shard, job, f"shard {job.shard}")
    stats = shard_stats(Store(job.out), job.shard)
    assert stats is not None, "committed by the child"
    return Packed(job.shard, stats["successes"], len(stats["failed"]))


def _in_children(work: Callable[[Job, Callable[[int], None]], Any], job: Job, name: str) -> None:
    while True:
        child = subprocess.run(COMMAND, input=pickle.dumps((work, job)), capture_output=True, check=False)
        if child.returncode == 0:
            return
        announced = child.stdout.split()
        if child.returncode == RAISED:
            raise pickle.loads(bytes.fromhex(announced[-1].decode()))  # our own child wrote it
        if child.returncode > 0:
            raise RuntimeError(f"{name}: {child.stderr.decode(errors='replace').strip()[-500:]}")
        if not announced:
            raise Stopped(
                f"{name}: its process was killed by signal {-child.returncode} before it came to an image; is there "
                "enough memory? Give fewer --workers"
            )
        last = int(announced[-1])
        if last < 0:
            raise Stopped(
                f"{name}: its process was killed by signal {-child.returncode} after its last image; is there enough "
                "memory? Give fewer --workers"
            )
        job = replace(job, deadly=(*job.deadly, last))


def _announce(number: int) -> None:
    print(number, flush=True)


if __name__ == "__main__":
    work, job = pickle.load(sys.stdin.buffer)  # our own parent wrote it
    try:
        work(job, _announce)
    except (UsageError, Stopped, OSError) as error:
        print(pickle.dumps(error).hex(), flush=True)
        sys.exit(RAISED)
