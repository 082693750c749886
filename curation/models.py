"""The networks behind a recipe, and the weights that can be fetched, as tables."""

from dataclasses import dataclass

from curation.errors import UsageError
from curation.full.catalogue import CATALOGUE, DEFAULTS, clip_file
from curation.full.fetch import fetch, verify, weights_folder
from curation.recipe import Recipe


@dataclass(frozen=True)
class Origin:
    """Where a built-in scorer's network comes from and under which licence."""

    source: str
    licence: str


BUILT_IN = {
    "people": Origin("trained in this repository (docs/models.md)", "AGPL-3.0"),
    "watermark": Origin("head trained in this repository on the rapidocr wheel's detector", "AGPL-3.0, Apache-2.0"),
    "style": Origin("head trained in this repository on features of people and text", "AGPL-3.0, Apache-2.0"),
    "text": Origin("PP-OCR detector in the rapidocr wheel", "Apache-2.0"),
    "safety": Origin("detector in the nudenet wheel", "AGPL-3.0"),
}
NO_NETWORK = Origin("arithmetic, no network", "-")


def builtin_text(recipe: Recipe) -> str:
    """The networks of the profile `builtin`: identity, origin and licence of each of the recipe's scorers."""
    from curation.scorers import make_scorers

    plain = recipe.model_copy(
        update={"profile": "builtin", "scorers": tuple(s for s in recipe.scorers if s not in {"concepts", "embedding"})}
    )
    lines = ["profile builtin: carried by this package and two wheels"]
    for scorer in make_scorers(plain, threads=1):
        origin = BUILT_IN.get(scorer.name, NO_NETWORK)
        lines.append(f"  {scorer.name:<12} {scorer.identity:<28} {origin.licence:<22} {origin.source}")
    return "\n".join(lines)


def catalogue_text() -> str:
    """The weights of the profile `full`: size, licence, where they are kept, and what they are known by."""
    folder = weights_folder()
    lines = [f"profile full: fetched when first used, kept in {folder}"]
    for weights in CATALOGUE.values():
        here = "here" if (folder / weights.name).exists() else "not here"
        here += ", default" if weights.name in _default_names() else ""
        lines += [
            f"  {weights.use:<7} {weights.name:<42} {weights.megabytes:>7.1f} MB  {weights.licence:<18} {here}",
            f"  {'':<7} {weights.url}",
            f"  {'':<7} sha256 {weights.sha256 or 'not published: written down when first fetched'}",
        ]
    lines.append("Any other ultralytics, EasyOCR, open_clip or timm weights: give their path in the recipe.")
    return "\n".join(lines)


def fetch_all(names: list[str]) -> list[str]:
    """Fetch weights by name, by default those that the profile `full` uses; one line for each. Raises UsageError."""
    chosen = names or _default_names()
    if unknown := [name for name in chosen if name not in CATALOGUE]:
        raise UsageError(f"no weights are called {unknown[0]!r}; there are {', '.join(CATALOGUE)}")
    return [f"{name}: {fetch(CATALOGUE[name])}" for name in chosen]


def verify_all() -> tuple[list[str], bool]:
    """One line for each fetched file, and whether all are what they should be."""
    here = [weights for weights in CATALOGUE.values() if (weights_folder() / weights.name).exists()]
    faults = {weights.name: verify(weights) for weights in here}
    lines = [fault or f"{name}: sha256 as it should be" for name, fault in faults.items()]
    return lines or [f"nothing fetched yet in {weights_folder()}"], not any(faults.values())


def _default_names() -> list[str]:
    return [DEFAULTS["people"], DEFAULTS["text"], clip_file(*DEFAULTS["clip"].split("/"))]
