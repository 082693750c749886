"""The pixels behind a row of the manifest: from the shard that holds it, else from the source."""

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from curation.decode import Picture, decode
from curation.layout import tar_file
from curation.plan import PLAN_FILE
from curation.sources import read_bytes
from manifests.scan import rows_at
from manifests.store import Store

THUMBNAIL_SIDE = 240
THUMBNAIL_BYTES = 14_000
QUALITIES = (74, 60, 40, 20)

Row = dict[str, Any]


@dataclass(frozen=True)
class Located:
    """A row of the manifest and where its source bytes lie: `size` of them from `offset` on, -1 for all."""

    number: int
    row: Row
    offset: int
    size: int


def locate(store: Store, numbers: list[int]) -> dict[int, Located]:
    """Rows by number, each joined with its row of the plan."""
    rows = rows_at(store, numbers)
    plan = rows_at(store, numbers, [PLAN_FILE])
    found = {}
    for number, row in rows.items():
        planned = plan[number]
        if (planned["uri"], planned["member"]) != (row["uri"], row["member"]):
            raise ValueError(f"row {number} of the manifest is {row['uri']}, of {PLAN_FILE} {planned['uri']}")
        inside = bool(row["member"])
        found[number] = Located(number, row, planned["member_offset"], planned["bytes"] if inside else -1)
    return found


def read_picture(store: Store, at: Located, work_side: int | None) -> Picture:
    """Decode the packed JPEG of a kept image, the source of any other. Raises what those raise."""
    if at.row["shard"] >= 0 and at.row["offset"] >= 0:
        with store.open(tar_file(at.row["shard"])) as tar:
            tar.seek(at.row["offset"])
            return decode(tar.read(at.row["size"]), work_side)
    return decode(read_bytes(at.row["uri"], at.offset, at.size), work_side)


def thumbnail(picture: Picture) -> bytes:
    """A JPEG of at most 240 pixels a side and 14,000 bytes."""
    image = Image.fromarray(picture.rgb)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    data = b""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        data = buffer.getvalue()
        if len(data) <= THUMBNAIL_BYTES:
            break
    return data


def data_uri(jpeg: bytes) -> str:
    """The JPEG as text for an `src` attribute."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
