"""The run as a whole, on files: nothing lost, nothing twice, the same bytes every time."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from math import ceil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from curation import run
from curation.careful import pack_carefully, score_carefully
from curation.cli import retry
from curation.errors import Stopped, UsageError
from curation.funnel import funnel_text
from curation.inspect import inspect
from curation.pack import ShardJob
from curation.plan import Plan, make_plan, read_plan, unit_size
from curation.pool import InlinePool, Job, Outcome, Result
from curation.recipe import Recipe, change, from_dict, to_yaml
from curation.record import Record, load_record
from curation.report.page import write_report
from curation.run import Workplace, _identities, check_scored, curate, redecide, stages
from curation.score import UnitJob, _scorers, load_scorers, score_unit
from curation.scorers.quality import Quality
from curation.verify import verify
from manifests.account import Counts
from manifests.store import Damaged, Store
from tests.curation.photos import BAD, GOOD, encode, jpeg, scene, write

HERE = Workplace(workers=0)


def contents(out: Path, *folders: str) -> dict[str, bytes]:
    """Tars and tables of a run by name; stats hold times and are left out."""
    found = {}
    for folder in folders or ("shards", "manifest"):
        for path in sorted((out / folder).iterdir()):
            if path.suffix in {".tar", ".parquet"}:
                found[f"{folder}/{path.name}"] = path.read_bytes()
    return found


def good_photos(folder: Path, number: int = 40) -> Path:
    return write(folder, {f"{seed:03d}.jpg": jpeg(seed) for seed in range(number)})


def test_every_input_has_one_verdict_and_bad_files_say_why(tmp_path: Path, plain_recipe: Recipe) -> None:
    source = write(tmp_path / "photos", GOOD | BAD)
    counts = curate(str(source), str(tmp_path / "out"), plain_recipe, place=HERE)
    manifest = pd.read_parquet(tmp_path / "out" / "manifest")
    assert counts == Counts(
        len(GOOD) + len(BAD), *(int((manifest.verdict == v).sum()) for v in ("kept", "rejected", "failed"))
    )
    names = manifest.uri.str.rsplit("/", n=1).str[-1]
    assert sorted(names) == sorted({**GOOD, **BAD})
    failed = manifest[manifest.verdict == "failed"]
    assert sorted(failed.uri.str.rsplit("/", n=1).str[-1]) == sorted(BAD)
    assert (failed.status == "failed_to_decode").all()
    assert failed.error_message.str.contains(": ").all()
    assert verify(str(tmp_path / "out")) == (counts, [])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(sorted(GOOD) + sorted(BAD)), min_size=1, max_size=40), per_shard=st.integers(1, 7)
)
def test_accounts_balance_whatever_the_mixture(
    tmp_path_factory: pytest.TempPathFactory, plain_recipe: Recipe, names: list[str], per_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("mixture")
    source = write(folder / "photos", {f"{i:02d}-{name}": (GOOD | BAD)[name] for i, name in enumerate(names)})
    recipe = change(plain_recipe, [f"packing.samples_per_shard={per_shard}"])
    counts = curate(str(source), str(folder / "out"), recipe, place=HERE)
    assert counts.inputs == len(names)
    assert counts.balanced
    assert counts.failed == sum(name in BAD for name in names)
    assert verify(str(folder / "out")) == (counts, [])


def test_one_and_two_workers_and_a_second_run_give_the_same_bytes(tmp_path: Path, plain_recipe: Recipe) -> None:
    source = good_photos(tmp_path / "photos")
    places = {"here": HERE, "one": Workplace(1), "two": Workplace(2), "abreast": Workplace(1, abreast=3)}
    for name, place in places.items():
        curate(str(source), str(tmp_path / name), plain_recipe, place=place)
    first = contents(tmp_path / "here")
    assert len(first) > 8
    for name in places:
        assert contents(tmp_path / name) == first, name
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "shards").iterdir()}
    curate(str(source), str(tmp_path / "two"), plain_recipe, place=HERE)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "shards").iterdir()} == times


def test_a_lost_file_is_made_again_and_a_damaged_one_is_found(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos"), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    whole = contents(out)
    tar = out / "shards" / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:-512] + b"x" * 512)
    assert any("00001.tar does not have the sha256" in fault for fault in verify(str(out))[1])
    for name in ("shards/00000.tar", "manifest/00001.parquet", "scores/00000.parquet", "shards/00001_stats.json"):
        (out / name).unlink()
        assert verify(str(out))[1], name
        curate(str(source), str(out), plain_recipe, place=HERE)
    table = out / "shards" / "00000.parquet"
    table.write_bytes(table.read_bytes()[:-8] + b"x" * 8)
    (out / "manifest/00000.parquet").unlink()
    curate(str(source), str(out), plain_recipe, place=HERE)
    assert contents(out) == whole
    assert verify(str(out))[1] == []
    for name, fault in (
        ("shards/00001", "00001.parquet does not have the sha256"),
        ("scores/00001", "scores/00001.parquet does not have the sha256"),
        ("manifest/00000", "of unit 0: "),
    ):
        table = (out / name).with_suffix(".parquet")
        table.write_bytes(table.read_bytes()[:-8] + b"x" * 8)
        assert any(fault in found for found in verify(str(out))[1])
    plan = out / "plan.parquet"
    pq.write_table(pq.read_table(plan), plan, row_group_size=pq.read_metadata(plan).row_group(0).num_rows)
    assert any("plan.parquet is not the plan" in fault for fault in verify(str(out))[1])
    damage(plan, 40)
    assert ["plan.parquet is not the plan" in fault for fault in verify(str(out))[1]] == [True]
    damage(
        plan, plan.stat().st_size - 8 - int.from_bytes(plan.read_bytes()[-8:-4], "little")
    )  # where the footer begins
    with pytest.raises(UsageError, match=r"plan.parquet is damaged"):
        verify(str(out))
    plan.write_bytes(plan.read_bytes()[:-8])
    with pytest.raises(UsageError, match=r"plan.parquet is damaged"):
        verify(str(out))


@pytest.mark.parametrize("change", [lambda text: text.replace("nsamples", "nsample3"), None])
def test_the_index_of_the_shards_is_checked_and_made_anew(
    tmp_path: Path, plain_recipe: Recipe, change: Callable[[str], str] | None
) -> None:
    source, out = good_photos(tmp_path / "photos"), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    index, whole = out / "wids.json", contents(out)
    whole_index = index.read_text()
    index.write_text(change(whole_index)) if change else index.unlink()
    assert any("wids.json does not list the shards" in fault for fault in verify(str(out))[1])
    curate(str(source), str(out), plain_recipe, place=HERE)
    assert (index.read_text(), contents(out)) == (whole_index, whole)


def test_a_recipe_altered_in_run_json_is_a_fault(tmp_path: Path, plain_recipe: Recipe) -> None:
    out = tmp_path / "out"
    curate(str(good_photos(tmp_path / "photos")), str(out), plain_recipe, place=HERE)
    record = load_record(Store(out))
    record.recipe = record.recipe.model_copy(update={"duplicates": "off"})
    record.save(Store(out))
    faults = verify(str(out))[1]
    assert faults
    assert all("was not decided by run.json's recipe" in fault for fault in faults)


def test_stats_that_vouch_for_another_shards_files_are_a_fault(tmp_path: Path, plain_recipe: Recipe) -> None:
    out = tmp_path / "out"
    curate(str(good_photos(tmp_path / "photos")), str(out), plain_recipe, place=HERE)
    stats = out / "shards" / "00000_stats.json"
    whole = json.loads(stats.read_text())
    whole["sha256"]["00004.parquet"] = whole["sha256"].pop("00000.parquet")
    stats.write_text(json.dumps(whole))
    assert any(fault.startswith("shard 00000: is missing") for fault in verify(str(out))[1])


def damage(table: Path, at: int) -> None:
    """Change 8 bytes, not the size."""
    data = bytearray(table.read_bytes())
    data[at : at + 8 or None] = b"x" * 8
    table.write_bytes(data)


@pytest.mark.parametrize("at", [-8, 100])  # the footer, which cannot be read then, and a value
def test_the_same_command_makes_damaged_scores_and_manifests_anew(
    tmp_path: Path, plain_recipe: Recipe, at: int
) -> None:
    source, out = good_photos(tmp_path / "photos"), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    whole = contents(out, "scores", "manifest", "shards")
    for name, told in (
        ("scores/00001.parquet", "scores of 1 unit(s) are not as they were written"),
        ("manifest/00000.parquet", "the manifest is not as it was written"),
    ):
        damage(out / name, at)
        console = Console(record=True, width=200)
        curate(str(source), str(out), plain_recipe, place=HERE, console=console)
        assert told in console.export_text()
        assert contents(out, "scores", "manifest", "shards") == whole


@pytest.mark.parametrize("at", [-8, 100])
def test_decide_and_pack_do_not_build_on_damaged_tables(tmp_path: Path, plain_recipe: Recipe, at: int) -> None:
    source, out = good_photos(tmp_path / "photos"), tmp_path / "out"
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(source), plain_recipe)
        stage.score(record)
        scores = (out / "scores/00001.parquet").read_bytes()
        damage(out / "scores/00001.parquet", at)
        with pytest.raises(UsageError, match=r"scores of 1 unit.* run `sapiens-curate score"):
            stage.decide(record)
        stage.score(record)
        assert (out / "scores/00001.parquet").read_bytes() == scores
        stage.decide(record)
        damage(out / "manifest/00001.parquet", at)
        stage.pack(record)
    assert verify(str(out))[1] == []
    damage(out / "manifest/00001.parquet", at)
    assert any("manifest" in fault for fault in verify(str(out))[1])


def test_every_command_says_which_table_is_damaged(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos", 4), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    damage(out / "manifest/00000.parquet", -8)
    for work in (write_report, funnel_text, lambda out: redecide(out, plain_recipe)):
        with pytest.raises(Damaged, match=r"manifest/00000.parquet cannot be read as a table .* delete it"):
            work(Store(out) if work is funnel_text else str(out))


def test_another_recipe_source_or_a_second_process_is_refused(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos", 4), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    with pytest.raises(UsageError, match="another recipe"):
        curate(str(source), str(out), change(plain_recipe, ["rules.size=width > 1"]), place=HERE)
    with pytest.raises(UsageError, match="made from"):
        curate(str(tmp_path), str(out), plain_recipe, place=HERE)
    with (
        stages(Store(out), Console(quiet=True), HERE),
        pytest.raises(UsageError, match=f"in use by process {os.getpid()}"),
    ):
        curate(str(source), str(out), plain_recipe, place=HERE)


def test_decide_again_says_what_flips_and_pack_follows(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos"), tmp_path / "out"
    before = curate(str(source), str(out), plain_recipe, place=HERE)
    exposure = pd.read_parquet(out / "manifest").exposure
    limit = float(exposure.median())
    stricter = change(plain_recipe, [f"rules.exposure=exposure > {limit}"])
    old = contents(out)
    outcome, flips = redecide(str(out), stricter)
    assert contents(out) == old
    assert flips.gained == 0
    assert flips.lost == before.kept - outcome.counts.kept == flips.lost_by["exposure"] > 0
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(source), stricter)
        record.recipe = stricter
        stage.decide(record)
        stage.pack(record)
    assert record.counts == outcome.counts
    assert verify(str(out)) == (outcome.counts, [])
    curate(str(source), str(tmp_path / "fresh"), stricter, place=HERE)
    assert contents(tmp_path / "fresh") == contents(out)
    _, flips = redecide(str(out), plain_recipe)
    assert (flips.gained, flips.lost) == (before.kept - outcome.counts.kept, 0)
    assert flips.gained_by["exposure"] == flips.gained


def test_a_dry_run_judges_sizes_as_they_were_before_packing(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos", 4), tmp_path / "out"
    recipe = change(plain_recipe, ["packing.max_short_side=64", "rules.exposure=off"])
    counts = curate(str(source), str(out), recipe, place=HERE)
    assert counts.kept > 0
    assert set(pd.read_parquet(out / "shards/00000.parquet").height) == {64}
    outcome, flips = redecide(str(out), recipe)
    assert (outcome.counts, flips.gained, flips.lost) == (counts, 0, 0)
    _, flips = redecide(str(out), change(recipe, ["rules.size=min(width, height) > 1000"]))
    assert flips.lost == counts.kept


def test_scores_of_two_networks_are_not_decided_together(tmp_path: Path, plain_recipe: Recipe) -> None:
    """As a re-score that was stopped halfway leaves them."""
    out = tmp_path / "out"
    curate(str(good_photos(tmp_path / "photos", 3)), str(out), plain_recipe, place=HERE)
    file = out / "scores/00000_stats.json"
    stats = json.loads(file.read_text())
    stats["identities"]["quality"] = "another@1"
    file.write_text(json.dumps(stats))
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = load_record(stage.store)
        record.recipe = change(plain_recipe, ["rules.exposure=exposure > 0.3"])
        with pytest.raises(UsageError, match=r"1 of 1 units were scored by other networks.*sapiens-curate score"):
            stage.decide(record)


def test_what_fails_around_the_networks_is_no_fault_of_the_images(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a cache that cannot be written: their bytes have been read by then."""
    source, out = good_photos(tmp_path / "photos", 3), tmp_path / "out"

    def fail(self: Quality, batch: object) -> None:
        raise PermissionError(13, "Permission denied", "/cache")

    with monkeypatch.context() as broken:
        broken.setattr(Quality, "score", fail)
        with pytest.raises(PermissionError):
            curate(str(source), str(out), plain_recipe, place=HERE)
    assert curate(str(source), str(out), plain_recipe, place=HERE).failed == 0


def test_shards_are_packed_anew_where_other_networks_gave_their_answers(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images are kept, but what their samples tell of them has changed."""
    source, out = good_photos(tmp_path / "photos", 3), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    score = Quality.score
    monkeypatch.setattr(Quality, "identity", "another@1")
    monkeypatch.setattr(Quality, "score", lambda self, batch: score(self, batch) | {"blur": [7.0] * len(batch)})
    _scorers.cache_clear()
    curate(str(source), str(out), plain_recipe, place=HERE)
    _scorers.cache_clear()
    assert set(pd.read_parquet(out / "shards/00000.parquet").blur) == {7.0}
    assert verify(str(out))[1] == []


def test_a_picture_that_was_replaced_is_asked_everything_anew(tmp_path: Path) -> None:
    """When another question is asked of it: the earlier answers are about bytes that are gone."""
    source, out = good_photos(tmp_path / "photos", 3), tmp_path / "out"
    values = {"name": "some", "scorers": ["quality"], "rules": {}, "duplicates": "off"}
    curate(str(source), str(out), from_dict(values, "some"), place=HERE)
    (source / "001.jpg").write_bytes(encode(Image.new("RGB", (320, 240), "grey")))
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = load_record(stage.store)
        record.recipe = from_dict(values | {"scorers": ["quality", "fingerprint"]}, "some")
        stage.score(record)
        stage.decide(record)
    table = pd.read_parquet(out / "manifest")
    assert table.original_width.tolist() == [160, 320, 160]
    assert table.blur[1] == 0 < table.blur[0]


def test_everything_may_be_kept(tmp_path: Path) -> None:
    recipe = from_dict({"name": "all", "scorers": ["quality"], "rules": {}, "duplicates": "off"}, "all")
    counts = curate(str(good_photos(tmp_path / "photos", 3)), str(tmp_path / "out"), recipe, place=HERE)
    assert (counts.kept, counts.inputs) == (3, 3)
    assert write_report(tmp_path / "out").exists()


def test_a_source_whose_own_name_is_not_utf8(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / os.fsdecode(b"f\xfcr"), 3), tmp_path / "out"
    first = curate(str(source), str(out), plain_recipe, place=HERE)
    assert (first.inputs, first.failed) == (3, 0)
    assert curate(str(source), str(out), plain_recipe, place=HERE) == first


def test_inspect_shows_the_sizes_that_rules_saw(tmp_path: Path, plain_recipe: Recipe) -> None:
    recipe = change(
        plain_recipe, ["packing.max_short_side=64", "rules.exposure=off", "rules.size=width * height >= 100"]
    )
    curate(str(good_photos(tmp_path / "photos", 2)), str(tmp_path / "out"), recipe, place=HERE)
    (ruling,) = (one for one in inspect(tmp_path / "out", "000.jpg").rulings if one.name == "size")
    assert ruling.saw == "width 160, height 120"


def test_a_rule_about_a_column_that_is_not_there_is_refused_by_every_stage(
    tmp_path: Path, plain_recipe: Recipe
) -> None:
    source, out = good_photos(tmp_path / "photos", 3), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = load_record(stage.store)
        record.recipe = change(plain_recipe, ["rules.license=license == 'cc0'"])
        for work in (stage.score, stage.decide):
            with pytest.raises(UsageError, match="no column 'license'; columns are"):
                work(record)


def test_a_run_that_is_refused_for_a_column_leaves_nothing_and_changes_nothing(
    tmp_path: Path, plain_recipe: Recipe
) -> None:
    photos, out = good_photos(tmp_path / "photos", 3), tmp_path / "new" / "out"
    table = photos / "photos.csv"
    table.write_text("path,license\n" + "".join(f"{number:03d}.jpg,cc0\n" for number in range(3)))
    wrong = change(plain_recipe, ["rules.license=licence == 'cc0'"])
    with pytest.raises(UsageError, match="no column 'licence'"):
        curate(str(table), str(out), wrong, place=HERE)
    assert not out.parent.exists()
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        stage.plan(str(table), plain_recipe)
    with pytest.raises(UsageError, match="no column 'licence'"):
        curate(str(table), str(out), wrong, place=HERE)
    assert load_record(Store(out)).recipe == plain_recipe


def test_networks_stay_loaded_where_only_the_judging_changes(plain_recipe: Recipe) -> None:
    loaded = load_scorers(plain_recipe, 1)
    others = ["rules.size=width > 1", "people.min_score=0.5", "packing.quality=90", "duplicates=off", "lazy=true"]
    for setting in others:
        assert load_scorers(change(plain_recipe, [setting]), 1) is loaded
    fewer = load_scorers(change(plain_recipe, ["scorers=[quality]", "duplicates=off"]), 1)
    assert [scorer.name for scorer in fewer] == ["quality"]


def test_retry_takes_up_failed_images_only(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = good_photos(tmp_path / "photos", 20), tmp_path / "out"
    (source / "007.jpg").write_bytes(b"")
    (source / "011.jpg").unlink()
    table = source / "list.csv"
    table.write_text("path,license\n" + "".join(f"{seed:03d}.jpg,cc{seed}\n" for seed in range(20)))
    assert curate(str(table), str(out), plain_recipe, place=HERE).failed == 2
    for seed in (7, 11):
        (source / f"{seed:03d}.jpg").write_bytes(jpeg(seed))
    assert curate(str(table), str(out), plain_recipe, place=HERE).failed == 2
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(table), plain_recipe)
        said = []
        monkeypatch.setattr(Record, "time", lambda self, name, seconds, images: said.append((name, images)))
        stage.score(record, retry=True)
        stage.decide(record)
        stage.pack(record)
    assert said[0] == ("score", 2)  # of 20: a rate counts what was asked
    assert record.counts.failed == 0
    assert verify(str(out))[1] == []
    assert pd.read_parquet(out / "manifest").license.tolist() == [f"cc{seed}" for seed in range(20)]


def test_what_retry_has_read_stays_read_when_more_is_asked(tmp_path: Path, plain_recipe: Recipe) -> None:
    """A file that was not there when the run was planned; the plan says so for ever."""
    source, out = good_photos(tmp_path / "photos", 2), tmp_path / "out"
    later = (source / "001.jpg").read_bytes()
    (source / "001.jpg").unlink()
    fewer = from_dict({"name": "r", "scorers": ["fingerprint"], "rules": {}}, "r")
    assert curate(f"{source}/{{000,001}}.jpg", str(out), fewer, place=HERE).failed == 1
    (source / "001.jpg").write_bytes(later)
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = load_record(stage.store)
        stage.score(record, retry=True)
        record.recipe = plain_recipe
        stage.score(record)
    scores = pd.read_parquet(out / "scores" / "00000.parquet")
    assert scores.status.tolist() == ["success", "success"]
    assert scores.blur.notna().all()


def test_a_shard_names_the_photo_that_is_kept_after_a_retry(tmp_path: Path, plain_recipe: Recipe) -> None:
    """Its copy was kept while it could not be read: the same key, the same bytes, another name and caption."""
    source, out, fresh = tmp_path / "photos", tmp_path / "out", tmp_path / "fresh"
    write(source, {"a.jpg": jpeg(1)[:300], "b.jpg": jpeg(1), "a.txt": b"first", "b.txt": b"second"})
    curate(str(source), str(out), plain_recipe, place=HERE)
    (source / "a.jpg").write_bytes(jpeg(1))
    retry(str(out), workers=0)
    packed = pd.read_parquet(out / "shards" / "00000.parquet")
    assert [Path(packed.uri[0]).name, packed.caption[0]] == ["a.jpg", "first"]
    curate(str(source), str(fresh), plain_recipe, place=HERE)
    assert (out / "shards" / "00000.tar").read_bytes() == (fresh / "shards" / "00000.tar").read_bytes()


def test_scores_that_changed_after_the_decision_are_told(tmp_path: Path, plain_recipe: Recipe) -> None:
    """As a `retry` that is killed between two units leaves them: run.json knows nothing of it."""
    source, out = good_photos(tmp_path / "photos", 3), tmp_path / "out"
    (source / "001.jpg").write_bytes(b"")
    curate(str(source), str(out), plain_recipe, place=HERE)
    (source / "001.jpg").write_bytes(jpeg(1))
    score_unit(UnitJob(str(out), 0, read_plan(Store(out)), str(source), plain_recipe, threads=1, retry=True))
    assert any("changed since it was decided" in fault for fault in verify(str(out))[1])
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        stage.score(load_record(stage.store))
    with pytest.raises(UsageError, match="no manifest of its scores"):
        redecide(str(out), plain_recipe)
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = load_record(stage.store)
        stage.decide(record)
        stage.pack(record)
    assert verify(str(out))[1] == []


def test_shards_of_another_decision_are_told_and_made_anew(tmp_path: Path, plain_recipe: Recipe) -> None:
    """A copy of them is put back, of equal sizes."""
    source, out = tmp_path / "photos", tmp_path / "out"
    write(source, {"a.jpg": encode(scene(1, 160, 120)), "b.jpg": encode(scene(2, 120, 160))})
    wide, tall = (change(plain_recipe, [f"rules={{shape: width {op} height}}"]) for op in "><")
    assert curate(str(source), str(out), wide, place=HERE).kept == 1
    shutil.copytree(out / "shards", tmp_path / "before")
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = load_record(stage.store)
        record.recipe = tall
        stage.decide(record)
        stage.pack(record)
    assert verify(str(out))[1] == []
    shutil.rmtree(out / "shards")
    shutil.copytree(tmp_path / "before", out / "shards")
    assert any("was packed by another decision" in fault for fault in verify(str(out))[1])
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        stage.pack(load_record(stage.store))
    assert verify(str(out))[1] == []


def test_text_is_another_question_where_nobody_looks_for_people() -> None:
    alone = from_dict({"name": "r", "scorers": ["text"], "rules": {}}, "r")
    people = change(alone, ["scorers=[people]"])
    models = _identities(alone) | _identities(people)
    record = Record(source="", plan_hash="", inputs=0, recipe=people, models=models)
    check_scored(record, people)
    with pytest.raises(UsageError, match="text not scored in this run"):
        check_scored(record, change(alone, ["scorers=[people, text]"]))


def test_retry_leaves_alone_what_cannot_be_read_and_what_killed_a_process(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos", 3), tmp_path / "out"
    (source / "torn.tar").write_bytes(b"x" * 2000)
    (source / "empty.jpg").write_bytes(b"")
    (source / "link.jpg").symlink_to(tmp_path / "later.jpg")
    curate(str(source), str(out), plain_recipe, place=HERE)
    before = pd.read_parquet(out / "manifest").set_index("uri").error_message
    (tmp_path / "later.jpg").write_bytes(jpeg(9))
    touched: list[int] = []
    job = UnitJob(str(out), 0, read_plan(Store(out)), str(source), plain_recipe, threads=1, retry=True, deadly=(1,))
    score_unit(job, touched.append)
    scores = pd.read_parquet(out / "scores" / "00000.parquet")
    assert touched.pop() == -1  # behind the last
    assert [Path(scores.uri[row]).name for row in touched] == ["empty.jpg", "link.jpg"]
    assert scores.error_message[1].startswith("WorkerDied")
    after = scores.set_index("uri")
    assert after.error_message[str(source / "torn.tar")] == before[str(source / "torn.tar")]
    assert after.status[str(source / "link.jpg")] == "success"


def test_a_file_that_changes_before_packing_fails_and_is_counted(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos", 20), tmp_path / "out"
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(source), plain_recipe)
        stage.score(record)
        stage.decide(record)
        kept = record.counts.kept
        manifest = pd.read_parquet(out / "manifest")
        victims = manifest[manifest.verdict == "kept"].uri.tolist()[:2]
        Path(victims[0]).write_bytes(jpeg(77))
        Path(victims[1]).unlink()
        stage.pack(record)
    assert (record.counts.kept, record.counts.failed) == (kept - 2, 2)
    assert verify(str(out)) == (record.counts, [])
    after = pd.read_parquet(out / "manifest").set_index("uri")
    assert after.loc[victims[0], "error_message"].startswith("SourceChanged")
    assert after.loc[victims[1], "error_message"].startswith("FileNotFoundError")


def test_the_report_bears_a_repeat_whose_original_was_lost(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos", 3), tmp_path / "out"
    (source / "repeat.jpg").write_bytes(jpeg(0))
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(source), plain_recipe)
        stage.score(record)
        stage.decide(record)
        (source / "000.jpg").unlink()
        stage.pack(record)
    assert (record.counts.kept, record.counts.rejected, record.counts.failed) == (3, 0, 1)
    assert "failed to pack" in write_report(out).read_text()


def test_retry_packs_what_could_not_be_read_when_it_was_packed(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos", 20), tmp_path / "out"
    curate(str(source), str(tmp_path / "whole"), plain_recipe, place=HERE)
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(source), plain_recipe)
        stage.score(record)
        stage.decide(record)
        photos = {path: path.read_bytes() for path in source.iterdir()}
        for path in photos:
            path.write_bytes(b"")
        stage.pack(record)
    assert record.counts.kept == 0
    for path, data in photos.items():
        path.write_bytes(data)
    retry(str(out), workers=0)
    assert contents(out, "shards") == contents(tmp_path / "whole", "shards")
    assert verify(str(out))[1] == []


class Elsewhere(InlinePool):
    """A worker whose jobs see the machine as it is within `there`."""

    def __init__(self, there: Callable[[], AbstractContextManager[None]]) -> None:
        self.there = there

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Outcome[Job, Result]]:
        def work(job: Job) -> Result:
            with self.there():
                return function(job)

        return super().map(work, jobs)


def test_workers_may_run_in_another_folder(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    good_photos(tmp_path / "photos", 20)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    pool = Elsewhere(lambda: chdir(tmp_path / "elsewhere"))
    monkeypatch.setattr(run, "open_pool", lambda *place: nullcontext(pool))
    counts = curate("photos", "out", plain_recipe)
    assert verify("out") == (counts, [])
    assert counts.kept == 20


def test_a_worker_that_does_not_see_the_source_ends_the_run_instead_of_failing_every_image(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = good_photos(tmp_path / "photos", 20), tmp_path / "out"

    @contextmanager
    def without_source() -> Iterator[None]:
        source.rename(tmp_path / "away")
        yield
        (tmp_path / "away").rename(source)

    blind = Elsewhere(without_source)
    with monkeypatch.context() as patch:
        patch.setattr(run, "open_pool", lambda *place: nullcontext(blind))
        with pytest.raises(UsageError, match=r"photos is not there or empty, and .* is to read its photos"):
            curate(str(source), str(out), plain_recipe)
    (tmp_path / "away").rename(source)
    assert curate(str(source), str(out), plain_recipe, place=HERE).kept == 20


@pytest.mark.parametrize("unmounted", [False, True])
def test_nothing_is_made_anew_without_the_source(tmp_path: Path, plain_recipe: Recipe, unmounted: bool) -> None:
    """Originals that were put away, or a disk that is not mounted, must not empty the shards."""
    source, out = good_photos(tmp_path / "photos", 20), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    whole = contents(out)
    source.rename(tmp_path / "away")
    if unmounted:
        source.mkdir()
    curate(str(source), str(out), plain_recipe, place=HERE)  # which finds all of it done
    (out / "scores/00000.parquet").unlink()
    with pytest.raises(UsageError, match=r"photos is not there or empty, .* put it back"):
        curate(str(source), str(out), plain_recipe, place=HERE)
    with pytest.raises(UsageError, match=r"photos is not there or empty, .* put it back"):
        retry(str(out), workers=0)
    (out / "shards/00000_stats.json").unlink()
    with stages(Store(out), Console(quiet=True), HERE) as stage, pytest.raises(UsageError, match="put it back"):
        stage.pack(load_record(stage.store))
    assert contents(out) == whole
    if unmounted:
        source.rmdir()
    (tmp_path / "away").rename(source)
    curate(str(source), str(out), plain_recipe, place=HERE)
    assert contents(out) == whole


def test_only_a_changed_scorer_runs_again(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curation import score
    from curation.scorers.fingerprint import Fingerprint
    from curation.scorers.quality import Quality

    source, out = good_photos(tmp_path / "photos", 10), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    asked: list[str] = []
    for scorer in (Fingerprint, Quality):
        original = scorer.score
        monkeypatch.setattr(scorer, "score", lambda self, batch, o=original: asked.append(self.name) or o(self, batch))
    score._scorers.cache_clear()
    curate(str(source), str(out), plain_recipe, place=HERE)
    assert asked == []
    monkeypatch.setattr(Quality, "identity", "another@1")
    score._scorers.cache_clear()
    curate(str(source), str(out), plain_recipe, place=HERE)
    assert set(asked) == {"quality"}
    assert verify(str(out))[1] == []
    score._scorers.cache_clear()


def test_an_image_that_kills_its_worker_is_found_and_the_rest_is_scored(tmp_path: Path, plain_recipe: Recipe) -> None:
    """A decoder is planted that dies on one picture, as a bug in a C library would, and an encoder that dies on one."""
    source, out = good_photos(tmp_path / "photos", 12), tmp_path / "out"
    (source / "005.jpg").write_bytes(jpeg(5) + b"DEADLY")
    (source / "tall.png").write_bytes(encode(scene(99, 120, 300), "PNG"))
    (tmp_path / "recipe.yaml").write_text(to_yaml(plain_recipe))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, simplejpeg\n"
        "real = simplejpeg.decode_jpeg\n"
        "def decode_jpeg(data, **options):\n"
        "    if data.endswith(b'DEADLY'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(data, **options)\n"
        "simplejpeg.decode_jpeg = decode_jpeg\n"
        "encode = simplejpeg.encode_jpeg\n"
        "def encode_jpeg(rgb, **options):\n"
        "    if rgb.shape == (300, 120, 3): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return encode(rgb, **options)\n"
        "simplejpeg.encode_jpeg = encode_jpeg\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [str(Path(sys.executable).with_name("sapiens-curate")), "run", str(source), str(out)]
    command += ["--recipe", str(tmp_path / "recipe.yaml"), "--workers", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = pd.read_parquet(out / "manifest")
    dead = manifest[manifest.verdict == "failed"]
    assert dead.uri.map(os.path.basename).tolist() == ["005.jpg", "tall.png"]
    assert dead.status.tolist() == ["failed_to_decode", "failed_to_pack"]
    assert dead.error_message.str.startswith("WorkerDied").all()
    assert len(manifest) == 13
    assert verify(str(out))[1] == []


def test_a_unit_is_scored_in_a_child_whatever_the_present_folder_holds(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "curation").mkdir()
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "out")
    source = str(good_photos(tmp_path / "photos", 3))
    plan, _ = make_plan(source, store)
    assert score_carefully(UnitJob(store.root, 0, plan, source, plain_recipe, threads=1)).kept == 3


def test_a_process_that_dies_before_any_image_is_one_sentence(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.CompletedProcess([], returncode=-9, stdout=b"", stderr=b"")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: killed)
    plan = Plan(1, 1, "", ())
    with pytest.raises(Stopped, match=r"unit 0: its process was killed by signal 9 .* Give fewer --workers"):
        score_carefully(UnitJob(str(tmp_path), 0, plan, str(tmp_path), plain_recipe, threads=1))


def test_a_process_that_dies_after_its_last_image_is_one_sentence(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image is to blame: each would be failed in turn, or a shard be tried for ever."""
    store, source = Store(tmp_path / "out"), good_photos(tmp_path / "photos", 3)
    plan, _ = make_plan(str(source), store)
    started = []

    def killed_at_the_end(command: list[str], *, input: bytes, **_: object) -> subprocess.CompletedProcess[bytes]:
        work, job = pickle.loads(input)
        announced: list[int] = []
        started.append(job)
        work(job, announced.append)
        said = "\n".join(map(str, announced)).encode()
        return subprocess.CompletedProcess([], returncode=-9, stdout=said, stderr=b"")

    monkeypatch.setattr(subprocess, "run", killed_at_the_end)
    with pytest.raises(Stopped, match=r"unit 0: its process was killed by signal 9 after its last image"):
        score_carefully(UnitJob(store.root, 0, plan, str(source), plain_recipe, threads=1))
    shutil.rmtree(tmp_path / "out")
    curate(str(source), store.root, plain_recipe, place=HERE)
    shutil.rmtree(tmp_path / "out" / "shards")
    with pytest.raises(Stopped, match=r"shard 0: its process was killed by signal 9 after its last image"):
        pack_carefully(ShardJob(store.root, 0, (0,), read_plan(store), str(source), plain_recipe))
    assert len(started) == 2


def test_what_a_child_raises_is_raised_here(tmp_path: Path, plain_recipe: Recipe) -> None:
    store = Store(tmp_path / "out")
    source = good_photos(tmp_path / "photos", 3)
    plan, _ = make_plan(str(source), store)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    (tmp_path / "out").write_text("where the folder was")
    with pytest.raises(OSError, match="out"):
        score_carefully(UnitJob(store.root, 0, plan, str(source), plain_recipe, threads=1))


def test_a_full_disk_ends_in_one_sentence_and_the_run_goes_on_later(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from manifests import store

    source, out = good_photos(tmp_path / "photos"), tmp_path / "out"
    curate(str(source), str(tmp_path / "whole"), plain_recipe, place=HERE)
    real, calls = store.fsync, iter(range(10_000))

    def full(path: Path) -> None:
        if next(calls) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(store, "fsync", full)
    with pytest.raises(Stopped, match=r"disk of .* is full"):
        curate(str(source), str(out), plain_recipe, place=HERE)
    monkeypatch.setattr(store, "fsync", real)
    curate(str(source), str(out), plain_recipe, place=HERE)
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.rglob(".tmp-*"))


def test_pool_hands_errors_back_with_their_job() -> None:
    outcomes = list(InlinePool().map(lambda n: 1 // n, [1, 0]))
    assert outcomes[0].result() == 1
    assert isinstance(outcomes[1].error, ZeroDivisionError)


def test_more_images_than_shards_hold_are_told_before_any_is_packed(
    tmp_path: Path, plain_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SHARDS", 2)
    source, out = good_photos(tmp_path / "photos", 24), tmp_path / "out"
    with pytest.raises(UsageError, match=r"24 images are kept, and 2 shards of 10 .*samples_per_shard=12`"):
        curate(str(source), str(out), plain_recipe, place=HERE)
    assert not (out / "manifest").exists()


def test_no_plan_has_more_units_than_five_digits_number() -> None:
    for inputs in (1, 10_000, 99_999_999, 100_000_001, 300_000_000):
        assert ceil(inputs / unit_size(inputs)) <= 100_000
    assert unit_size(99_999_999) == 1000


def test_a_unit_of_a_large_plan_is_found_at_once() -> None:
    """Some loops ask for every unit, some for every image: a list of all units each time would take days."""
    plan = Plan(100_000_001, 99_901, "", ())
    assert sum(plan.size(unit) for unit in range(plan.units)) == plan.inputs
    assert (plan.start(99_900), plan.size(99_900)) == (99_999_900, 101)


def test_a_stats_file_that_lacks_a_field_is_made_anew(tmp_path: Path, plain_recipe: Recipe) -> None:
    source, out = good_photos(tmp_path / "photos", 4), tmp_path / "out"
    curate(str(source), str(out), plain_recipe, place=HERE)
    for name, fields in (("scores", ("identities", "failed", "sha256")), ("shards", ("failed", "sha256", "successes"))):
        stats = out / name / "00000_stats.json"
        for field in fields:
            whole = json.loads(stats.read_text())
            stats.write_text(json.dumps({key: value for key, value in whole.items() if key != field}))
            curate(str(source), str(out), plain_recipe, place=HERE)
            assert field in json.loads(stats.read_text())


def test_the_run_json_of_another_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"conventions": {}}')
    with pytest.raises(UsageError, match=r"holds no run\.json of a curation; start with"):
        write_report(tmp_path)


def test_a_run_json_that_lacks_a_field_is_told(tmp_path: Path, plain_recipe: Recipe) -> None:
    out = tmp_path / "out"
    curate(str(good_photos(tmp_path / "photos", 2)), str(out), plain_recipe, place=HERE)
    record = out / "run.json"
    whole = json.loads(record.read_text())
    whole["counts"]["kepp"] = whole["counts"].pop("kept")
    for damaged in ({key: value for key, value in whole.items() if key != "passed_over"}, whole):
        record.write_text(json.dumps(damaged))
        with pytest.raises(UsageError, match=r"run\.json is damaged .* put it back"):
            verify(str(out))


def test_an_empty_folder_and_a_missing_one_are_one_sentence(tmp_path: Path, plain_recipe: Recipe) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no image is at"):
        curate(str(tmp_path / "empty"), str(tmp_path / "out"), plain_recipe, place=HERE)
    with pytest.raises(UsageError, match="nothing is at"):
        curate(str(tmp_path / "nowhere"), str(tmp_path / "out2"), plain_recipe, place=HERE)
