"""What `run.json` says of a run."""

from typing import Any

from curation.errors import UsageError
from curation.recipe import Recipe, from_dict
from manifests.store import Store


def read_run(store: Store) -> tuple[dict[str, Any], Recipe]:
    """The parsed file and the recipe in it. Raises UsageError where there is none, or no valid recipe in it."""
    run = store.read_json("run.json")
    if run is None:
        raise UsageError(f"{store.root} holds no run.json; give the output folder of `sapiens-curate run`")
    return run, from_dict(run["recipe"], "run.json")
