"""A source that was there when it was listed and is gone when its photos are read."""

import glob
import os
import socket

from curation.errors import UsageError
from curation.sources.entry import suffix
from curation.sources.read import local_path
from curation.sources.table import TABLE_SUFFIXES


def need_source(source: str) -> None:
    """UsageError where the photos of a run are gone, as on a disk that is not mounted here: all of them would fail, and
    shards that hold them be made anew without them. Of a table, a pattern or a URL this is not known.
    """
    source = local_path(source)  # a file:// URL is also how a name that is not UTF-8 is kept
    if "://" in source or glob.has_magic(source) or "{" in source or suffix(source) in TABLE_SUFFIXES:
        return
    if not os.path.exists(source) or (os.path.isdir(source) and _is_empty(source)):
        raise UsageError(
            f"{source} is not there or empty, and {socket.gethostname()} is to read its photos; put it back"
        )


def _is_empty(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None
