"""List the images of a WebDataset or img2dataset tar without unpacking it."""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from curation.sources.entry import CAPTION_LIMIT, IMAGE_SUFFIXES, Entry, caption_text, describe, kind_of, suffix
from curation.sources.read import open_at_offsets

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg"})
JSON_LIMIT = 10_000_000  # bytes; img2dataset puts the whole EXIF beside the caption


def list_tar(uri: str, passed_over: Counter[str]) -> Iterator[Entry]:
    """Image members in tar order, with the caption from `.txt` or `.json` of the same sample.

    Members are only ever read by offset, so their names (`../x`, absolute, twice the same) cannot do harm.
    A tar that breaks off yields its whole members and one entry that says so.
    """
    images: list[Entry] = []
    sparse: list[Entry] = []
    captions: dict[str, str] = {}
    error = ""
    try:
        with open_at_offsets(uri) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = file.seek(0, 2)
            for member in tar:
                if not member.isfile():
                    passed_over.update(["link in a tar"] * (member.islnk() or member.issym()))
                    continue
                if member.name.rpartition("/")[2].startswith("."):  # as macOS puts beside every file
                    passed_over["hidden"] += 1
                    continue
                kind, sample = suffix(member.name), _sample(member.name)
                name = member.name.encode("utf-8", "backslashreplace").decode()
                if member.issparse():  # its bytes do not lie in one piece
                    if kind in IMAGE_SUFFIXES:
                        sparse.append(Entry(uri, name, error="SparseMember: packed by tar -S; unpack the tar first"))
                    else:
                        passed_over["sparse in a tar"] += 1
                    continue
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"breaks off inside {member.name!r}")
                if kind in IMAGE_SUFFIXES:
                    images.append(Entry(uri, name, member.offset_data, member.size, str(int(member.mtime))))
                elif kind in {".txt", ".json"}:
                    text = _caption(tar, member, kind)
                    if text:
                        captions[sample] = text
                else:
                    passed_over[kind_of(member.name)] += 1
            _check_end(file, tar.offset, end)
    except Exception as broken:  # tarfile's, and whatever clients of web servers and object stores raise
        error = describe(broken)
    photos = {_sample(image.member) for image in images if suffix(image.member) in JPEG_SUFFIXES}
    for image in images:
        sample, kind = _sample(image.member), suffix(image.member)
        if sample in photos and kind not in JPEG_SUFFIXES:
            passed_over[f"{kind} beside a JPEG"] += 1  # a mask or depth map of the same sample
        else:
            yield replace(image, caption=captions.get(sample, ""))
    yield from sparse
    if error:
        yield Entry(uri, error=f"{error} (its {len(images)} whole images before that are listed)")


def _sample(name: str) -> str:
    """WebDataset's sample key: the path up to the first dot of its base name."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.', 1)[0]}"


def _caption(tar: tarfile.TarFile, member: tarfile.TarInfo, kind: str) -> str:
    reader = tar.extractfile(member)
    limit = CAPTION_LIMIT if kind == ".txt" else JSON_LIMIT
    text = reader.read(limit).decode("utf-8-sig", "replace") if reader else ""
    if kind == ".txt":
        return text.strip()
    try:
        caption = caption_text(json.loads(text).get("caption"))
    except (ValueError, AttributeError):
        return ""
    return caption[:CAPTION_LIMIT].encode("utf-8", "replace").decode().strip()  # \ud800 in JSON is half a character


def _check_end(file: BinaryIO, at: int, end: int) -> None:
    """ReadError unless only zeros follow the last member, at least a block of them: tarfile stops without a word at a
    damaged header, and at the end of the first of tars that `cat` put together."""
    if end - at < 512:
        raise tarfile.ReadError("breaks off without an end marker")
    file.seek(at)
    while block := file.read(1 << 16):
        if block.count(0) != len(block):
            raise tarfile.ReadError(f"what follows byte {at} is no member: a damaged header, or another tar behind it")
