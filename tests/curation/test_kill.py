"""SIGKILL at any moment, the same command again: the same bytes as if nothing had happened."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from curation.recipe import Recipe, change
from curation.run import Workplace, curate
from curation.verify import verify
from tests.curation.photos import BAD, jpeg, write
from tests.curation.test_run import contents

SEEDS = 30


def run(source: str, out: str, recipe: Recipe) -> None:
    curate(source, out, recipe, place=Workplace(workers=0))


@pytest.mark.slow
def test_killed_at_random_points_it_ends_with_the_bytes_of_an_uninterrupted_run(
    tmp_path: Path, plain_recipe: Recipe
) -> None:
    photos = {f"{seed:03d}.jpg": jpeg(seed) for seed in range(90)} | {
        f"{i:03d}-{n}": d for i, (n, d) in enumerate(BAD.items())
    }
    source = str(write(tmp_path / "photos", photos))
    recipe = change(plain_recipe, ["packing.samples_per_shard=6"])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["curation.run"])
    for name in ("whole", "timed"):  # the second one finds the imports done, as the killed ones will
        start = time.monotonic()
        child = context.Process(target=run, args=(source, str(tmp_path / name), recipe))
        child.start()
        child.join()
        duration = time.monotonic() - start
    expected = contents(tmp_path / "whole")
    assert len(expected) > 20

    stages = []
    for seed in range(SEEDS):
        out = tmp_path / f"killed-{seed}"
        rng = random.Random(seed)
        for _ in range(3):  # up to three kills before it is left alone
            child = context.Process(target=run, args=(source, str(out), recipe))
            child.start()
            child.join(timeout=duration * rng.random())
            if child.is_alive():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
                child.join()
                stages.append(stage_reached(out))
        run(source, str(out), recipe)
        assert contents(out) == expected, f"seed {seed}"
        assert verify(str(out))[1] == [], f"seed {seed}"
        assert not list(out.rglob(".tmp-*")), f"seed {seed}"
    assert len(stages) >= 20
    assert {"score", "pack"} <= set(stages)


def stage_reached(out: Path) -> str:
    if (out / "shards").is_dir():
        return "pack"
    if (out / "manifest").is_dir():
        return "decide"
    return "score" if (out / "scores").is_dir() else "plan"
