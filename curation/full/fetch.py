"""Bring weights to this machine, and know them again: a file whose sha256 is not the pinned one is never used."""

import hashlib
import os
import urllib.request
import zipfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from curation.engines import cache_folder
from curation.errors import UsageError
from curation.full.catalogue import CATALOGUE, Weights
from manifests.lock import exclusive

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte


def weights_folder() -> Path:
    """Where fetched weights lie: `$SAPIENS_WEIGHTS`, else `weights/` in the cache folder."""
    named = os.environ.get("SAPIENS_WEIGHTS")
    folder = Path(named) if named else cache_folder() / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_weights(name: str, use: str) -> Path:
    """The file behind a path or a catalogue name, fetched if it is not here yet. Raises UsageError."""
    if (path := home_expanded(name)).exists():
        return path
    if name not in CATALOGUE:
        known = ", ".join(w.name for w in CATALOGUE.values() if w.use == use)
        raise UsageError(
            f"weights.{use}: no file {name!r} and no weights of that name; there are {known}, or give a path"
        )
    return fetch(CATALOGUE[name])


def home_expanded(path: str) -> Path:
    """A path of a recipe, which no shell has read: `~/models` lies in the home folder."""
    return Path(os.path.expanduser(path))  # which leaves a `~` alone that names nobody


def fetch(weights: Weights) -> Path:
    """The verified file of a catalogue entry, downloaded once per machine. Raises UsageError."""
    folder = weights_folder()
    file = folder / weights.name
    if not file.exists():  # or no lock: the folder may be one that all read and few may write
        with exclusive(folder / ".lock"):
            if not file.exists():
                _download(weights, file)
    if fault := verify(weights):
        raise UsageError(f"{fault}; delete it and run `sapiens-curate models fetch {weights.name}`")
    return file


def verify(weights: Weights) -> str:
    """What is wrong with the file that is here, "" if nothing; FileNotFoundError where there is none."""
    file = weights_folder() / weights.name
    expected, found = weights.sha256 or _recorded(file), sha256_of(file)
    return "" if found == expected else f"{file} has sha256 {found}, not {expected}"


def sha256_of(file: Path) -> str:
    """64 hex digits over a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _download(weights: Weights, file: Path) -> None:
    partial = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    try:
        _stream(weights.url, partial)
        if weights.member:
            _unpack(partial, weights.member)
        found = sha256_of(partial)
        if weights.sha256 and found != weights.sha256:
            raise UsageError(f"{weights.url} gave a file with sha256 {found}, not {weights.sha256}: not used")
        _record(file, found)
        os.replace(partial, file)
    except (URLError, OSError, HTTPException, zipfile.BadZipFile, KeyError) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"{weights.name} is not on this machine and cannot be downloaded from {weights.url} ({reason}): fetch it "
            f"where there is a network with `sapiens-curate models fetch {weights.name}` and copy it to {file.parent}, "
            f"give its path as weights.{weights.use}, or use `profile: builtin`, which needs no download"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _stream(url: str, file: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, file.open("wb") as out:
        while chunk := response.read(CHUNK):
            out.write(chunk)
        expected = response.headers["Content-Length"]
        if expected is not None and out.tell() != int(expected):  # urllib takes an end of the connection for one
            raise OSError(f"the connection ended after {out.tell()} of {expected} bytes")
        out.flush()
        os.fsync(out.fileno())


def _unpack(archive: Path, member: str) -> None:
    """Replace a zip archive by one of its members."""
    inside = archive.with_name(archive.name + ".member")
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as source, inside.open("wb") as out:
            while chunk := source.read(CHUNK):
                out.write(chunk)
        os.replace(inside, archive)
    finally:
        inside.unlink(missing_ok=True)


def _record(file: Path, digest: str) -> None:
    record = file.with_name(file.name + ".sha256")
    partial = file.with_name(f".tmp-{os.getpid()}-{record.name}")
    try:
        partial.write_text(f"{digest}  {file.name}\n")
        os.replace(partial, record)
    finally:
        partial.unlink(missing_ok=True)


def _recorded(file: Path) -> str:
    """The sha256 written down when the file was fetched; a file that was copied here is taken as it is, and noted."""
    record = file.with_name(file.name + ".sha256")
    known = record.read_text().split() if record.exists() else []
    if not known:
        digest = sha256_of(file)
        with suppress(OSError):  # of a folder that many read and few may write
            _record(file, digest)
        return digest
    return known[0]
