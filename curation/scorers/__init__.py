"""One file per question. A scorer has a `name`, the `columns` it fills, an `identity` (model, hash of its weights and
version of its preprocessing) and `score(batch)`; it knows nothing of thresholds, Dask or files."""

from collections.abc import Callable
from typing import Any, Protocol

from curation.batch import Batch
from curation.builtin import ANSWERS, Builtin
from curation.recipe import Recipe
from curation.scorers.fingerprint import Fingerprint
from curation.scorers.networks import Networks
from curation.scorers.people import BuiltinPeople
from curation.scorers.quality import Quality
from curation.scorers.safety import BuiltinSafety
from curation.scorers.style import BuiltinStyle
from curation.scorers.text import BuiltinText
from curation.scorers.watermark import BuiltinWatermark


class Scorer(Protocol):
    """What every scorer offers."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def identity(self) -> str: ...

    def score(self, batch: Batch) -> dict[str, list[Any]]:
        """One value per image for each column. An exception means that some image of the batch cannot be scored."""


def make_scorers(recipe: Recipe, threads: int) -> list[Scorer]:
    """The recipe's scorers, in the order they are asked; networks load when first used."""
    networks = Networks(Builtin(threads), frozenset(recipe.scorers) & set(ANSWERS))
    people = networks.builtin.identities["people"] if "people" in recipe.scorers else "nobody"
    makers: dict[str, Callable[[], Scorer]] = {
        "fingerprint": Fingerprint,
        "quality": Quality,
        "people": lambda: BuiltinPeople(networks),
        "text": lambda: BuiltinText(networks, people),
        "watermark": lambda: BuiltinWatermark(networks),
        "style": lambda: BuiltinStyle(networks),
        "safety": lambda: BuiltinSafety(networks),
    }
    return [makers[name]() for name in recipe.scorers]
