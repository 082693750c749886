"""One score per image of a curated folder, under the name of the question it answers."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import UsageError
from curation.recipe import Recipe
from curation.report.columns import BEST_PERSON, stored, values
from curation.report.thresholds import lines
from manifests.scan import batches
from manifests.store import Store


@dataclass(frozen=True)
class Question:
    """`column` answers it with a number that is high for yes; `asks` is put to the person who labels."""

    name: str
    column: str
    asks: str


QUESTIONS = {
    question.name: question
    for question in (
        Question("people", BEST_PERSON, "Is there a person?"),
        Question("watermark", "pwatermark", "Does it carry a watermark?"),
        Question("text", "text_area_outside", "Is there text laid over it or beside the people?"),
        Question("art", "partistic", "Is it a painting, drawing, cartoon or sculpture?"),
        Question("unnatural", "punnatural", "Is it generated, a screenshot, a collage, a poster or a meme?"),
        Question("safety", "punsafe", "Does it show bare intimate parts?"),
    )
}


@dataclass(frozen=True)
class Scores:
    """Of every row of the manifest, in order: uid and score, NaN where there is none."""

    uids: list[str]
    uris: list[str]
    values: NDArray[np.float64]


def find_question(name: str, recipe: Recipe) -> Question:
    """A question by its name, its column, or a concept of the recipe's own. Raises UsageError."""
    for question in QUESTIONS.values():
        if name in {question.name, question.column}:
            return question
    if name in recipe.own_concepts:
        return Question(name, f"p{name}", f"Is it {recipe.concepts[name].yes[0]}?")
    known = ", ".join([*QUESTIONS, *recipe.own_concepts])
    raise UsageError(f"there is no question {name!r}; there are {known}")


def read_scores(store: Store, question: Question) -> Scores:
    """The score of every image. Raises UsageError where the question was not asked in this run."""
    uids: list[str] = []
    uris: list[str] = []
    found = []
    for batch in batches(store, ["uid", "uri", *stored([question.column])]):
        uids += [uid or "" for uid in batch["uid"].to_pylist()]
        uris += batch["uri"].to_pylist()
        found.append(_answers(batch, question.column))
    scores = Scores(uids, uris, np.concatenate(found) if found else np.zeros(0))
    if not np.isfinite(scores.values).any():
        raise UsageError(f"{store.root} holds no {question.column}: score it with a recipe that asks {question.name!r}")
    return scores


def threshold_in(recipe: Recipe, question: Question) -> float | None:
    """Where the recipe draws its line through the question's score, if it does."""
    return next((line.value for line in lines(recipe) if line.column == question.column), None)


def _answers(batch: pa.RecordBatch, column: str) -> NDArray[np.float64]:
    """A score per image, NaN where nobody asked; the best person's is 0 where nobody was found."""
    scores = values(batch, column)
    if column == BEST_PERSON:
        scores[np.isnan(scores) & batch["person_boxes"].is_valid().to_numpy(zero_copy_only=False)] = 0
    return scores
