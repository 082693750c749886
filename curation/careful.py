"""Score a unit whose worker died: in a child process, image by image, so that the one that kills it is known.

The child announces each row before it touches it. When it dies, the row announced last is marked as failed and another
child takes over; every other image of the unit is scored as usual.
"""

import pickle
import subprocess
import sys
from dataclasses import replace

from curation.score import UnitJob, score_unit
from manifests.account import Counts


def score_carefully(job: UnitJob) -> Counts:
    """Like `score_unit`, at the price of one process per deadly image. Raises what the child raises."""
    while True:
        child = subprocess.run(
            [sys.executable, "-m", "curation.careful"], input=pickle.dumps(job), capture_output=True, check=False
        )
        if child.returncode == 0:
            return score_unit(replace(job, retry=False, deadly=()))  # committed by the child: only counted here
        announced = child.stdout.split()
        if child.returncode > 0 or not announced:
            raise RuntimeError(f"unit {job.unit}: {child.stderr.decode(errors='replace').strip()[-500:]}")
        job = replace(job, deadly=(*job.deadly, int(announced[-1])))


def _announce(row: int) -> None:
    print(row, flush=True)


if __name__ == "__main__":
    score_unit(pickle.load(sys.stdin.buffer), _announce)  # our own parent wrote it
