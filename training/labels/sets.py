"""Keypoint sets and class lists: the names of what is labelled, and what a mirror does to them.

Both are read from small YAML files. Those that are shipped lie in `training/labels/sets/`; any other is given by
its path.
"""

import colorsys
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from manifests.settings import NO_YAML
from training.config import UsageError

IGNORE = 255
"""Class id of pixels that count neither in losses nor in metrics."""

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class KeypointSet:
    """K keypoints of a person.

    sigmas: spread of each keypoint's labels as a share of the person's size, as COCO's OKS has it. flip_pairs: left
    and right keypoints, by index. skeleton: the pairs joined in drawings. upper_body, lower_body: the indices of the
    halves that half-body augmentation chooses from (files that name no lower half: all that are not above). groups: a
    whole-body split (body, foot, face, lefthand, righthand), or nothing.
    """

    name: str
    names: tuple[str, ...]
    sigmas: tuple[float, ...]
    flip_pairs: Pairs = ()
    skeleton: Pairs = ()
    upper_body: tuple[int, ...] = ()
    lower_body: tuple[int, ...] = ()
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """Which keypoint stands at each place of a mirrored image."""
        return _swapped(len(self.names), self.flip_pairs)

    @classmethod
    def load(cls, name: str) -> "KeypointSet":
        """A shipped set by its name, or a YAML file by its path. Raises UsageError."""
        return cls.from_dict(_read(name, "keypoints"), name)

    @classmethod
    def from_dict(cls, given: Any, origin: str = "the keypoint set") -> "KeypointSet":
        """From what `to_dict` or a YAML file gives; keypoints are called by name throughout. Raises UsageError."""
        allowed = ("name", "keypoints", "sigmas", "flip_pairs", "skeleton", "upper_body", "lower_body", "groups")
        _check_keys(given, allowed, ("keypoints", "sigmas"), origin)
        lists = _lists(given, allowed[1:-1], origin)
        groups = _lists(given.get("groups") or {}, None, origin)
        names = tuple(str(name) for name in lists["keypoints"])
        _check_unique(names, "keypoint", origin)
        index = {name: number for number, name in enumerate(names)}
        sigmas = tuple(_number(sigma, "sigma", origin) for sigma in lists["sigmas"])
        if not names or len(sigmas) != len(names) or not all(sigma > 0 for sigma in sigmas):
            raise UsageError(f"{origin}: {len(sigmas)} sigmas for {len(names)} keypoints; give one above 0 for each")
        upper = _indices(lists["upper_body"], index, origin)
        return cls(
            str(given.get("name", Path(origin).stem)),
            names,
            sigmas,
            _pairs(lists["flip_pairs"], index, origin, once=True),
            _pairs(lists["skeleton"], index, origin),
            upper,
            _indices(lists["lower_body"], index, origin) if "lower_body" in given else _others(upper, names),
            {str(key): _indices(group, index, origin) for key, group in groups.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, as in a YAML file."""
        halves = {"upper_body": [self.names[i] for i in self.upper_body]}
        if self.lower_body != _others(self.upper_body, self.names):
            halves["lower_body"] = [self.names[i] for i in self.lower_body]
        return {
            "name": self.name,
            "keypoints": list(self.names),
            "sigmas": list(self.sigmas),
            "flip_pairs": [[self.names[a], self.names[b]] for a, b in self.flip_pairs],
            "skeleton": [[self.names[a], self.names[b]] for a, b in self.skeleton],
            **halves,
            "groups": {key: [self.names[i] for i in group] for key, group in self.groups.items()},
        }


@dataclass(frozen=True)
class ClassList:
    """C classes of pixels; class 0 is the background.

    colours: RGB, 0..255. weights: of the classes in the loss. flip_pairs: left and right classes, by index. values:
    the number by which a class goes in the mask files that are packed; shards hold 0 … C-1.
    """

    name: str
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    weights: tuple[float, ...]
    flip_pairs: Pairs = ()
    values: tuple[int, ...] = ()

    @property
    def flip_order(self) -> tuple[int, ...]:
        """Which class a mirrored image has in place of each."""
        return _swapped(len(self.names), self.flip_pairs)

    @classmethod
    def load(cls, name: str) -> "ClassList":
        """A shipped list by its name, or by its path a YAML file or a JSON list of names. Raises UsageError."""
        return cls.from_dict(_read(name, "classes"), name)

    @classmethod
    def from_dict(cls, given: Any, origin: str = "the class list") -> "ClassList":
        """From what `to_dict` or a YAML file gives, or from a bare list of names. Raises UsageError."""
        if isinstance(given, list):
            given = {"classes": given}
        _check_keys(given, ("name", "classes", "flip_pairs"), ("classes",), origin)
        lists = _lists(given, ("classes", "flip_pairs"), origin)
        classes = [entry if isinstance(entry, Mapping) else {"name": entry} for entry in lists["classes"]]
        for entry in classes:
            _check_keys(entry, ("name", "colour", "weight", "value"), ("name",), origin)
        names = tuple(str(entry["name"]) for entry in classes)
        _check_unique(names, "class", origin)
        if not 2 <= len(names) <= IGNORE:
            raise UsageError(f"{origin}: {len(names)} classes; 2 to {IGNORE} are possible, the first is the background")
        given_values = [_number(entry.get("value", n), "value", origin) for n, entry in enumerate(classes)]
        values = tuple(map(int, given_values))
        whole = list(values) == given_values and all(0 <= value <= 255 for value in values)
        if len(set(values)) != len(values) or not whole:
            raise UsageError(
                f"{origin}: the classes' values are {given_values}; give each its own whole number from 0 to 255"
            )
        return cls(
            str(given.get("name", Path(origin).stem)),
            names,
            tuple(_colour(entry.get("colour"), number, origin) for number, entry in enumerate(classes)),
            tuple(_weight(entry.get("weight", 1.0), origin) for entry in classes),
            _pairs(lists["flip_pairs"], {n: i for i, n in enumerate(names)}, origin, once=True),
            values,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, as in a YAML file."""
        entries = zip(self.names, self.colours, self.weights, self.values, strict=True)
        return {
            "name": self.name,
            "classes": [{"name": n, "colour": list(c), "weight": w, "value": v} for n, c, w, v in entries],
            "flip_pairs": [[self.names[a], self.names[b]] for a, b in self.flip_pairs],
        }


def _others(chosen: tuple[int, ...], names: Sequence[str]) -> tuple[int, ...]:
    return tuple(i for i in range(len(names)) if i not in chosen)


def shipped(kind: str) -> list[str]:
    """Names of the shipped sets that have the key `kind`: keypoints or classes."""
    found = (path for path in (files("training.labels") / "sets").iterdir() if path.name.endswith(".yaml"))
    return sorted(path.name.removesuffix(".yaml") for path in found if f"\n{kind}:" in path.read_text())


def _read(name: str, kind: str) -> Any:
    inside = files("training.labels") / "sets" / f"{name}.yaml"
    if "/" not in name and inside.is_file():
        text = inside.read_text()
    else:
        try:
            text = Path(name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"'{name}' is neither a shipped set of {kind} ({', '.join(shipped(kind))}) nor a file that can be read"
            ) from error
    try:
        found = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    except NO_YAML as error:
        form = "JSON" if name.endswith(".json") else "YAML"
        raise UsageError(f"{name} is not {form}: {' '.join(str(error).split())}") from error
    kinds = {"keypoints": "a keypoint set", "classes": "a class list"}
    if isinstance(found, Mapping) and kind not in found and (other := kinds.keys() & found.keys()):
        raise UsageError(f"{name} is {kinds[other.pop()]}, not {kinds[kind]}; shipped are {', '.join(shipped(kind))}")
    return found


def _check_keys(given: Any, allowed: Sequence[str], needed: Sequence[str], origin: str) -> None:
    if not isinstance(given, Mapping):
        raise UsageError(f"{origin} holds {type(given).__name__} where keys are expected: {', '.join(allowed)}")
    for key in given:
        if key not in allowed:
            raise UsageError(f"{origin} has the key '{key}'; allowed are {', '.join(allowed)}")
    for key in needed:
        if key not in given:
            raise UsageError(f"{origin} lacks the key '{key}'; needed are {', '.join(needed)}")


def _lists(given: Any, keys: Sequence[str] | None, origin: str) -> dict[str, Sequence[Any]]:
    """The lists under some keys, None for all; empty where a key is left out or has nothing."""
    if not isinstance(given, Mapping):
        raise UsageError(f"{origin} has {given!r} where names with a list each are expected")
    lists = {key: given.get(key) or () for key in (given if keys is None else keys)}
    for key, value in lists.items():
        if not isinstance(value, list | tuple):
            raise UsageError(f"{origin} has {value!r} under '{key}', where a list is expected, such as [a, b]")
    return lists


def _number(value: Any, what: str, origin: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{origin} has the {what} {value!r}; give a number")
    return number


def _weight(value: Any, origin: str) -> float:
    if (weight := _number(value, "weight", origin)) < 0:
        raise UsageError(f"{origin} has the weight {value!r}; give 0 or more")
    return weight


def _check_unique(names: Sequence[str], kind: str, origin: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{origin} has the {kind} {', '.join(twice)} twice; every name must be there once")


def _indices(names: Any, index: Mapping[str, int], origin: str) -> tuple[int, ...]:
    texts = [str(name) for name in names]  # YAML reads `no` and `7` as something else
    for name in texts:
        if name not in index:
            raise UsageError(f"{origin} speaks of '{name}', which is not among its {len(index)} names")
    return tuple(index[name] for name in texts)


def _pairs(given: Any, index: Mapping[str, int], origin: str, once: bool = False) -> Pairs:
    pairs = []
    for pair in given:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UsageError(f"{origin} has {pair} where a pair of names is expected")
        a, b = _indices(pair, index, origin)
        pairs.append((a, b))
    flat = [i for pair in pairs for i in pair]
    if once and len(set(flat)) != len(flat):
        raise UsageError(f"{origin} has a name in two flip pairs; each may be in one")
    return tuple(pairs)


def _swapped(count: int, pairs: Pairs) -> tuple[int, ...]:
    order = list(range(count))
    for a, b in pairs:
        order[a], order[b] = b, a
    return tuple(order)


def _colour(given: Any, number: int, origin: str) -> tuple[int, int, int]:
    """The colour given, or one that is told apart from its neighbours': hues a golden angle apart."""
    if given is None:
        bright = 0.95 if number % 2 else 0.7
        shades = (50 / 255,) * 3 if number == 0 else colorsys.hsv_to_rgb(0.618034 * number % 1, 0.75, bright)
        red, green, blue = (round(255 * shade) for shade in shades)
        return red, green, blue
    if (
        not isinstance(given, list | tuple)
        or len(given) != 3
        or not all(0 <= _number(c, "colour", origin) <= 255 for c in given)
    ):
        raise UsageError(f"{origin} has the colour {given}; give red, green and blue from 0 to 255")
    red, green, blue = (int(c) for c in given)
    return red, green, blue
