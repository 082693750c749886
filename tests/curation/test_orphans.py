"""Repeats of an image that is lost between deciding and packing are kept in its place."""

import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from curation import run, settle
from curation.cli import retry
from curation.recipe import Recipe, change
from curation.record import Record
from curation.run import Workplace, curate, stages
from curation.verify import verify
from manifests.store import Store
from tests.curation.photos import encode, jpeg, scene, write
from tests.curation.test_run import contents

HERE = Workplace(workers=0)


def decided(source: Path, out: Path, recipe: Recipe) -> Record:
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(source), recipe)
        stage.score(record)
        stage.decide(record)
    return record


def packed(out: Path, record: Record, place: Workplace = HERE) -> pd.DataFrame:
    """The manifest by file name after packing, proven."""
    with stages(Store(out), Console(quiet=True), place) as stage:
        stage.pack(record)
    assert verify(str(out)) == (record.counts, [])
    manifest = pd.read_parquet(out / "manifest")
    return manifest.set_index(manifest.uri.map(os.path.basename))


def between(share: float, quality: int = 90) -> bytes:
    """A picture on the way from one scene to another: every twentieth is 2 to 4 bits of perceptual hash farther."""
    return encode(Image.blend(scene(2), scene(52), share), quality=quality)


@pytest.mark.parametrize("duplicates", ["exact", "near"])
def test_the_first_copy_that_can_be_read_is_kept(tmp_path: Path, plain_recipe: Recipe, duplicates: str) -> None:
    """Copies of two photos; of one, the original and the first copy are lost."""
    photos = {f"{seed:03d}.jpg": jpeg(seed) for seed in range(12)}
    photos |= {f"copy-{n}.jpg": jpeg(0) for n in range(3)} | {f"other-{n}.jpg": jpeg(1) for n in range(2)}
    source, out = write(tmp_path / "photos", photos), tmp_path / "out"
    recipe = change(plain_recipe, [f"duplicates={duplicates}"])
    record = decided(source, out, recipe)
    kept = record.counts.kept
    assert kept == 12
    for name in ("000.jpg", "copy-0.jpg"):
        (source / name).unlink()
    rows = packed(out, record)
    assert (record.counts.kept, record.counts.rejected, record.counts.failed) == (12, 3, 2)
    assert rows.verdict[["000.jpg", "copy-0.jpg", "copy-1.jpg", "copy-2.jpg"]].tolist() == [
        "failed", "failed", "kept", "rejected"
    ]  # fmt: skip
    assert rows.duplicate_of["copy-2.jpg"] == rows.uid["copy-1.jpg"]
    assert rows.reasons["copy-1.jpg"].tolist() == []
    assert rows.shard["copy-1.jpg"] == rows.shard.max() == record.shards - 1
    before = contents(out)
    retry(str(out), workers=0)
    assert contents(out) == before  # still lost, and nothing has moved
    for name in ("000.jpg", "copy-0.jpg"):
        (source / name).write_bytes(photos[name])
    curate(str(source), str(tmp_path / "whole"), recipe, place=HERE)
    retry(str(out), workers=0)
    assert contents(out) == contents(tmp_path / "whole")


def test_what_repeats_a_kept_image_or_fails_a_rule_stays_rejected(tmp_path: Path, plain_recipe: Recipe) -> None:
    """b and d are near the lost a, b is near the kept c too; c is not near a."""
    small = encode(scene(2).resize((90, 68)), quality=95)
    photos = {"a.jpg": between(0), "b.jpg": between(0.1), "c.jpg": between(0.15), "d.jpg": between(0, quality=60)}
    source, out = write(tmp_path / "photos", photos | {"e.jpg": small}), tmp_path / "out"
    record = decided(source, out, plain_recipe)
    assert record.counts.kept == 2
    (source / "a.jpg").unlink()
    rows = packed(out, record)
    assert rows.verdict.tolist() == ["failed", "rejected", "kept", "kept", "rejected"]
    assert rows.duplicate_of.tolist() == ["", rows.uid["c.jpg"], "", "", rows.uid["d.jpg"]]
    assert rows.reasons["e.jpg"].tolist() == ["size", "duplicate"]
    assert rows.shard["c.jpg"] == 0


def test_a_crash_and_other_workers_end_with_the_same_bytes(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = {f"{seed:03d}.jpg": jpeg(seed) for seed in range(30)}
    photos |= {f"copy-{seed}.jpg": jpeg(seed) for seed in range(12)}
    source = write(tmp_path / "photos", photos)
    records = {name: decided(source, tmp_path / name, plain_recipe) for name in ("whole", "two", "killed")}
    for seed in range(12):
        (source / f"{seed:03d}.jpg").unlink()
    packed(tmp_path / "whole", records["whole"])
    assert records["whole"].counts.kept == 30
    expected = contents(tmp_path / "whole")
    packed(tmp_path / "two", records["two"], Workplace(2))
    assert contents(tmp_path / "two") == expected

    real = settle.settle_manifest
    for number in (1, 2):  # after the first shards, and after those of the repeats
        calls = iter(range(10))

        def killed(*arguments, calls=calls, number=number):
            counts = real(*arguments)
            if next(calls) == number - 1:
                raise KeyboardInterrupt
            return counts

        monkeypatch.setattr(run, "settle_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            packed(tmp_path / "killed", records["killed"])
    monkeypatch.setattr(run, "settle_manifest", real)
    curate(str(source), str(tmp_path / "killed"), plain_recipe, place=HERE)
    assert contents(tmp_path / "killed") == expected
