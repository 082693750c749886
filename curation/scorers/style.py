"""Is it a photograph of something real?"""

from curation.batch import Batch
from curation.scorers.networks import Networks


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
