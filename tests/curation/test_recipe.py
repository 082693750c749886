from pathlib import Path

import pyarrow as pa
import pytest

from curation.errors import UsageError
from curation.recipe import BUILT_IN, change, load_recipe, to_yaml


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_recipes_read_and_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "r.yaml").write_text(to_yaml(recipe))
    again = load_recipe(str(tmp_path / "r.yaml"))
    assert again == recipe
    assert again.hash == recipe.hash
    assert list(again.rules) == list(recipe.rules)


def test_the_papers_recipe_says_what_the_paper_says() -> None:
    recipe = load_recipe("humans300m")
    assert (recipe.people.min_score, recipe.people.min_short_side) == (0.9, 300)
    assert {"watermark", "text", "art", "unnatural", "person"} <= set(recipe.rules)
    assert "safety" not in recipe.rules
    assert load_recipe("humans1b").people.min_short_side == 384


def test_settings_change_one_key_and_the_hash() -> None:
    recipe = load_recipe("humans300m")
    other = load_recipe(
        "humans300m", ["people.min_score=0.8", "rules.art=off", "duplicates=off", "rules.wide=width > height"]
    )
    assert other.people.min_score == 0.8
    assert "art" not in other.rules
    assert other.duplicates == "off"
    assert other.hash != recipe.hash
    assert change(recipe, []).hash == recipe.hash


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("people.min_skore=1", "people.min_skore is not a key; allowed are min_score, min_short_side"),
        ("sharpness=1", "sharpness is not a key; allowed are name, profile"),
        ("profile=best", "profile: Input should be 'builtin' or 'full' .given: 'best'"),
        ("people.min_score=2", "people.min_score: .* less than or equal to 1 .given: 2"),
        ("scorers=[people, faces]", "no scorer is called 'faces'; there are fingerprint, quality"),
        ("scorers=[people]", "rule 'watermark' needs 'pwatermark', which the scorer 'watermark' fills"),
        ("rules.art=partistic <", "rule 'art': 'partistic <' cannot be read"),
        ("people.min_score", "has no '='"),
        ("name.first=1", "'name' holds a value"),
        ("rules.x={", "the value cannot be read"),
        ("rules.readable=width > 1", "no rule may be called 'readable'"),
        ("rules.x=width", "'width' is no comparison"),
    ],
)
def test_an_error_names_the_key_and_what_is_allowed(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe("humans300m", [setting])


def test_a_recipe_that_is_not_there_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe 'humans3m' .*; give humans300m, humans1b or"):
        load_recipe("humans3m")
    (tmp_path / "bad.yaml").write_text("rules: {size: min(width,height) > 1")
    with pytest.raises(UsageError, match="is not YAML"):
        load_recipe(str(tmp_path / "bad.yaml"))
    (tmp_path / "twice.yaml").write_text("name: x\nrules: {a: width > 1, a: height > 2}")
    with pytest.raises(UsageError, match="'a' stands there twice"):
        load_recipe(str(tmp_path / "twice.yaml"))
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(UsageError, match="expected keys and values, found list"):
        load_recipe(str(tmp_path / "list.yaml"), ["name=x"])


def test_a_rule_on_a_column_nobody_has_is_refused() -> None:
    recipe = load_recipe("humans300m", ["rules.licence=license == 'cc0'"])
    recipe.check_columns([pa.field("license", pa.string())])
    with pytest.raises(UsageError, match="no column 'license'; columns are"):
        recipe.check_columns([])
    with pytest.raises(UsageError, match="license is int64"):
        load_recipe("humans300m", ["rules.licence=license == 'cc0' and caption < 3"]).check_columns(
            [pa.field("license", pa.int64())]
        )


@pytest.mark.parametrize(
    "rule",
    [
        "license == 5",
        "width == '5'",
        "1 / 0 < width",
        "license + 's' == 'ccs'",
        "min(license, 'b') == 'a'",
        "raw == 'a'",
    ],
)
def test_a_rule_that_some_image_would_stop_is_refused_before_any_is_scored(rule: str) -> None:
    recipe = load_recipe("humans300m", [f"rules.x={rule}"])
    with pytest.raises(UsageError, match=r"rule 'x': .* cannot be worked out"):
        recipe.check_columns([pa.field("license", pa.string()), pa.field("raw", pa.binary())])


def test_yes_and_no_are_the_keys_of_a_concept(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(
        "name: words\nprofile: full\nlazy: no\nscorers: [concepts, watermark]\nconcepts:\n  tattoo:\n"
        "    yes: [a tattooed arm]\n    no: [bare skin]\nrules: {}\n"
        "classifiers: {watermark: {model: resnet10t, weights: w.pt, yes: 1}}\n"
    )
    recipe = load_recipe(str(path), ["concepts.hat={yes: [a hat], no: [bare head]}"])
    assert recipe.concepts["tattoo"].yes == ("a tattooed arm",)
    assert recipe.concepts["hat"].no == ("bare head",)
    assert recipe.classifiers["watermark"].yes == 1
    assert not recipe.lazy


def test_a_concept_does_not_fill_a_column_of_the_table() -> None:
    """Both under one name ended a run with a traceback."""
    recipe = load_recipe(
        "humans300m", ["profile=full", "scorers=[concepts]", "rules={}", "concepts.hat={yes: [a hat], no: [none]}"]
    )
    recipe.check_columns([pa.field("phat2", pa.float32())])
    with pytest.raises(UsageError, match="the source's table has a column 'phat' already; give the concept 'hat'"):
        recipe.check_columns([pa.field("phat", pa.float32())])


def test_a_date_that_there_is_not_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the value cannot be read"):
        load_recipe("humans300m", ["name=2024-02-30"])
    (tmp_path / "r.yaml").write_text("name: 2024-02-30\n")
    with pytest.raises(UsageError, match="is not YAML"):
        load_recipe(str(tmp_path / "r.yaml"))
