"""List the images below a folder, local or remote."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec

from curation.errors import UsageError
from curation.sources.entry import CAPTION_LIMIT, IMAGE_SUFFIXES, Entry, describe, kind_of, suffix
from curation.sources.read import file_system, is_web, local_uri
from curation.sources.tar import list_tar

CURATED = frozenset(".lock plan.parquet run.json wids.json report.html scores embeddings manifest shards".split())
"""What a run writes into its output folder. Photos that lie beside these, as where OUT was SOURCE, are photos."""

READERS = 16  # captions fetched at a time from another file system
HEIF_BRANDS = frozenset(b"avif avis heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")


def list_folder(folder: str, exclude: Path | None, passed_over: Counter[str]) -> Iterator[Entry]:
    """Every image and tar below `folder`, sorted by path; other files are counted in `passed_over` by suffix.

    Hidden files and folders, what runs of this program wrote and the folder `exclude` (the output) are left out; links
    to folders are not followed, since they may lead back. A file with a foreign suffix counts as an image when its
    first bytes say so.
    """

    def unreadable(error: OSError) -> None:
        broken.append(Entry(local_uri(str(error.filename)), error=describe(error)))

    broken: list[Entry] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        curated = set(files) >= {"run.json", "plan.parquet"}
        passed_over.update(["curated folder"] * curated)
        if curated or Path(parent) == exclude:
            folders[:] = [name for name in folders if name not in CURATED]
            files = [name for name in files if name not in CURATED]
        passed_over.update("linked folder" for d in folders if os.path.islink(os.path.join(parent, d)))
        passed_over.update("output folder" for d in folders if Path(parent, d) == exclude)
        folders[:] = sorted(d for d in folders if not d.startswith(".") and Path(parent, d) != exclude)
        names = {name for name in files if os.path.isfile(os.path.join(parent, name))}
        for name in sorted(files):
            path = os.path.join(parent, name)
            if name.startswith("."):
                passed_over["hidden"] += 1
            elif suffix(name) == ".tar":
                yield from list_tar(local_uri(path), passed_over)
            elif is_image(path):
                yield list_file(path, caption_name(path) if caption_name(name) in names else None)
            else:
                passed_over[kind_of(name)] += 1
        yield from broken
        broken.clear()
    yield from broken  # of a folder that was the last


def list_file(path: str, caption: str | None = None) -> Entry:
    """One local file with its size, time and the caption beside it."""
    try:
        stat = os.stat(path)
        text = _text(caption) if caption else ""
    except OSError as error:
        return Entry(local_uri(path), error=describe(error))
    return Entry(local_uri(path), bytes=stat.st_size, version=str(stat.st_mtime_ns), caption=text)


def caption_beside(path: str) -> str | None:
    """The caption of a local file, where there is one."""
    text = caption_name(path)
    return text if text != path and os.path.isfile(text) else None


def caption_name(path: str) -> str:
    """The same path with .txt for its suffix: where a caption lies."""
    return f"{path[: -len(suffix(path))] if suffix(path) else path}.txt"


def list_remote_folder(url: str, passed_over: Counter[str]) -> Iterator[Entry]:
    """The same for a folder on any fsspec file system that can list. Captions are fetched side by side.

    UsageError where a web server does not list it; a folder below it of which that is so is an entry with the error.
    """
    fs, root = file_system(url)
    refused: list[Entry] = []
    found = _find_on_web(fs, root, refused) if is_web(url) else fs.find(root, detail=True)
    hidden = {path for path in found if "/." in f"/{path.removeprefix(root)}"}
    passed_over.update(["hidden"] * len(hidden))
    shown = {path: info for path, info in found.items() if path not in hidden}
    yield from _remote_entries(fs, _front(fs, url, root), shown, set(found), passed_over)
    yield from refused


def list_remote_pattern(url: str, passed_over: Counter[str]) -> Iterator[Entry]:
    """What a pattern matches there; as in a shell, `*` matches no hidden name. A folder that it matches is searched."""
    fs, pattern = file_system(url)
    try:
        found = fs.glob(pattern, detail=True)
        for folder in [path for path, info in found.items() if info["type"] == "directory"]:
            found |= fs.find(folder, detail=True)
        names = {*found, *fs.glob(f"{pattern.rpartition('/')[0]}/*.txt")}
    except Exception as error:  # whatever the file system raises
        raise UsageError(f"{url} cannot be listed: {describe(error)}; mend that, or give a table of the URLs") from None
    root = re.split(r"[*?[]", pattern)[0].rpartition("/")[0]
    hides = "/." not in pattern.removeprefix(root)
    shown = {
        path: info
        for path, info in found.items()
        if info.get("type") != "directory" and not (hides and "/." in path.removeprefix(root))
    }
    yield from _remote_entries(fs, _front(fs, url, pattern), shown, names, passed_over)


def _find_on_web(fs: fsspec.AbstractFileSystem, root: str, refused: list[Entry]) -> dict[str, dict[str, Any]]:
    """As `fs.find`, which leaves out in silence what a web server does not answer and raises where it refuses."""
    found: dict[str, dict[str, Any]] = {}
    folders = {root.rstrip("/"): root}
    waiting = [root]
    for folder in waiting:
        try:
            listed = fs.ls(folder, detail=True)
        except Exception as error:  # whatever aiohttp raises
            told = describe(error)
            if folder == root:
                raise UsageError(f"{root} cannot be listed: {told}; mend that, or give a table of the URLs") from None
            refused.append(Entry(folder, error=told))
            continue
        found |= {info["name"]: info for info in listed if info["type"] != "directory"}
        below = {info["name"].rstrip("/"): info["name"] for info in listed if info["type"] == "directory"}
        waiting += [below[name] for name in sorted(below) if name not in folders]
        folders |= below
    return found


def _front(fs: fsspec.AbstractFileSystem, url: str, path: str) -> str:
    """What stands before the paths of a file system in its URLs, the server's name too, which it leaves out itself."""
    bare, path = url.rstrip("/"), path.rstrip("/")
    return bare.removesuffix(path) if bare.endswith(path) else fs.unstrip_protocol("")


def _remote_entries(
    fs: fsspec.AbstractFileSystem,
    front: str,
    found: dict[str, dict[str, Any]],
    names: set[str],
    passed_over: Counter[str],
) -> Iterator[Entry]:
    """The images and tars of `found`, sorted, with the captions that `names`, all that is there, holds beside them."""
    curated = [path.removesuffix("/run.json") for path in found if path.endswith("/run.json")]
    curated = [folder for folder in curated if f"{folder}/plan.parquet" in found]
    passed_over.update(["curated folder"] * len(curated))
    written = tuple(f"{folder}/{name}/" for folder in curated for name in CURATED)
    paths = [path for path in sorted(found) if not f"{path}/".startswith(written)]
    beside = {path: caption_name(path) for path in paths if suffix(path) in IMAGE_SUFFIXES}
    with ThreadPoolExecutor(READERS) as pool:
        captions = {path: pool.submit(_remote_text, fs, text) for path, text in beside.items() if text in names}
        for path in paths:
            full, info = f"{front}{path}", found[path]
            if suffix(path) == ".tar":
                yield from list_tar(full, passed_over)
            elif suffix(path) in IMAGE_SUFFIXES:
                version = str(info.get("ETag") or info.get("mtime") or "")
                try:
                    caption = captions[path].result() if path in captions else ""
                except Exception as error:  # whatever the file system raises
                    yield Entry(full, error=describe(error))
                else:
                    yield Entry(full, bytes=info.get("size") or -1, version=version, caption=caption)
            else:
                passed_over[kind_of(path)] += 1


def is_image(path: str) -> bool:
    kind = suffix(path)
    if kind in IMAGE_SUFFIXES:
        return True
    if kind in {".txt", ".json", ".csv", ".parquet", ".xml", ".py", ".md"}:
        return False
    if not os.path.isfile(path):  # opening a pipe or a device would wait for ever
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return (
        head.startswith(SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS)
    )


def _text(path: str) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.read(CAPTION_LIMIT).strip()


def _remote_text(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return bytes(fs.cat_file(path)[:CAPTION_LIMIT]).decode("utf-8-sig", "replace").strip()
