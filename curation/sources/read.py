"""Read the bytes of one image, from a file, a tar member or a URL."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

import fsspec

PATIENCE = 30.0
"""Seconds without a byte after which a web server is given up: its default of 300 would hold up a whole unit."""


class NoRanges(OSError):
    """A web server that gives files only whole."""


def read_bytes(uri: str, offset: int = 0, size: int = -1) -> bytes:
    """Bytes `offset` to `offset + size` of a local path or fsspec URL; all of it with offset 0 and size -1.

    Raises whatever the file system raises; EOFError where fewer bytes are there than asked for, TimeoutError where a
    web server does not answer for `PATIENCE` seconds.
    """
    if size < 0 and _is_remote(uri):  # one request, whose error says what happened
        fs, path = file_system(uri)
        try:
            return bytes(fs.cat_file(path))
        except TimeoutError as error:
            raise TimeoutError(f"no answer for {PATIENCE:g} seconds") from error
    with open_at_offsets(uri) as file:
        if offset:
            file.seek(offset)
        data = file.read(size) if size >= 0 else file.read()
    if size >= 0 and len(data) != size:
        raise EOFError(f"{uri}: {size} bytes wanted at {offset}, {len(data)} there")
    return data


def open_uri(uri: str) -> BinaryIO:
    """Open a path or URL for reading; `file://` URLs may hold percent-encoded bytes that are not UTF-8."""
    if not _is_remote(uri):
        return _open_regular(local_path(uri))
    fs, path = file_system(uri)
    try:
        return fs.open(path, "rb")
    except FileNotFoundError as error:  # what fsspec makes of every refusal of a web server, and of none answering
        reason = error.__cause__
        if not is_web(uri) or reason is None or getattr(reason, "status", 0) == 404:
            raise
        raise OSError(str(reason)) from None


@contextmanager
def open_at_offsets(uri: str) -> Iterator[BinaryIO]:
    """Open to read here and there; NoRanges where a web server does not answer that."""
    try:
        with open_uri(uri) as file:
            yield file
    except ValueError as error:
        if not is_web(uri):
            raise
        raise NoRanges("the web server does not answer requests for ranges of bytes; fetch the tar first") from error


def file_system(uri: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; `fsspec.open` would take the ? of a query for a pattern."""
    protocol, options = uri.partition("://")[0], {}
    if is_web(uri):
        from aiohttp import ClientTimeout  # for URLs alone

        configured = fsspec.config.conf.get(protocol, {}).get("client_kwargs", {})
        patience = ClientTimeout(total=300, sock_connect=PATIENCE, sock_read=PATIENCE)
        options = {"client_kwargs": {"timeout": patience, **configured}}
    return fsspec.core.url_to_fs(uri, **options)


def is_web(uri: str) -> bool:
    """Whether a web server is asked for it."""
    return uri.startswith(("http://", "https://"))


def _is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def _open_regular(path: str) -> BinaryIO:
    """Pipes and devices are refused: opening one may wait for ever."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("not a regular file but a pipe, socket or device")
    return open(path, "rb")


def local_uri(path: str) -> str:
    """A local path as text that parquet can hold: itself, or percent-encoded `file://` where it is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        quoted = "".join(chr(b) if 32 <= b < 127 and b != 37 else f"%{b:02X}" for b in os.fsencode(path))
        return f"file://{quoted}"
    return path


def local_path(uri: str) -> str:
    """The path that a `file://` URL stands for; anything else as it is."""
    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))) if uri.startswith("file://") else uri
