"""One file per question. A scorer has a `name`, the `columns` it fills, an `identity` (model, hash of its weights and
version of its preprocessing) and `score(batch)`; it knows nothing of thresholds, Dask or files."""

from collections.abc import Callable
from typing import Any, Protocol

from curation.batch import Batch
from curation.recipe import Recipe
from curation.scorers.concepts import Concepts
from curation.scorers.embedding import Embedding
from curation.scorers.fingerprint import Fingerprint
from curation.scorers.networks import Networks
from curation.scorers.people import BuiltinPeople, FullPeople
from curation.scorers.quality import Quality
from curation.scorers.safety import BuiltinSafety
from curation.scorers.style import BuiltinStyle, FullStyle
from curation.scorers.text import BuiltinText, FullText
from curation.scorers.watermark import BuiltinWatermark, FullWatermark

NOBODY = "nobody"
"""Stands for the people's identity in that of the text scorer, where nobody looks for people."""


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


Makers = dict[str, Callable[[], Scorer]]


def make_scorers(recipe: Recipe, threads: int) -> list[Scorer]:
    """The recipe's scorers, in the order they are asked; networks load when first used, and what runs them is imported
    where the recipe asks one. Raises UsageError where the profile `full` finds no weights."""
    makers: Makers = {"fingerprint": Fingerprint, "quality": Quality}
    asked = frozenset(recipe.scorers) - makers.keys()
    if built_in := asked if recipe.profile == "builtin" else asked & {"safety"}:
        makers |= _builtin(recipe, threads, built_in)
    if recipe.profile == "full":
        makers |= _full(recipe, threads)
    return [makers[name]() for name in recipe.scorers]


def _builtin(recipe: Recipe, threads: int, needs: frozenset[str]) -> Makers:
    """The scorers that the built-in networks answer, where these are needed."""
    from curation.builtin import Builtin  # and with it torch, which takes seconds

    networks = Networks(Builtin(threads), needs)
    people = networks.builtin.identities["people"] if "people" in recipe.scorers else NOBODY
    return {
        "people": lambda: BuiltinPeople(networks),
        "text": lambda: BuiltinText(networks, people),
        "watermark": lambda: BuiltinWatermark(networks),
        "style": lambda: BuiltinStyle(networks),
        "safety": lambda: BuiltinSafety(networks),
    }


def _full(recipe: Recipe, threads: int) -> Makers:
    """The scorers that the profile `full` answers with other networks; the rest stay as they are."""
    import torch

    from curation.full.networks import FullNetworks

    torch.set_num_threads(threads)  # of what is done in torch around the networks: workers share the cores
    networks = FullNetworks(recipe, threads)
    return {
        "people": lambda: FullPeople(networks.detector),
        "text": lambda: FullText(networks.text, networks.detector.identity if "people" in recipe.scorers else NOBODY),
        "watermark": lambda: FullWatermark(networks.question("watermark")),
        "style": lambda: FullStyle(networks.question("art"), networks.question("unnatural")),
        "embedding": lambda: Embedding(networks),
        "concepts": lambda: Concepts({name: networks.question(name) for name in recipe.own_concepts}),
    }
