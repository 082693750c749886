"""A recipe without networks, so that tests of the pipeline take seconds, and a curated folder to look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from curation.demo import make_photos
from curation.recipe import Recipe, from_dict, load_recipe
from curation.run import Workplace, curate
from tests.curation.made_run import sample_run


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Networks as this code converts them, not what another version left in ~/.cache; workers inherit it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAPIENS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def plain_recipe() -> Recipe:
    return from_dict(
        {
            "name": "plain",
            "scorers": ["quality", "fingerprint"],
            "rules": {"size": "min(width, height) >= 100", "exposure": "exposure > 0.2"},
            "duplicates": "near",
            "packing": {"samples_per_shard": 10},
        },
        "plain",
    )


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole curated folder with a few images of every kind; see `sample_run`."""
    return sample_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def demo_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos of `sapiens-curate demo`, good ones and those made bad; to be read only."""
    return make_photos(tmp_path_factory.mktemp("demo") / "photos")


@pytest.fixture(scope="session")
def demo_recipe() -> Recipe:
    """That of `sapiens-curate demo`."""
    return load_recipe("humans300m", ["duplicates=near", "people.min_short_side=150", "people.min_score=0.4"])


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path, demo_recipe: Recipe) -> Path:
    """`demo_photos` curated with the built-in networks; to be read only."""
    out = tmp_path_factory.mktemp("demo-run") / "out"
    curate(str(demo_photos), str(out), demo_recipe, place=Workplace(0))
    return out
