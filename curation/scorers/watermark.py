"""Does it carry a mark of ownership?"""

from typing import TYPE_CHECKING

from curation.batch import Batch
from curation.scorers.networks import Networks

if TYPE_CHECKING:
    from curation.full.networks import Answerer


class BuiltinWatermark:
    """`pwatermark`: probability of a visible mark, from the network trained in this repository."""

    name = "watermark"
    columns = ("pwatermark",)

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.identity = networks.builtin.identities["watermark"]

    def score(self, batch: Batch) -> dict[str, list[float]]:
        return {"pwatermark": self.networks.builtin.watermark(self.networks.features(batch)).tolist()}


class FullWatermark:
    """`pwatermark` from CLIP in words, or from the recipe's classifier."""

    name = "watermark"
    columns = ("pwatermark",)

    def __init__(self, answerer: "Answerer") -> None:
        self.answerer = answerer
        self.identity = answerer.identity

    def score(self, batch: Batch) -> dict[str, list[float]]:
        return {"pwatermark": self.answerer.answer(batch).tolist()}
