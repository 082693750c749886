"""List a source once and freeze the list: every later stage works from `plan.parquet`, never from the folder."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.errors import UsageError
from curation.sources import Entry, list_source
from manifests.schema import PLAN, extra_fields
from manifests.store import Store

PLAN_FILE = "plan.parquet"
CHUNK = 50_000
UNITS = 100_000
GROUPS = 4096
"""Row groups of a plan at most: who looks a unit up reads the footer, which lists them all."""


@dataclass(frozen=True)
class Plan:
    """The frozen list of inputs: how many, cut into how many units, and its hash."""

    inputs: int
    units: int
    hash: str
    extras: tuple[pa.Field, ...]

    @property
    def unit_size(self) -> int:
        """Inputs in every unit but the last."""
        return unit_size(self.inputs)

    def start(self, unit: int) -> int:
        """Row at which a unit starts; of the unit after the last, the number of inputs."""
        return min(unit * self.unit_size, self.inputs)

    def size(self, unit: int) -> int:
        """Inputs in a unit."""
        return self.start(unit + 1) - self.start(unit)


def unit_size(inputs: int) -> int:
    """Inputs per unit of work: small runs still give every worker something, large ones commit by the thousand, and
    none has more than 100,000 units, whose files' five digits sort in the order of the plan.
    """
    return max(min(1000, max(16, ceil(inputs / 64))), ceil(inputs / UNITS))


def make_plan(
    source: str, store: Store, check: Callable[[list[pa.Field]], None] = lambda extras: None
) -> tuple[Plan, Counter[str]]:
    """List `source` and write the plan; also returns what was passed over, by suffix. `check` may refuse the columns
    that the source brings along: before anything is listed, which may take long, or written.

    Raises UsageError where the source is missing or holds no image.
    """
    listing = list_source(source, exclude=Path(os.path.abspath(store.path)) if store.is_local else None)
    check(listing.extras)
    schema = pa.schema([*PLAN, *listing.extras])
    tables, rows = [], []
    for entry in listing.entries:
        rows.append(_row(entry))
        if len(rows) == CHUNK:
            tables.append(pa.Table.from_pylist(rows, schema))
            rows.clear()
    tables.append(pa.Table.from_pylist(rows, schema))
    table = pa.concat_tables(tables)
    if not table.num_rows:
        others = ", ".join(f"{n} {kind}" for kind, n in listing.passed_over.most_common(5))
        again = ", or OUT/shards to curate a curated folder again" * ("curated folder" in listing.passed_over)
        raise UsageError(
            f"no image is at {source!r}{f' (only {others})' if others else ''}; give photos to curate{again}"
        )
    size = unit_size(table.num_rows)
    units = pa.array(np.arange(table.num_rows) // size, pa.int32())
    table = table.set_column(table.schema.get_field_index("unit"), schema.field("unit"), units)
    units_per_group = ceil(ceil(table.num_rows / size) / GROUPS)
    store.write_table(PLAN_FILE, table, row_group_size=size * units_per_group)
    return read_plan(store), listing.passed_over


def read_plan(store: Store) -> Plan:
    """The plan of a folder; UsageError where there is none or it cannot be read."""
    if not store.exists(PLAN_FILE):
        raise UsageError(f"{store.root} holds no {PLAN_FILE}; start with `sapiens-curate run SOURCE {store.root}`")
    with store.open(PLAN_FILE) as file:
        try:
            metadata = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:  # Arrow's own are OSErrors too, without a number
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UsageError(f"{store.root}/{PLAN_FILE} is damaged ({error}); start in another folder") from None
        extras = tuple(extra_fields(metadata.schema_arrow))
        rows = metadata.metadata.num_rows
    return Plan(rows, ceil(rows / unit_size(rows)), store.sha256(PLAN_FILE)[:16], extras)


def read_unit(store: Store, unit: int) -> pa.Table:
    """The plan's rows of one unit, in order: a row group or a part of one."""
    with store.open(PLAN_FILE) as file:
        plan = pq.ParquetFile(file)
        size = unit_size(plan.metadata.num_rows)
        group, first = divmod(unit * size, plan.metadata.row_group(0).num_rows)
        return plan.read_row_group(group).slice(first, size)


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "uri": entry.uri,
        "member": entry.member,
        "member_offset": entry.member_offset,
        "bytes": entry.bytes,
        "version": entry.version,
        "caption": entry.caption,
        "plan_error": entry.error,
        "unit": 0,
        **entry.extra,
    }
