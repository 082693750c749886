"""The networks behind a recipe, as a table."""

from dataclasses import dataclass

from curation.recipe import Recipe
from curation.scorers import make_scorers


@dataclass(frozen=True)
class Origin:
    """Where a scorer's network comes from and under which licence."""

    source: str
    licence: str


BUILT_IN = {
    "people": Origin("trained in this repository (docs/models.md)", "AGPL-3.0"),
    "watermark": Origin("head trained in this repository on the rapidocr wheel's detector", "AGPL-3.0, Apache-2.0"),
    "style": Origin("heads trained in this repository on the wheels' networks", "AGPL-3.0, Apache-2.0"),
    "text": Origin("PP-OCR detector in the rapidocr wheel", "Apache-2.0"),
    "safety": Origin("detector in the nudenet wheel", "AGPL-3.0"),
}
NO_NETWORK = Origin("arithmetic, no network", "-")


def models_text(recipe: Recipe) -> str:
    """One line per scorer of the recipe: identity, origin and licence."""
    lines = [f"profile {recipe.profile}, recipe {recipe.name}"]
    for scorer in make_scorers(recipe, threads=1):
        origin = BUILT_IN.get(scorer.name, NO_NETWORK)
        lines.append(f"  {scorer.name:<12} {scorer.identity}\n  {'':<12} {origin.source}; {origin.licence}")
    return "\n".join(lines)
