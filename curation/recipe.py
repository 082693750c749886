"""A recipe: which questions are asked of every image, which answers it must give, and how it is packed."""

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from curation.errors import UsageError
from curation.questions import COLUMNS, SCORERS
from curation.rules import Rule, RuleError
from manifests.schema import IMAGE, PLAN
from manifests.store import content_hash

BUILT_IN = ("humans300m", "humans1b")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class People(_Strict):
    """Which detections count as a person, and how large one must be; rules refer to these as `people.…`."""

    min_score: float = Field(0.9, ge=0, le=1)
    min_short_side: float = Field(300, ge=0)  # pixels


class Packing(_Strict):
    """How kept images become shards."""

    samples_per_shard: int = Field(1000, ge=1, le=10_000)
    max_short_side: int | None = Field(None, ge=16)  # larger images are shrunk to it and re-encoded
    quality: int = Field(95, ge=1, le=100)  # of JPEGs that are re-encoded


class Recipe(_Strict):
    """Everything that decides what is kept. Unknown keys are refused."""

    name: str
    profile: Literal["builtin", "full"] = "builtin"
    scorers: tuple[str, ...]
    weights: dict[str, str] = {}  # scorer → file or model name, for the profile `full`
    people: People = People()
    rules: dict[str, str]
    duplicates: Literal["off", "exact", "near"] = "exact"
    near_distance: int = Field(4, ge=1, le=12)  # bits of 64 in which two near-duplicates may differ
    packing: Packing = Packing()

    @field_validator("duplicates", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value

    @field_validator("rules", mode="before")
    @classmethod
    def _drop_rules_that_are_off(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v not in (False, None, "off")} if isinstance(value, dict) else value

    @field_validator("scorers")
    @classmethod
    def _known_scorers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in SCORERS]:
            raise ValueError(f"no scorer is called {unknown[0]!r}; there are {', '.join(SCORERS)}")
        return tuple(name for name in SCORERS if name in value)

    @model_validator(mode="after")
    def _readable_rules(self) -> "Recipe":
        asked = {column for name in self.scorers for column in COLUMNS[name]}
        answers = {column: name for name in SCORERS for column in COLUMNS[name]}
        for rule in self.parsed_rules():
            for column in rule.columns:
                if column in answers and column not in asked:
                    raise ValueError(
                        f"rule {rule.name!r} needs {column!r}, which the scorer {answers[column]!r} fills: "
                        "add it to `scorers` or drop the rule"
                    )
        if self.duplicates == "near" and "fingerprint" not in self.scorers:
            raise ValueError("duplicates: near needs the scorer 'fingerprint': add it to `scorers`")
        return self

    def parsed_rules(self) -> list[Rule]:
        """The rules in their order."""
        settings = {f"people.{key}": float(value) for key, value in self.people.model_dump().items()}
        return [Rule(name, text, settings) for name, text in self.rules.items()]

    def check_columns(self, extras: list[str]) -> None:
        """UsageError where a rule names a column that neither scorers nor the source's table have."""
        known = [*(column for name in self.scorers for column in COLUMNS[name]), *(f.name for f in IMAGE)]
        known += [name for name in PLAN.names if name in {"uri", "member", "caption"}] + extras
        for rule in self.parsed_rules():
            for column in rule.columns:
                if column not in known:
                    raise UsageError(f"rule {rule.name!r}: no column {column!r}; columns are {', '.join(known)}")

    @property
    def hash(self) -> str:
        """16 hex digits over everything but the name; the order of the rules counts, as reasons follow it."""
        return content_hash([self.model_dump(exclude={"name"}), list(self.rules)])


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """A built-in recipe by name or a YAML file, with `key.sub=value` overrides. Raises UsageError."""
    return from_dict(_override(_read(name), overrides or []), name)


def change(recipe: Recipe, overrides: list[str]) -> Recipe:
    """The same recipe with some keys set otherwise."""
    return from_dict(_override(recipe.model_dump(mode="json"), overrides), recipe.name) if overrides else recipe


def from_dict(values: Any, source: str) -> Recipe:
    """Validate; the error names the key, what was given and what is allowed."""
    if not isinstance(values, dict):
        raise UsageError(f"recipe {source}: expected keys and values, found {type(values).__name__}")
    try:
        return Recipe(**values)
    except (ValidationError, RuleError) as error:
        raise UsageError(f"recipe {source}: {_explain(error)}") from None


def to_yaml(recipe: Recipe) -> str:
    """The recipe as a file that `load_recipe` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(name: str) -> Any:
    if name in BUILT_IN:
        text = resources.files("curation.recipes").joinpath(f"{name}.yaml").read_text()
    else:
        try:
            text = Path(name).read_text()
        except OSError as error:
            allowed = ", ".join(BUILT_IN)
            raise UsageError(
                f"no recipe {name!r} ({error.strerror}); give {allowed} or the path of a YAML file"
            ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"recipe {name} is not YAML: {' '.join(str(error).split())}") from None


def _override(values: Any, overrides: list[str]) -> Any:
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item!r} has no '='; write --set people.min_score=0.8")
        *parents, last = path.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UsageError(f"--set {item!r}: {parent!r} holds a value, not a section")
        target[last] = yaml.safe_load(text)
    return values


def _explain(error: ValidationError | RuleError) -> str:
    if isinstance(error, RuleError):
        return str(error)
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "recipe"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        sections: dict[str, type[_Strict]] = {"people": People, "packing": Packing}
        section = sections.get(str(first["loc"][0]), Recipe)
        return f"{key} is not a key; allowed are {', '.join(section.model_fields)}"
    given = "" if first["type"] in {"missing", "value_error"} else f" (given: {first['input']!r})"
    return message if first["type"] == "value_error" and key == "recipe" else f"{key}: {message}{given}"
