"""List the images named by a table: .csv .tsv .parquet .jsonl .txt of paths or URLs."""

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from curation.errors import UsageError
from curation.sources.entry import Entry, caption_text, suffix
from curation.sources.read import local_uri, open_uri
from manifests.schema import PLAN, manifest_schema

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".jsonl", ".txt"})
PATH_COLUMNS = (
    "path",
    "file_path",
    "filepath",
    "image_path",
    "file",
    "filename",
    "file_name",
    "image",
    "url",
    "uri",
    "jpg",
)
NAME_IN_DIGITS = r"^[+-]?0\d|^[+-]?\d{20,}$"
"""Of a number's text in a CSV: zeros in front, or more digits than 64 bits hold."""
CAPTION_COLUMNS = ("caption", "text", "alt", "description")


def read_columns(uri: str) -> pa.Table:
    """The table with a `uri` column, perhaps `caption`, text or lists of it, and the extra columns under free names.

    An extra column whose name the manifest uses itself is called `source_<name>`.
    """
    table = _read(uri)
    if twice := sorted({name for name in table.column_names if table.column_names.count(name) > 1}):
        raise UsageError(f"{uri} has the column {twice[0]!r} more than once; rename one of them")
    path, caption = _path_and_caption(table.column_names)
    if path is None:
        raise UsageError(
            f"{uri} has no column of paths: it has {', '.join(table.column_names) or 'none'}; "
            f"name the column of paths or URLs one of {', '.join(PATH_COLUMNS)}"
        )
    taken = {*PLAN.names, *manifest_schema([]).names, *table.column_names}
    columns = {"uri": _as_text(uri, table, path)}
    if caption is not None:
        columns["caption"] = _as_captions(uri, table, caption)
    for name in (name for name in table.column_names if name not in {path, caption}):
        column, own = table[name], name
        if _is_hollow(column.type):
            column = pa.chunked_array([pa.nulls(len(column), pa.string())])
        while own in taken - {name} or own in {*PLAN.names, *manifest_schema([]).names}:
            own = f"source_{own}"
        columns[own] = _as_text(uri, table, name) if _is_awkward(table[name].type) else _plain(column)
    return pa.table(columns)


def _path_and_caption(columns: list[str]) -> tuple[str | None, str | None]:
    names = {name.lower(): name for name in reversed(columns)}
    path = next((names[name] for name in PATH_COLUMNS if name in names), None)
    return path, next((names[name] for name in CAPTION_COLUMNS if name in names and names[name] != path), None)


def _as_text(uri: str, table: pa.Table, name: str) -> pa.ChunkedArray:
    try:
        return table[name].cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UsageError(
            f"{uri}: the column {name!r} holds {table[name].type}, not text; give paths or URLs as text, or save the "
            "images as files or tars"
        ) from None


def _as_captions(uri: str, table: pa.Table, name: str) -> pa.ChunkedArray:
    kind = table[name].type
    holds_lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    try:
        return table[name].cast(pa.list_(pa.string()) if holds_lists else pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UsageError(
            f"{uri}: the column of captions, {name!r}, holds {kind}, not text or lists of text; give captions as text, "
            "or rename the column"
        ) from None


def _line(uri: str, line: str) -> str:
    """A line of a .txt table as text; a name that is not UTF-8 becomes a `file://` URL beside the table."""
    if "://" in line:  # a byte that is not UTF-8 as URLs hold it
        return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in line)
    if line.isprintable():
        return line
    return local_uri(os.path.join(os.path.dirname(os.path.abspath(uri)), line))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Categories as what they stand for, half floats as floats, views as text: rules, the report and Arrow's own `take`
    know no others.
    """
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        return column.cast(pa.string() if pa.types.is_string_view(column.type) else pa.binary())
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _is_awkward(kind: pa.DataType) -> bool:
    """Types that rules cannot compare or parquet cannot hold: dates become ISO text, nothing becomes empty text."""
    return pa.types.is_null(kind) or pa.types.is_temporal(kind)


def _is_hollow(kind: pa.DataType) -> bool:
    """A struct without fields, as JSON's {}, or what holds one: parquet cannot."""
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return (pa.types.is_struct(kind) and not inner) or any(map(_is_hollow, inner))


def list_table(uri: str, table: pa.Table) -> Iterator[Entry]:
    """One entry per row of `read_columns(uri)`; a relative path is looked up beside the table."""
    base = uri.rsplit("/", 1)[0] if "://" in uri else os.path.dirname(os.path.abspath(uri))
    extras = [name for name in table.column_names if name not in {"uri", "caption"}]
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            extra = {name: row[name] for name in extras}
            path = (row["uri"] or "").strip()
            caption = caption_text(row.get("caption"))
            if not path:
                yield Entry("", caption=caption, error="EmptyPath: the table names no file in this row", extra=extra)
            elif "://" in path or os.path.isabs(path):
                yield Entry(path, caption=caption, extra=extra)
            else:
                yield Entry(local_uri(f"{base}/{path}"), caption=caption, extra=extra)


def _read(uri: str) -> pa.Table:
    kind = suffix(uri)
    try:
        if kind in {".csv", ".tsv"}:
            return _read_csv(uri, "\t" if kind == ".tsv" else ",")
        with open_uri(uri) as file:
            if kind == ".parquet":
                return pyarrow.parquet.read_table(file)
            if kind == ".jsonl":
                return pyarrow.json.read_json(file)
            lines = file.read().decode("utf-8-sig", "surrogateescape").splitlines()
            return pa.table({"path": pa.array([_line(uri, line) for line in lines if line.strip()], pa.string())})
    except FileNotFoundError:
        raise UsageError(f"{uri} is not there; give a table that exists") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise UsageError(f"{uri} cannot be read as {kind[1:]}: {error}; save it as UTF-8 or parquet") from None


def _read_csv(uri: str, delimiter: str) -> pa.Table:
    """A table whose columns of names in digits, as 007, are text: as numbers they would be other names. Of paths and
    captions any number, date or truth value is text: 1.10 is not 1.1.
    """

    def read(**options: Any) -> pa.Table:
        parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        convert = pyarrow.csv.ConvertOptions(**options)
        with open_uri(uri) as file:
            return pyarrow.csv.read_csv(file, parse_options=parse, convert_options=convert)

    table = read()
    kinds = {field.name: field.type for field in table.schema}
    numbers = {name for name, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)}
    always = {name for name in _path_and_caption(table.column_names) if name and pa.types.is_primitive(kinds[name])}
    if not (again := [name for name in kinds if name in numbers | always]):
        return table
    texts = read(include_columns=again, column_types=dict.fromkeys(again, pa.string()))
    names = always | {n for n in numbers if pc.any(pc.match_substring_regex(texts[n], NAME_IN_DIGITS)).as_py()}
    columns = [texts[name] if name in names else table[number] for number, name in enumerate(table.column_names)]
    return pa.table(columns, names=table.column_names)
