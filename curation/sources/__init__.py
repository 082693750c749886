"""Where images come from: folders, globs, tars and tables of paths or URLs; listing them and reading their bytes."""

from curation.sources.listing import Entry, list_source
from curation.sources.read import read_bytes

__all__ = ["Entry", "list_source", "read_bytes"]
