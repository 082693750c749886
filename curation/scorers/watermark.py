"""Does it carry a mark of ownership?"""

from curation.batch import Batch
from curation.scorers.networks import Networks


class BuiltinWatermark:
    """`pwatermark`: probability of a visible mark, from the network trained in this repository."""

    name = "watermark"
    columns = ("pwatermark",)

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.identity = networks.builtin.identities["watermark"]

    def score(self, batch: Batch) -> dict[str, list[float]]:
        return {"pwatermark": self.networks.builtin.watermark(self.networks.features(batch)).tolist()}
