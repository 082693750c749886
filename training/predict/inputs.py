"""What was given on the command line → photos and clips, each with a name for its results.

Listing opens tars but no image. A file that cannot be read later is a row with an error, not the end of the run.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from shards.cache import ShardError
from shards.index import IMAGE_SUFFIXES, ShardSet, open_shards
from training.config import UsageError

PHOTO_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .gif .avif .heic .heif".split())
VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .mts .m2ts .3gp .3g2 .flv .vob".split())

_MANY = ("{", "*", "?", "[", "://")
"""What a tar's name may hold that is no path on this machine: ranges, patterns, URLs."""

NAME_BYTES = 200
"""Of a part of a name at most: file systems take 255, with `.tmp-` before it and `-2.keypoints.json` behind."""

_UNSAFE_PARTS = frozenset({"", ".", "..", "/"})


@dataclass(frozen=True)
class Photo:
    """One still image. name: of its results, relative to the output folder, without suffix. member: its key in a tar.

    boxes: (n, 5) float32 x0, y0, x1, y1, score in pixels, where the shard brought them. error: why it cannot be read
    at all, "" where it may be.
    """

    name: str
    uri: str
    member: str = ""
    fetch: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)
    boxes: np.ndarray | None = field(default=None, repr=False, compare=False)
    error: str = ""

    def read(self) -> bytes:
        """The encoded image. Raises OSError or ShardError."""
        if self.fetch is not None:
            return self.fetch()
        if not stat.S_ISREG(os.stat(self.uri).st_mode):
            raise OSError("not a regular file but a pipe, socket, device or folder")  # opening one may wait for ever
        return Path(self.uri).read_bytes()


@dataclass(frozen=True)
class Clip:
    """A video file, or a webcam by its number."""

    name: str
    uri: str
    webcam: int | None = None

    @property
    def member(self) -> str:
        return ""


Input = Photo | Clip
Place = tuple[str, str]
Names = dict[Place, list[str]]
"""The names of results by the places of their inputs; an input that was given twice has two."""


@dataclass
class Listing:
    """What predict answers, and by kind how many files beside it are neither photo nor video."""

    inputs: list[Input] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def list_inputs(paths: Sequence[str], out: Path, earlier: Names | None = None) -> Listing:
    """Photos and clips of image files, video files, folders (searched through), tars and webcam numbers, in the order
    given and by path inside folders; names of results are unique. earlier: names that `out` holds results under; their
    inputs keep them, others get none of them.

    Raises UsageError for a path that is not there or in which nothing was found.
    """
    listing, kept = Listing(), {place: list(names) for place, names in (earlier or {}).items()}
    taken = {name for names in kept.values() for name in names}
    for path in paths:
        passed_over: Counter[str] = Counter()
        found = [_named_once(_as_text(item), kept, taken) for item in _list_one(path, out, passed_over)]
        if not found:
            others = f" (only {most_common(passed_over)})" if passed_over else ""
            raise UsageError(
                f"no photo or video was found in {path}{others}; give images, folders, tars, videos or a webcam number"
            )
        listing.inputs += found
        listing.passed_over += passed_over
    return listing


def place_of(uri: str, member: str) -> Place:
    """What tells an input from others, wherever a run is started."""
    return uri if "://" in uri else os.path.abspath(uri), member


def most_common(passed_over: Counter[str]) -> str:
    """The most frequent kinds with their numbers."""
    return ", ".join(f"{number} {kind}" for kind, number in passed_over.most_common(8))


def _list_one(given: str, out: Path, passed_over: Counter[str]) -> Iterator[Input]:
    path = Path(given).expanduser()
    if given.isdigit() and not path.exists():
        yield Clip(f"webcam-{int(given)}", given, webcam=int(given))
    elif path.is_dir():
        yield from _list_folder(path, out, passed_over)
    elif given.endswith(".tar") and (path.exists() or any(mark in given for mark in _MANY)):
        yield from _list_tars(given, passed_over)
    elif not path.exists():
        raise UsageError(
            f"{given} does not exist; give images, folders, tars ('data/{{000..127}}.tar' too), videos "
            "or a webcam's number"
        )
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        yield Clip(path.stem, str(path))
    else:
        yield Photo(path.stem, str(path))


def _list_folder(folder: Path, out: Path, passed_over: Counter[str]) -> Iterator[Input]:
    """Every photo, video and tar below a folder by path, without the output folder; what is hidden or of another kind
    is counted. A folder that cannot be listed, and a link to one, which may lead back, is a photo with an error.
    """
    if any(folder.glob("shards/*_stats.json")):  # a folder that sapiens-curate or sapiens-train pack wrote
        folder = folder / "shards"
    avoid = out.resolve()
    broken: list[Photo] = []

    def unreadable(error: OSError) -> None:
        path = Path(str(error.filename))
        broken.append(Photo(path.name, str(path), error=f"{type(error).__name__}: {error}"))

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        for link in sorted(f for f in folders if not f.startswith(".") and Path(parent, f).is_symlink()):
            path = Path(parent, link)
            error = "a link to a folder is not followed; give the folder itself as another input"
            yield Photo(str(path.relative_to(folder)), str(path), error=error)
        passed_over.update("hidden" for name in (*folders, *files) if name.startswith("."))
        shown = [f for f in folders if not f.startswith(".") and Path(parent, f).resolve() != avoid]
        folders[:] = sorted(f for f in shown if not _holds_results(Path(parent, f)))
        passed_over.update(["folder of results"] * (len(shown) - len(folders)))
        for file in sorted(f for f in files if not f.startswith(".")):
            path = Path(parent, file)
            suffix, name = path.suffix.lower(), str(path.relative_to(folder).with_suffix(""))
            if suffix == ".tar":
                yield from _list_tars(str(path), passed_over)
            elif suffix in VIDEO_SUFFIXES:
                yield Clip(name, str(path))
            elif suffix in PHOTO_SUFFIXES:
                yield Photo(name, str(path))
            else:
                passed_over[os.fsencode(suffix).decode(errors="replace") or "without suffix"] += 1
        yield from broken
        broken.clear()


def _holds_results(folder: Path) -> bool:
    """Whether `predict` wrote into a folder: its run.json alone tells conventions."""
    try:
        record = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and "conventions" in record


def _list_tars(pattern: str, passed_over: Counter[str]) -> Iterator[Photo]:
    """The images of tars, with the people that curation found in them; a broken tar is one photo with an error."""
    try:
        shards = open_shards(pattern)
    except (ShardError, OSError) as error:
        yield Photo(Path(pattern).stem, pattern, error=f"{type(error).__name__}: {error}")
        return
    kinds = {
        f"tar samples without .{', .'.join(IMAGE_SUFFIXES)}": shards.without_image,
        "hidden": sum(shard.hidden for shard in shards.shards),
        "link in a tar": sum(shard.links for shard in shards.shards),
    }
    passed_over.update({kind: number for kind, number in kinds.items() if number})
    for number, shard in enumerate(shards.shards):
        samples, boxes = shards.samples(number), _curated_boxes(shards, number)
        seen: set[int] = set()  # shards for pose have a row per person
        for row, key in enumerate(samples.key.to_pylist()):
            if (offset := int(samples.offset[row])) not in seen:
                seen.add(offset)
                name = f"{PurePosixPath(shard.url).stem}/{key}"
                yield Photo(name, shard.url, key, _Fetch(shards, number, row), boxes[row] if boxes else None)


@dataclass(frozen=True)
class _Fetch:
    shards: ShardSet
    number: int
    row: int

    def __call__(self) -> bytes:
        return self.shards.read(self.number, self.row)


def _curated_boxes(shards: ShardSet, number: int) -> list[np.ndarray | None] | None:
    """Per sample the person boxes of a curated shard in pixels of the packed image; None for other shards.

    The manifest counts in pixels of the upright source, which packing may have shrunk.
    """
    table = shards.read_index(number)
    columns = ["person_boxes", "width", "original_width", "height", "original_height"]
    if not set(columns) <= set(table.column_names):
        return None
    found: list[np.ndarray | None] = []
    for people, width, full_width, height, full_height in zip(*(table[c].to_pylist() for c in columns), strict=True):
        if people is None:
            found.append(None)
            continue
        boxes = np.array([[p[c] for c in ("x0", "y0", "x1", "y1", "score")] for p in people], np.float32)
        boxes = boxes.reshape(-1, 5)
        boxes[:, :4] *= (width / full_width, height / full_height) * 2
        found.append(boxes)
    return found


def _as_text(item: Input) -> Input:
    """The item with a path that files of results can hold and that means the same in every folder: in place of bytes
    that are not UTF-8 stands �.
    """
    if isinstance(item, Photo) or item.webcam is None:
        item = replace(item, uri=place_of(item.uri, "")[0])
    uri = os.fsencode(item.uri).decode(errors="replace")
    if uri == item.uri:
        return item
    name = os.fsencode(item.name).decode(errors="replace")
    if isinstance(item, Clip):
        return replace(item, name=name, uri=uri)
    return replace(item, name=name, uri=uri, fetch=item.read)


def _named_once(item: Input, kept: Names, taken: set[str]) -> Input:
    """The item under a name that stays inside the output folder and that no other has: a.jpg and a.png are `a` and
    `a-2`. Names in `kept` are used first, and used up.
    """
    names = kept.get(place_of(item.uri, item.member), [])
    while names:
        if (name := names.pop(0)) == _safe(name):
            return replace(item, name=name)
    plain = _safe(item.name)
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    taken.add(name)
    return replace(item, name=name)


def _safe(name: str) -> str:
    """The name as one that stays inside a folder and leaves room for what is put about it."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in _UNSAFE_PARTS]
    return "/".join(part.encode()[:NAME_BYTES].decode(errors="ignore") for part in parts) or "image"
