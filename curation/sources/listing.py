"""Turn the one SOURCE a user gives into entries."""

import glob
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pyarrow as pa
from braceexpand import braceexpand

from curation.errors import UsageError
from curation.sources.entry import IMAGE_SUFFIXES, Entry, kind_of, suffix
from curation.sources.folder import (
    caption_beside,
    is_image,
    list_file,
    list_folder,
    list_remote_folder,
    list_remote_pattern,
)
from curation.sources.read import is_web, local_path, local_uri
from curation.sources.table import TABLE_SUFFIXES, list_table, read_columns
from curation.sources.tar import list_tar

ALLOWED = "a folder, a glob, tars, a .csv .tsv .parquet .jsonl or .txt table, or a URL of one of these"


@dataclass
class Listing:
    """The inputs of a source in order, the columns it brings along, and what was not an image at all."""

    entries: Iterator[Entry]
    extras: list[pa.Field] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def list_source(source: str, exclude: Path | None = None) -> Listing:
    """List SOURCE lazily; `exclude` is the output folder, which may lie inside it.

    Raises UsageError where there is nothing of that name.
    """
    source = local_path(source)
    if suffix(source) in TABLE_SUFFIXES and not os.path.isdir(source):
        if not os.path.exists(source) and (glob.has_magic(source) or "{" in source):
            raise UsageError(f"{source!r} names several tables; give one table at a time")
        table = read_columns(source)
        extras = [field for field in table.schema if field.name not in {"uri", "caption"}]
        return Listing(list_table(source, table), extras)
    if os.path.isdir(source):
        os.scandir(source).close()  # raises where it may not be read: a plan without its photos would stay
    passed_over: Counter[str] = Counter()
    matches = {pattern: _matches(pattern, passed_over) for pattern in _patterns(source)}
    if not any(matches.values()):
        raise UsageError(f"nothing is at {source!r}; give {ALLOWED}")
    paths = _outermost([path for pattern, found in matches.items() for path in found or _absent(pattern)])
    return Listing(_entries(paths, exclude, passed_over), passed_over=passed_over)


def _patterns(source: str) -> list[str]:
    """What braces stand for; a name with braces that exists is that name."""
    if os.path.exists(source):
        return [source]
    try:
        return list(braceexpand(source, escape=False))
    except ValueError:  # unbalanced braces
        raise UsageError(f"nothing is at {source!r}, and its braces are not balanced; give {ALLOWED}") from None


def _outermost(paths: list[str]) -> list[str]:
    """Each path once, and none that lies in a folder which is there itself, as `**` matches both."""
    folders = {path for path in paths if "://" not in path and os.path.isdir(path)}
    return [path for path in dict.fromkeys(paths) if not any(str(parent) in folders for parent in Path(path).parents)]


def _entries(paths: list[str], exclude: Path | None, passed_over: Counter[str]) -> Iterator[Entry]:
    for path in paths:
        remote = "://" in path
        if remote and _is_pattern(path):
            yield from list_remote_pattern(path, passed_over)
        elif suffix(path) == ".tar":
            yield from list_tar(local_uri(path), passed_over)
        elif suffix(path) in {".tgz", ".gz", ".zip", ".bz2", ".xz", ".zst"}:
            error = "CompressedArchive: its members cannot be read by offset; unpack it first"
            yield Entry(local_uri(path), error=error)
        elif remote:
            yield from [Entry(path)] if suffix(path) in IMAGE_SUFFIXES else list_remote_folder(path, passed_over)
        elif os.path.isdir(path):
            yield from list_folder(path, exclude, passed_over)
        elif is_image(path) or not os.path.exists(path):
            yield list_file(path, caption_beside(path))
        else:
            passed_over[kind_of(path)] += 1


def _is_pattern(url: str) -> bool:
    return "*" in url or "[" in url if is_web(url) else glob.has_magic(url)  # of a web address ? begins the query


def _matches(pattern: str, passed_over: Counter[str]) -> list[str]:
    """Existing paths that a pattern names, sorted; a name with glob letters that exists is that name. A URL's pattern
    stays one."""
    if "://" in pattern:
        _check_file_system(pattern)
        return [pattern]
    if os.path.exists(pattern):
        return [os.path.abspath(pattern)]
    return sorted({os.path.abspath(path) for path in _glob(os.path.expanduser(pattern), passed_over)})


def _glob(pattern: str, passed_over: Counter[str]) -> list[str]:
    """As `glob.glob`, but that `**` counts links to folders instead of following them: round in circles where they lead
    back.
    """
    parts = pattern.split("/")
    if "**" not in parts:
        return glob.glob(pattern)
    at = parts.index("**")
    front, rest = "/".join(parts[:at]) + "/" * (at > 0), "/".join(parts[at + 1 :])
    found = []
    for top in glob.glob(front) if front else [""]:
        if not rest:
            found.append(top or ".")  # the folder itself, which is searched
            continue
        for folder, names, _ in os.walk(top or "."):
            names[:] = [name for name in names if not name.startswith(".")]
            passed_over.update("linked folder" for name in names if os.path.islink(os.path.join(folder, name)))
            matched = _glob(os.path.join(glob.escape(folder), rest), passed_over)
            found += [path for path in matched if not (os.path.islink(path) and os.path.isdir(path))]
    return found


def _absent(pattern: str) -> list[str]:
    """A file that braces name and that is not there is an input all the same, so that its error has a row."""
    return [] if glob.has_magic(pattern) else [os.path.abspath(os.path.expanduser(pattern))]


def _check_file_system(url: str) -> None:
    try:
        fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{url} cannot be opened: {error}; give {ALLOWED}") from None
