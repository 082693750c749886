"""`run.json`: what was run on what, with which recipe and models, how far it came and how long each stage took."""

import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from curation.errors import UsageError
from curation.recipe import Recipe, from_dict
from manifests.account import Counts
from manifests.store import Store

RUN_FILE = "run.json"
LIBRARIES = ("sapiens-curation", "numpy", "opencv-python-headless", "openvino", "pillow", "pyarrow", "simplejpeg")


@dataclass
class Record:
    """The run's own account. `decided` and `packed` say for which recipe and scores those stages are complete,
    `manifest` which bytes the manifest's files have."""

    source: str
    plan_hash: str
    inputs: int
    recipe: Recipe
    passed_over: dict[str, int] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    decided: str = ""
    packed: str = ""
    manifest: str = ""
    shards: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    def save(self, store: Store) -> None:
        """Write `run.json` atomically."""
        values = asdict(self) | {
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_hash": self.recipe.hash,
            "profile": self.recipe.profile,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        }
        store.write_json(RUN_FILE, values)

    def time(self, stage: str, seconds: float, images: int) -> None:
        """Note how long a stage took; of a resumed stage, how long its last run took."""
        self.stages[stage] = {"seconds": round(seconds, 3), "images_per_s": round(images / max(seconds, 1e-9), 2)}


def load_record(store: Store) -> Record:
    """Read `run.json`; UsageError where there is none, or another program's."""
    values: Any = store.read_json(RUN_FILE)
    if not isinstance(values, dict) or not {"source", "plan_hash", "recipe"} <= set(values):
        raise UsageError(
            f"{store.root} holds no {RUN_FILE} of a curation; start with `sapiens-curate run SOURCE {store.root}`"
        )
    try:
        return Record(
            source=values["source"],
            plan_hash=values["plan_hash"],
            inputs=values["inputs"],
            recipe=from_dict(values["recipe"], RUN_FILE),
            passed_over=values["passed_over"],
            models=values["models"],
            counts=Counts(**values["counts"]),
            decided=values["decided"],
            packed=values["packed"],
            manifest=values.get("manifest", ""),  # earlier versions did not write it
            shards=values["shards"],
            stages=values["stages"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UsageError(f"{store.root}/{RUN_FILE} is damaged ({what}); put it back, or start elsewhere") from None


def other_recipe(store: Store) -> UsageError:
    """Said where thresholds would be shown beside the verdicts of others, as between `score` and `decide`."""
    return UsageError(
        f"the manifest was decided by another recipe than run.json's; run `sapiens-curate decide {store.root}`"
    )
