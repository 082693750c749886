"""The networks of the profile `full` as the scorers share them; one CLIP embedding per image serves every question."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curation.batch import Batch
from curation.full.catalogue import DEFAULTS
from curation.full.classifier import TrainedAnswer
from curation.full.clip import Clip, Question, find_clip
from curation.full.craft import TextDetector
from curation.full.detector import Detector
from curation.full.fetch import find_weights
from curation.recipe import Recipe
from manifests.store import content_hash


class Answerer(Protocol):
    """Answers one question of every image of a batch with a chance of yes."""

    @property
    def identity(self) -> str: ...

    def answer(self, batch: Batch) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class FullNetworks:
    """`recipe` names weights, concepts and classifiers; each network loads when first asked for."""

    recipe: Recipe
    threads: int

    @cached_property
    def detector(self) -> Detector:
        return Detector(find_weights(self._weights("people"), "people"), self.threads)

    @cached_property
    def text(self) -> TextDetector:
        return TextDetector(find_weights(self._weights("text"), "text"), self.threads)

    @cached_property
    def clip(self) -> Clip:
        return Clip(find_clip(self._weights("clip")), self.threads)

    def question(self, name: str) -> Answerer:
        """Who answers the concept `name`: the recipe's classifier if it has one, else CLIP in words."""
        if name in self.recipe.classifiers:
            return ByClassifier(TrainedAnswer(self.recipe.classifiers[name], self.threads))
        return InWords(self, name)

    def embeddings(self, batch: Batch) -> NDArray[np.float32]:
        """float32 [B,D] of length 1, computed once per batch."""
        return batch.shared("clip", lambda: self.clip.embed([picture.rgb for picture in batch.pictures]))

    def _weights(self, use: str) -> str:
        return self.recipe.weights.get(use, DEFAULTS[use])


@dataclass(frozen=True)
class ByClassifier:
    trained: TrainedAnswer

    @property
    def identity(self) -> str:
        return self.trained.identity

    def answer(self, batch: Batch) -> NDArray[np.float32]:
        return self.trained.answer([picture.rgb for picture in batch.pictures])


@dataclass(frozen=True)
class InWords:
    networks: FullNetworks
    concept: str

    @property
    def identity(self) -> str:
        words = content_hash(self.networks.recipe.concepts[self.concept].model_dump())[:8]
        return f"{self.networks.clip.identity}+{self.concept}:{words}"

    def answer(self, batch: Batch) -> NDArray[np.float32]:
        return self._question.answer(self.networks.embeddings(batch))

    @cached_property
    def _question(self) -> Question:
        return self.networks.clip.asked(self.networks.recipe.concepts[self.concept])
