"""A lazy run asks less, and says so; what it says is what a full run says."""

from pathlib import Path
from shutil import copytree

import pandas as pd
import pytest
from rich.console import Console

from curation.errors import UsageError
from curation.inspect import inspect
from curation.recipe import Recipe, change, from_dict
from curation.report.page import render
from curation.run import Workplace, curate, redecide, stages
from curation.score import lazy_stages
from curation.verify import verify
from manifests.store import Store
from tests.curation.photos import encode, jpeg, scene, write

HERE = Workplace(workers=0)
DARK, SMALL = range(0, 20, 2), range(0, 20, 5)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return from_dict(
        {
            "name": "some",
            "scorers": ["people", "quality", "fingerprint"],
            "rules": {
                "size": "min(width, height) >= 100",
                "exposure": "exposure > 0.25",
                "person": "persons(score > 0.05) >= 0",
            },
        },
        "some",
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 photos, every second one dark, every fifth one small, and a file that is none."""
    files = {}
    for seed in range(20):
        photo = scene(seed, 96, 72) if seed in SMALL else scene(seed)
        files[f"{seed:02d}.jpg"] = encode(photo.point(lambda v: v // 4) if seed in DARK else photo)
    return write(tmp_path_factory.mktemp("lazy") / "photos", files | {"99.jpg": b"no photo"})


@pytest.fixture(scope="module")
def full(photos: Path, recipe: Recipe) -> Path:
    curate(str(photos), str(photos.parent / "full"), recipe, place=HERE)
    return photos.parent / "full"


@pytest.fixture(scope="module")
def curated_lazily(photos: Path, recipe: Recipe) -> Path:
    curate(str(photos), str(photos.parent / "lazy"), change(recipe, ["lazy=true"]), place=HERE)
    return photos.parent / "lazy"


@pytest.fixture
def lazy(curated_lazily: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return copytree(curated_lazily, tmp_path / "lazy")


def read(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "manifest")


def score_again(out: Path, source: Path, recipe: Recipe) -> None:
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(source), recipe)
        record.recipe = recipe
        stage.score(record)
        stage.decide(record)
        stage.pack(record)


def test_it_stops_at_the_first_certain_rejection_and_names_what_it_did_not_ask(lazy: Path, full: Path) -> None:
    table, whole = read(lazy), read(full)
    assert table.verdict.tolist() == whole.verdict.tolist()
    assert (whole.not_asked.map(len) == 0).all()
    for seed, row in enumerate(table[:20].itertuples()):
        skipped = list(row.not_asked)
        if seed in SMALL:
            assert (list(row.reasons), skipped) == (["size"], ["fingerprint", "quality", "people"])
            assert pd.isna(row.exposure)
            assert pd.isna(row.phash)
        elif seed in DARK:
            assert (list(row.reasons), skipped) == (["exposure"], ["people"])
            assert row.person_boxes is None
            assert row.exposure == whole.exposure[seed]
        else:
            assert skipped == []
    assert verify(str(lazy))[1] == []


def test_it_is_resumed_with_the_same_bytes(lazy: Path, photos: Path, recipe: Recipe) -> None:
    before = {path.name: path.read_bytes() for path in (lazy / "manifest").iterdir()}
    (lazy / "scores" / "00000_stats.json").unlink()
    curate(str(photos), str(lazy), change(recipe, ["lazy=true"]), place=HERE)
    assert {path.name: path.read_bytes() for path in (lazy / "manifest").iterdir()} == before


def test_looser_rules_are_refused_until_the_rest_is_asked(lazy: Path, photos: Path, recipe: Recipe) -> None:
    looser = change(recipe, ["lazy=true", "rules.exposure=exposure > 0.01"])
    with pytest.raises(UsageError, match=r"^8 images were asked only until .* `sapiens-curate score .*then decide$"):
        redecide(str(lazy), looser)
    stricter = change(recipe, ["lazy=true", "rules.exposure=exposure > 0.9"])
    assert redecide(str(lazy), stricter)[0].counts.kept == 0
    score_again(lazy, photos, looser)
    curate(str(photos), str(lazy.parent / "fresh"), change(looser, ["lazy=false"]), place=HERE)
    assert read(lazy).verdict.tolist() == read(lazy.parent / "fresh").verdict.tolist()
    assert sum(map(bool, read(lazy).not_asked.map(len))) == len(SMALL)


def test_asking_the_rest_makes_it_a_full_run(lazy: Path, full: Path, photos: Path, recipe: Recipe) -> None:
    with pytest.raises(UsageError, match=r"was made with --lazy; give it again, or ask what is missing"):
        curate(str(photos), str(lazy), recipe, place=HERE)
    score_again(lazy, photos, recipe)
    curate(str(photos), str(lazy), recipe, place=HERE)
    for folder in ("scores", "manifest"):
        for path in (lazy / folder).glob("*.parquet"):
            assert path.read_bytes() == (full / folder / path.name).read_bytes()


def test_a_full_run_is_not_taken_up_lazily(full: Path, photos: Path, recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="was made without --lazy"):
        curate(str(photos), str(full), change(recipe, ["lazy=true"]), place=HERE)


def test_page_and_inspect_say_what_was_not_asked(lazy: Path) -> None:
    assert "This run was lazy: 12 images were asked no more" in render(Store(lazy))
    text = inspect(lazy, "02.jpg").text()
    assert "unasked  people: it was rejected before" in text
    assert "unasked person" in text
    assert "FAILS   exposure" in text


def test_failed_images_come_back_with_every_question(recipe: Recipe, tmp_path: Path) -> None:
    source = write(tmp_path / "photos", {"00.jpg": b"", "01.jpg": jpeg(1)})
    chosen = change(recipe, ["lazy=true"])
    assert curate(str(source), str(tmp_path / "out"), chosen, place=HERE).failed == 1
    (source / "00.jpg").write_bytes(jpeg(3))
    with stages(Store(tmp_path / "out"), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(source), chosen)
        stage.score(record, retry=True)
        stage.decide(record)
    table = read(tmp_path / "out")
    assert table.exposure.notna().all()
    assert table.person_boxes.notna().all()


@pytest.mark.parametrize("profile", ["builtin", "full"])
def test_questions_that_decide_nothing_come_last(profile: str) -> None:
    recipe = from_dict(
        {
            "name": "r",
            "profile": profile,
            "scorers": ["people", "text", "style", "quality", "fingerprint", "safety"],
            "rules": {"text": "text_area_outside < 0.1", "art": "partistic < 0.5"},
        },
        "r",
    )
    order = lazy_stages(recipe)
    assert "safety" in order[-1]
    flat = [name for stage in order for name in stage]
    assert flat.index("people") < flat.index("text")


def test_people_are_found_before_text_that_is_read_beside_what_decides() -> None:
    """Or the lettering on a jersey would stay a caption for a later rule."""
    scorers = ["people", "text", "watermark", "style", "quality", "fingerprint"]
    recipe = from_dict({"name": "r", "scorers": scorers, "rules": {"watermark": "pwatermark < 0.5"}}, "r")
    flat = [name for stage in lazy_stages(recipe) for name in stage]
    assert flat.index("people") < flat.index("text") < flat.index("quality")


def test_what_fewer_questions_were_asked_of_is_asked_the_rest_later(tmp_path: Path) -> None:
    """An image that `retry` read while the recipe asked less was never asked the rest, and rejected for it."""
    source, out = write(tmp_path / "photos", {"a.jpg": jpeg(1), "b.jpg": b"no photo yet"}), tmp_path / "out"
    more = from_dict({"name": "m", "scorers": ["quality", "fingerprint"], "rules": {"e": "exposure > 0"}}, "m")
    fewer = change(more, ["scorers=[fingerprint]", "rules={}"])
    curate(str(source), str(out), more, place=HERE)
    (source / "b.jpg").write_bytes(jpeg(2))
    with stages(Store(out), Console(quiet=True), HERE) as stage:
        record = stage.plan(str(source), fewer)
        record.recipe = fewer
        stage.score(record, retry=True)
        stage.decide(record)
        stage.pack(record)
    assert read(out).not_asked.map(list).tolist() == [[], ["quality"]]
    assert read(out).verdict.tolist() == ["kept", "kept"]
    score_again(out, source, more)
    assert read(out).exposure.notna().all()
    assert read(out).verdict.tolist() == ["kept", "kept"]
    assert verify(str(out))[1] == []
