"""One input as a listing finds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .avif .tif .tiff .bmp .gif .heic .heif .mpo .jp2 .ppm .pgm".split()
)
CAPTION_LIMIT = 20_000


@dataclass(frozen=True)
class Entry:
    """A file or tar member that should be an image, or `error`: why it cannot be read at all."""

    uri: str
    member: str = ""
    member_offset: int = 0
    bytes: int = -1
    version: str = ""
    caption: str = ""
    error: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def suffix(name: str) -> str:
    """Lower-case extension with its dot, "" without one."""
    base = name.rsplit("/", 1)[-1]
    return f".{base.rsplit('.', 1)[-1].lower()}" if "." in base[1:] else ""


def kind_of(name: str) -> str:
    """What a file that is no image is counted as: its suffix, with ? for bytes that are not UTF-8."""
    return suffix(name).encode("utf-8", "replace").decode() or "no suffix"


def caption_text(value: Any) -> str:
    """A caption that a file holds: text, or the texts of a list, a line each; "" for anything else."""
    texts = value if isinstance(value, list) else [value]
    return "\n".join(text.strip() for text in texts if isinstance(text, str)).strip()


def describe(error: BaseException) -> str:
    """`Class: text` on one line, as manifests hold it."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
