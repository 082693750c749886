"""Prove that a curated folder is whole: every input once, every kept image where the manifest says, hashes equal."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.decide import not_asked
from curation.deciding import manifest_hash
from curation.embeddings import check_embeddings
from curation.layout import manifest_file, scored_state, scores_file, shard_stats, table_file, tar_file, unit_stats
from curation.plan import PLAN_FILE, Plan, read_plan, read_unit
from curation.record import Record, load_record
from curation.settle import WIDS_FILE, wids_index
from curation.threads import ASKERS, in_order
from manifests.account import Counts, Unbalanced, count
from manifests.store import Store

_OTHER_RECIPE = "was not decided by run.json's recipe"
_ALTERED = "does not have the sha256 its stats vouch for; delete it, and `sapiens-curate run` makes it anew"


def verify(out: str) -> tuple[Counts, list[str]]:
    """Counts over the manifest and every fault found, as sentences; no fault, an empty list."""
    store = Store(out)
    plan, record = read_plan(store), load_record(store)
    if plan.hash != record.plan_hash:  # by which every unit would be found wrong, if it can be read at all
        told = f"{PLAN_FILE} is not the plan that the run was made by; put that back, or start in another folder"
        return record.counts, [told]
    faults: list[str] = []

    def check(unit: int) -> tuple[Counts, list[str], dict[str, Any] | None]:
        stats = unit_stats(store, unit, plan)
        return *_check_unit(store, unit, plan, record, stats), stats

    if record.manifest and record.manifest != manifest_hash(store):
        faults.append(f"the manifest is not as it was written; `sapiens-curate pack {out}` makes it anew")
    total, scored = Counts(), []
    for counts, found, unit_scored in in_order(check, plan.units):
        total += counts
        faults.extend(found)
        scored += [unit_scored] if unit_scored else []
    if total != record.counts:
        faults.append(f"run.json says {record.counts}; the manifest says {total}")
    kept = 0
    ours = not any(_OTHER_RECIPE in fault for fault in faults)  # else all that follows from the recipe differs
    made_by = {"recipe_hash": record.recipe.hash, "plan_hash": plan.hash} if record.packed and ours else {}
    for shard, (packed, found) in enumerate(in_order(lambda n: _check_shard(store, n, made_by), record.shards)):
        kept += packed
        faults.extend(f"shard {shard:05d}: {fault}" for fault in found)
    stats = list(in_order(lambda shard: shard_stats(store, shard), record.shards, ASKERS))
    if record.packed and all(stats) and store.read_json(WIDS_FILE) != wids_index([one for one in stats if one]):
        faults.append(f"{WIDS_FILE} does not list the shards that are there; `sapiens-curate pack {out}` makes it anew")
    if kept != total.kept:
        faults.append(f"the shards hold {kept} images, the manifest keeps {total.kept}")
    other = ours and len(scored) == plan.units and record.decided != scored_state(record.recipe, plan, scored)
    if not record.decided or other:  # what is missing was told above
        faults.append(f"scores or recipe changed since it was decided; run `sapiens-curate decide {out}`")
    extra = set(store.names("shards", ".tar")) - {tar_file(shard) for shard in range(record.shards)}
    extra |= set(store.names("manifest", ".parquet")) - {manifest_file(unit) for unit in range(plan.units)}
    faults.extend(f"{name} belongs to no decision of this run" for name in sorted(extra))
    return total, faults


def _check_unit(
    store: Store, unit: int, plan_of_run: Plan, record: Record, stats: dict[str, Any] | None
) -> tuple[Counts, list[str]]:
    inputs, embedded = plan_of_run.size(unit), "embedding" in record.models
    try:
        columns = ["uri", "member", "uid", "status", "not_asked", "verdict", "shard", "offset", "recipe_hash"]
        table = store.read_table(manifest_file(unit), columns)
        counts = count(table, inputs)
    except (OSError, pa.ArrowException, Unbalanced) as error:
        return Counts(inputs), [f"manifest of unit {unit}: {error}"]
    plan = read_unit(store, unit)
    faults = [
        f"manifest of unit {unit}: column {name!r} is not the plan's"
        for name in ("uri", "member")
        if table[name].to_pylist() != plan[name].to_pylist()
    ]
    if record.decided and pc.unique(table["recipe_hash"]).to_pylist() != [record.recipe.hash]:
        faults.append(
            f"manifest of unit {unit} {_OTHER_RECIPE}; put that back, or decide by it with "
            f"`sapiens-curate decide {store.root}`"
        )
    kept = pc.equal(table["verdict"], "kept").to_numpy()
    if not np.array_equal(kept, pc.greater_equal(table["offset"], 0).to_numpy()):
        faults.append(f"manifest of unit {unit}: kept images are not packed; run `sapiens-curate pack {store.root}`")
    if stats is None:
        with_them = " or its embeddings" if embedded else ""
        faults.append(f"scores of unit {unit}{with_them} are missing or do not have the size their stats vouch for")
        return counts, faults
    if store.sha256(scores_file(unit)) != stats["sha256"]:
        faults.append(f"{scores_file(unit)} {_ALTERED}")
    if "embedding" in stats["identities"]:  # and not only in those of an earlier recipe
        faults += _check_embeddings(store, unit, plan_of_run, table, stats)
    return counts, faults


def _check_embeddings(store: Store, unit: int, plan: Plan, table: pa.Table, stats: dict[str, Any]) -> list[str]:
    spared = not_asked(table["not_asked"], ("embedding",))["embedding"]
    scored = pc.is_in(table["status"], pa.array(["success", "failed_to_pack"])).to_numpy() & ~spared
    uids = table["uid"].to_pylist()
    wanted = {plan.start(unit) + row: uids[row] for row in np.flatnonzero(scored).tolist()}
    return check_embeddings(store, unit, wanted, stats["embeddings"])


def _check_shard(store: Store, shard: int, made_by: dict[str, str]) -> tuple[int, list[str]]:
    stats = shard_stats(store, shard)
    if stats is None:
        return 0, ["is missing or does not have the size its stats vouch for"]
    if any(stats.get(name) != value for name, value in made_by.items()):
        return stats["successes"], ["was packed by another decision; delete it, and `sapiens-curate run` makes it anew"]
    faults = [
        f"{name} {_ALTERED}" for name, wanted in stats["sha256"].items() if store.sha256(f"shards/{name}") != wanted
    ]
    if faults:
        return stats["successes"], faults
    table = store.read_table(table_file(shard), ["key", "offset", "size"]).to_pylist()
    with store.open(tar_file(shard)) as tar:
        for row in table:
            tar.seek(row["offset"] - 512)
            block = tar.read(512 + row["size"])
            name = block[:100].rstrip(b"\0").decode("utf-8", "replace")
            if name != f"{row['key']}.jpg" or block[512:514] != b"\xff\xd8" or block[-2:] != b"\xff\xd9":
                faults.append(f"sample {row['key']} is not at byte {row['offset']}")
    return len(table), faults
