"""A recipe: which questions are asked of every image, which answers it must give, and how it is packed."""

import re
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from curation.errors import UsageError
from curation.full.concepts import CONCEPTS, Classifier, Concept
from curation.questions import COLUMNS, SCORERS
from curation.rules import Rule, RuleError
from manifests.schema import IMAGE, PLAN, manifest_schema
from manifests.settings import NO_YAML
from manifests.store import content_hash

WEIGHTS = ("people", "text", "clip")
BUILT_IN = ("humans300m", "humans1b")
RESERVED = ("inputs", "readable", "duplicate")
_TEXT, _BOOLEAN = "tag:yaml.org,2002:str", "tag:yaml.org,2002:bool"


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
    lazy: bool = False  # stop asking about an image once a rule has rejected it
    scorers: tuple[str, ...]
    weights: dict[str, str] = {}  # people, text or clip → file, folder or name, for the profile `full`
    concepts: dict[str, Concept] = {}  # questions in words, for the profile `full`; its own ones are filled in
    classifiers: dict[str, Classifier] = {}  # trained networks that answer a concept instead of words
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

    @model_validator(mode="before")
    @classmethod
    def _with_the_profiles_concepts(cls, values: Any) -> Any:
        """A recipe of the profile `full` holds all its prompts, so that its hash and its record do."""
        own = values.get("concepts") or {}
        if values.get("profile") != "full":
            if extra := [key for key in ("weights", "concepts", "classifiers") if values.get(key)]:
                raise ValueError(f"`{extra[0]}` is for `profile: full`; the built-in networks take none")
            return values
        return {**values, "concepts": {**CONCEPTS, **own}} if isinstance(own, dict) else values

    @model_validator(mode="after")
    def _known_networks(self) -> "Recipe":
        if unknown := set(self.weights) - set(WEIGHTS):
            raise ValueError(f"weights: {min(unknown)!r} is no network; there are {', '.join(WEIGHTS)}")
        if unknown := set(self.classifiers) - set(self.concepts):
            raise ValueError(f"classifiers: {min(unknown)!r} is no concept; there are {', '.join(self.concepts)}")
        taken = {field.name for field in manifest_schema([])}
        for name in self.own_concepts:
            asked_by_us = name in {"people", "text", "safety"}  # by which `label` and `calibrate` know other questions
            if asked_by_us or not re.fullmatch("[a-z][a-z0-9_]*", name) or f"p{name}" in taken:
                raise ValueError(
                    f"concepts: {name!r} cannot be the name of one of your own; use other lower-case letters and digits"
                )
        if "embedding" in self.scorers and self.profile != "full":
            raise ValueError("the scorer 'embedding' is for `profile: full`; the built-in networks have no CLIP")
        if ("concepts" in self.scorers) != bool(self.own_concepts):
            raise ValueError("the scorer 'concepts' and concepts of your own go together: have both or neither")
        return self

    @model_validator(mode="after")
    def _readable_rules(self) -> "Recipe":
        if reserved := [name for name in self.rules if name in RESERVED]:
            raise ValueError(f"no rule may be called {reserved[0]!r}: the funnel has a line of that name")
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

    @property
    def own_concepts(self) -> tuple[str, ...]:
        """Concepts that are not the profile's; each fills a column `p<name>`."""
        return tuple(name for name in self.concepts if name not in CONCEPTS)

    @property
    def concept_fields(self) -> list[pa.Field]:
        """The columns of the recipe's own concepts: chances, 0..1."""
        return [pa.field(f"p{name}", pa.float32()) for name in self.own_concepts]

    def parsed_rules(self) -> list[Rule]:
        """The rules in their order."""
        settings = {f"people.{key}": float(value) for key, value in self.people.model_dump().items()}
        return [Rule(name, text, settings) for name, text in self.rules.items()]

    def scorers_of(self, rule: Rule) -> set[str]:
        """The scorers whose answers a rule reads."""
        found = {name for name in self.scorers for column in COLUMNS[name] if column in rule.columns}
        return found | {"concepts" for field in self.concept_fields if field.name in rule.columns}

    @property
    def networks(self) -> list[Any]:
        """What decides which networks answer."""
        return [self.profile, self.weights, self.concepts, self.classifiers]

    @property
    def asking(self) -> str:
        """Changes when the same scorers might have to be asked of other images."""
        return content_hash([list(self.rules.items()), self.people.model_dump()]) if self.lazy else "everything"

    def check_columns(self, extras: list[pa.Field]) -> None:
        """UsageError where a rule names a column that neither scorers nor the source's table have, or cannot use, or a
        concept would fill one of the table's."""
        brought = {field.name for field in extras}
        if taken := [name for name in self.own_concepts if f"p{name}" in brought]:
            raise UsageError(
                f"concepts: the source's table has a column 'p{taken[0]}' already; give the concept {taken[0]!r} "
                "another name"
            )
        known = [*(column for name in self.scorers for column in COLUMNS[name]), *(f.name for f in IMAGE)]
        known += [field.name for field in self.concept_fields]
        known += [name for name in PLAN.names if name in {"uri", "member", "caption"}]
        known += [field.name for field in extras]
        for rule in self.parsed_rules():
            for column in rule.columns:
                if column not in known:
                    raise UsageError(f"rule {rule.name!r}: no column {column!r}; columns are {', '.join(known)}")
            try:
                rule.passes(_two_rows(manifest_schema([*extras, *self.concept_fields])))
            except RuleError as error:
                raise UsageError(str(error)) from None

    @property
    def hash(self) -> str:
        """16 hex digits over everything but the name; the order of the rules counts, as reasons follow it."""
        return content_hash([self.model_dump(exclude={"name"}), list(self.rules)])


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """A built-in recipe by name or a YAML file, with `key.sub=value` overrides. Raises UsageError."""
    return from_dict(_override(_read(name), overrides or []), name)


def _two_rows(schema: pa.Schema) -> pa.Table:
    """A row of plausible values and one without any, to try rules on before hours of scoring."""
    return pa.table({field.name: pa.array([_example(field.type), None], field.type) for field in schema})


def _example(kind: pa.DataType) -> Any:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return b"bytes"
    if pa.types.is_boolean(kind):
        return True
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return 1
    return [] if pa.types.is_list(kind) or pa.types.is_map(kind) else None


def change(recipe: Recipe, overrides: list[str]) -> Recipe:
    """The same recipe with some keys set otherwise."""
    return from_dict(_override(recipe.model_dump(mode="json"), overrides), recipe.name) if overrides else recipe


def from_dict(values: Any, source: str) -> Recipe:
    """Validate; the error names the key, what was given and what is allowed."""
    if not isinstance(values, dict):
        raise UsageError(f"recipe {source}: expected keys and values, found {type(values).__name__}")
    try:
        return Recipe.model_validate(values)
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
            text = Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"recipe {name} is not UTF-8 text; save it as UTF-8") from None
        except OSError as error:
            allowed = ", ".join(BUILT_IN)
            raise UsageError(
                f"no recipe {name!r} ({error.strerror}); give {allowed} or the path of a YAML file"
            ) from None
    try:
        return yaml.load(text, _NoDoubles)
    except NO_YAML as error:
        raise UsageError(f"recipe {name} is not YAML: {' '.join(str(error).split())}") from None


class _NoDoubles(yaml.SafeLoader):
    """A key written twice is an error, not the second value; `yes` and `no` as keys are text, not booleans."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            key.tag = _TEXT if key.tag == _BOOLEAN else key.tag
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"the key {twice[0]!r} stands there twice")
        return super().construct_mapping(node, deep)


def _override(values: Any, overrides: list[str]) -> Any:
    for item in overrides:
        if not isinstance(values, dict):
            return values  # `from_dict` says what is wrong with it
        path, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item!r} has no '='; write --set people.min_score=0.8")
        *parents, last = path.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UsageError(f"--set {item!r}: {parent!r} holds a value, not a section")
        try:
            target[last] = yaml.load(text, _NoDoubles)
        except NO_YAML:
            raise UsageError(f"--set {item!r}: the value cannot be read; quote it as YAML asks") from None
    return values


def _explain(error: ValidationError | RuleError) -> str:
    if isinstance(error, RuleError):
        return str(error)
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "recipe"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        sections: dict[str, type[BaseModel]] = {
            "people": People,
            "packing": Packing,
            "concepts": Concept,
            "classifiers": Classifier,
        }
        section = sections.get(str(first["loc"][0]), Recipe)
        return f"{key} is not a key; allowed are {', '.join(section.model_fields)}"
    given = "" if first["type"] in {"missing", "value_error"} else f" (given: {first['input']!r})"
    return message if first["type"] == "value_error" and key == "recipe" else f"{key}: {message}{given}"
