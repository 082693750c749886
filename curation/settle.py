"""After packing: tell the manifest where each kept image lies, and which could not be read a second time."""

import re
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.layout import manifest_file, shard_stats, shard_stats_file, table_file, tar_file
from curation.plan import Plan
from curation.threads import in_order
from manifests.account import Counts, count
from manifests.store import Store

WIDS_FILE = "wids.json"
Row = dict[str, Any]


def settle_manifest(store: Store, plan: Plan) -> Counts:
    """Fill `offset, size, width, height, transcoded` of packed images; an image lost since scoring becomes failed."""

    @lru_cache(maxsize=8)
    def shard(number: int) -> tuple[dict[str, Row], dict[str, str]]:
        columns = ["key", "offset", "size", "width", "height", "transcoded"]
        rows = store.read_table(table_file(number), columns).to_pylist()
        stats = shard_stats(store, number)
        return {row["key"]: row for row in rows}, stats["failed"] if stats else {}

    def settle(unit: int) -> Counts:
        table = store.read_table(manifest_file(unit))
        inputs = plan.size(unit)
        if pc.all(pc.equal(table["shard"], -1)).as_py():
            return count(table, inputs)
        rows = table.to_pylist()
        for row in rows:
            if row["shard"] >= 0:
                placed, failed = shard(row["shard"])
                row.update(placed[row["key"]] if row["key"] in placed else _lost(failed[row["key"]]))
        settled = pa.Table.from_pylist(rows, table.schema)
        counts = count(settled, inputs)
        store.write_table(manifest_file(unit), settled)
        return counts

    return sum(in_order(settle, plan.units), Counts())


def wids_index(stats: list[dict[str, Any]]) -> dict[str, Any]:
    """What `wids.json` holds for readers that want an index: the shards with their sizes. `stats` are the shards'."""
    shardlist = []
    for shard, of_one in enumerate(stats):
        size = of_one["sizes"][tar_file(shard).rsplit("/", 1)[-1]]
        shardlist.append({"url": tar_file(shard), "nsamples": of_one["successes"], "filesize": size})
    return {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "sapiens-curate", "shardlist": shardlist}


def drop_shards_from(store: Store, first: int) -> None:
    """Delete shards of an earlier decision that the present one does not have, stats first."""
    names = [name.rsplit("/", 1)[-1] for name in store.names("shards", ".tar")]
    numbers = [int(name[:5]) for name in names if re.fullmatch(r"\d{5}\.tar", name)]
    for shard in (number for number in numbers if number >= first):
        for name in (shard_stats_file(shard), table_file(shard), tar_file(shard)):
            store.remove(name)


def _lost(message: str) -> Row:
    return {
        "status": "failed_to_pack",
        "error_message": message,
        "verdict": "failed",
        "reasons": [],
        "key": "",
        "shard": -1,
        "offset": -1,
        "size": -1,
    }
