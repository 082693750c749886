"""The names of the files in a curated folder, and the stats that say which of them are committed."""

from typing import Any

from curation.plan import Plan
from curation.recipe import Recipe
from manifests.store import Store, content_hash


def scores_file(unit: int) -> str:
    return f"scores/{unit:05d}.parquet"


def scores_stats_file(unit: int) -> str:
    return f"scores/{unit:05d}_stats.json"


def manifest_file(unit: int) -> str:
    return f"manifest/{unit:05d}.parquet"


def tar_file(shard: int) -> str:
    return f"shards/{shard:05d}.tar"


def table_file(shard: int) -> str:
    return f"shards/{shard:05d}.parquet"


def shard_stats_file(shard: int) -> str:
    return f"shards/{shard:05d}_stats.json"


def unit_stats(store: Store, unit: int, plan: Plan) -> dict[str, Any] | None:
    """The stats of a scored unit; None where it is missing, of another plan or does not fit its file."""
    stats = store.read_json(scores_stats_file(unit))
    keys = {"asking", "embeddings", "failed", "identities", "sha256"}
    if not isinstance(stats, dict) or stats.get("plan_hash") != plan.hash or not keys <= set(stats):
        return None
    sizes = {scores_file(unit): stats.get("bytes")}
    sizes |= {name: facts["bytes"] for name, facts in stats["embeddings"].items()}
    return stats if all(store.size(name) == size for name, size in sizes.items()) else None


def sound_unit_stats(store: Store, unit: int, plan: Plan) -> dict[str, Any] | None:
    """The same; None also where a file does not have the sha256 that the stats vouch for."""
    stats = unit_stats(store, unit, plan)
    if stats is None:
        return None
    hashes = {scores_file(unit): stats["sha256"]}
    hashes |= {name: facts["sha256"] for name, facts in stats["embeddings"].items()}
    return stats if all(store.sha256(name) == wanted for name, wanted in hashes.items()) else None


def scored_state(recipe: Recipe, plan: Plan, units: list[dict[str, Any]]) -> str:
    """Changes when the recipe, the plan or the scores of any unit do."""
    return content_hash([recipe.hash, plan.hash, [stats["sha256"] for stats in units]])


def shard_stats(store: Store, shard: int) -> dict[str, Any] | None:
    """The stats of a packed shard; None where it is missing or a file does not have the size it vouches for."""
    stats = store.read_json(shard_stats_file(shard))
    if not isinstance(stats, dict) or not {"failed", "sha256", "sizes", "successes"} <= set(stats):
        return None
    names = {name.rsplit("/", 1)[-1] for name in (tar_file(shard), table_file(shard))}
    sound = all(store.size(f"shards/{name}") == size for name, size in stats["sizes"].items())
    return stats if sound and set(stats["sizes"]) == names == set(stats["sha256"]) else None
