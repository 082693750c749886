"""Is it a photograph of something real?"""

from typing import TYPE_CHECKING

from curation.batch import Batch
from curation.scorers.networks import Networks

if TYPE_CHECKING:
    from curation.full.networks import Answerer


class BuiltinStyle:
    """`partistic`: painting, drawing, cartoon, sculpture. `punnatural`: generated, screenshot, collage, meme."""

    name = "style"
    columns = ("partistic", "punnatural")

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.identity = networks.builtin.identities["style"]

    def score(self, batch: Batch) -> dict[str, list[float]]:
        artistic, unnatural = self.networks.builtin.style(self.networks.features(batch))
        return {"partistic": artistic.tolist(), "punnatural": unnatural.tolist()}


class FullStyle:
    """`partistic` and `punnatural` from CLIP in words, or from the recipe's classifiers."""

    name = "style"
    columns = ("partistic", "punnatural")

    def __init__(self, art: "Answerer", unnatural: "Answerer") -> None:
        self.art, self.unnatural = art, unnatural
        self.identity = f"{art.identity}+{unnatural.identity}"

    def score(self, batch: Batch) -> dict[str, list[float]]:
        return {
            "partistic": self.art.answer(batch).tolist(),
            "punnatural": self.unnatural.answer(batch).tolist(),
        }
