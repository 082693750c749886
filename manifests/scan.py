"""Read a manifest of any length in bounded memory: batch after batch, or a few rows by number."""

from collections.abc import Callable, Iterator, Sequence
from math import isfinite

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.store import Store

FOLDER = "manifest"
BATCH_ROWS = 1 << 16


class NoManifest(FileNotFoundError):
    """The folder has not come as far as verdicts; the text says what to run."""


def manifest_names(store: Store) -> list[str]:
    """The manifest's files in plan order. Raises NoManifest where there is none yet."""
    names = store.names(FOLDER, ".parquet")
    if not names:
        raise NoManifest(f"{store.root} holds no {FOLDER}/*.parquet; run `sapiens-curate decide` on it first")
    return names


def batches(store: Store, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """All rows in plan order, up to 65,536 at a time; `boxes.list.element.score` reads that field alone.

    Raises NoManifest for a column that is not there, such as that of a concept added since verdicts were given.
    """
    for name in manifest_names(store):
        with store.open(name) as file:
            with store.told_of(name):
                parquet = pq.ParquetFile(file)
            if missing := {column.split(".")[0] for column in columns} - set(parquet.schema_arrow.names):
                raise NoManifest(
                    f"{name} of {store.root} has no column {', '.join(sorted(missing))}; "
                    "run `sapiens-curate decide` on it first"
                )
            with store.told_of(name):
                yield from parquet.iter_batches(BATCH_ROWS, columns=list(columns))


def numbers_where(
    store: Store, columns: Sequence[str], mask: Callable[[pa.RecordBatch], pa.BooleanArray]
) -> Iterator[int]:
    """Numbers (from 0, over the whole manifest) of the rows where `mask` of a batch of `columns` is true."""
    start = 0
    for batch in batches(store, columns):
        yield from (start + np.flatnonzero(mask(batch).to_numpy(zero_copy_only=False))).tolist()
        start += batch.num_rows


def rows_at(store: Store, numbers: Sequence[int], names: Sequence[str] | None = None) -> dict[int, dict]:
    """Row number → the row as Python values; numbers run from 0 over `names`, by default all of the manifest.

    Reads only the row groups that hold a wanted row, a batch at a time.
    """
    wanted = np.unique(np.asarray(numbers, dtype=np.int64))
    found: dict[int, dict] = {}
    start = 0
    for name in names or manifest_names(store):
        with store.open(name) as file, store.told_of(name):
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                end = start + parquet.metadata.row_group(group).num_rows
                here = wanted[(wanted >= start) & (wanted < end)]
                if len(here):
                    found.update(_take(parquet.iter_batches(BATCH_ROWS, row_groups=[group]), here, start))
                start = end
    return found


def value_range(store: Store, column: str) -> tuple[float, float] | None:
    """Smallest and largest finite number of a column by the files' footers alone; None where they tell of none."""
    ends = []
    for name in manifest_names(store):
        with store.open(name) as file, store.told_of(name):
            metadata = pq.ParquetFile(file).metadata
        for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
            for chunk in (group.column(index) for index in range(group.num_columns)):
                if chunk.path_in_schema == column and chunk.statistics and chunk.statistics.has_min_max:
                    ends += [float(chunk.statistics.min), float(chunk.statistics.max)]
    finite = [end for end in ends if isfinite(end)]
    return (min(finite), max(finite)) if finite else None


def _take(parts: Iterator[pa.RecordBatch], numbers: np.ndarray, start: int) -> Iterator[tuple[int, dict]]:
    for part in parts:
        here = numbers[(numbers >= start) & (numbers < start + part.num_rows)]
        yield from zip(here.tolist(), part.take(pa.array(here - start)).to_pylist(), strict=True)
        start += part.num_rows
