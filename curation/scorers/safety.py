"""Does it show exposed bodies?"""

from curation.batch import Batch
from curation.scorers.networks import Networks


class BuiltinSafety:
    """`punsafe`: the highest score among the `nudenet` wheel's classes of exposed intimate parts."""

    name = "safety"
    columns = ("punsafe",)

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.identity = networks.builtin.identities["safety"]

    def score(self, batch: Batch) -> dict[str, list[float]]:
        return {"punsafe": self.networks.builtin.safety(self.networks.features(batch)).tolist()}
