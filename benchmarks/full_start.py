"""How long a worker of the profile `full` takes to start: with nothing cached, and with everything.

    python benchmarks/full_start.py [PHOTOS]

PHOTOS is a folder of JPEGs; without it, the photos of the demo that are whole. Prints, in seconds, the imports, the
time to the first image's scores, and that of each other image in a first and in a second pass: the first meets every
picture size for the first time. One process on all cores (start it under `taskset` for fewer), random weights.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from full_profile import make_weights, recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="a folder of JPEGs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAPIENS_CACHE"] = f"{folder}/cache"
        weights = make_weights(Path(folder))
        files = sorted(args.photos.rglob("*.jpg")) if args.photos else whole_photos(Path(folder) / "demo")
        print(f"{len(files)} photos, load {os.getloadavg()[0]:.1f}")
        print(
            f"{'seconds':<14}{'imports':>10}{'first image':>14}{'all others, each':>19}{'again, each':>14}", flush=True
        )
        for name in ("empty caches", "full caches"):
            command = [sys.executable, __file__, "start", json.dumps(weights), *map(str, files)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            imports, first, others, again = json.loads(done.stdout.splitlines()[-1])
            print(f"{name:<14}{imports:>10.2f}{first:>14.2f}{others:>19.3f}{again:>14.3f}", flush=True)


def whole_photos(folder: Path) -> list[Path]:
    """The demo's photos that can be decoded."""
    from curation.decode import decode
    from curation.demo import make_photos

    whole = []
    for file in sorted(f for f in make_photos(folder).rglob("*") if f.is_file()):
        try:
            decode(file.read_bytes())
            whole.append(file)
        except ValueError:
            continue
    return whole


def start(weights: dict[str, str], files: list[Path]) -> None:
    """One worker's start, as a line of JSON: seconds of imports, to the first image, and for each other, twice."""
    import psutil

    from curation.batch import Batch
    from curation.decode import decode
    from curation.run import cores
    from curation.scorers import make_scorers

    scorers = make_scorers(recipe(weights), threads=cores())
    imports = time.time() - psutil.Process().create_time()

    def ask(some: list[Path]) -> float:
        since = time.perf_counter()
        for first in range(0, len(some), 16):
            batch = Batch([], [decode(file.read_bytes()) for file in some[first : first + 16]])
            for scorer in scorers:
                batch.scored.update(scorer.score(batch))
        return (time.perf_counter() - since) / len(some)

    print(json.dumps([imports, ask(files[:1]), ask(files[1:]), ask(files[1:])]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["start"]:
        start(json.loads(sys.argv[2]), [Path(file) for file in sys.argv[3:]])
    else:
        main()
