"""Does it show what the recipe's author asks for?"""

from typing import TYPE_CHECKING

from curation.batch import Batch

if TYPE_CHECKING:
    from curation.full.networks import Answerer


class Concepts:
    """One column `p<name>` for each of the recipe's own concepts."""

    name = "concepts"

    def __init__(self, answerers: dict[str, "Answerer"]) -> None:
        self.answerers = answerers
        self.columns = tuple(f"p{name}" for name in answerers)
        self.identity = "+".join(f"{name}={answerer.identity}" for name, answerer in answerers.items())

    def score(self, batch: Batch) -> dict[str, list[float]]:
        return {f"p{name}": answerer.answer(batch).tolist() for name, answerer in self.answerers.items()}
