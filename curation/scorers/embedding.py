"""What does it look like? CLIP's embedding, kept for search and deduplication beside the scores."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curation.batch import Batch

if TYPE_CHECKING:
    from curation.full.networks import FullNetworks


class Embedding:
    """`embedding`: float16 [D] of length 1. It goes to `embeddings/`, not into the tables."""

    name = "embedding"
    columns = ("embedding",)

    def __init__(self, networks: "FullNetworks") -> None:
        self.networks = networks
        self.identity = f"{networks.clip.identity}+float16"

    def score(self, batch: Batch) -> dict[str, list[NDArray[np.float16]]]:
        return {"embedding": list(self.networks.embeddings(batch).astype(np.float16))}
