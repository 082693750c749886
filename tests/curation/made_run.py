"""A curated folder made by hand from one real photo: what the page and `inspect` read, without a run."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from curation.recipe import from_dict
from manifests.schema import PLAN, manifest_schema

HOSTILE = "\"><script>alert(1)<|script> & 'x'.jpg"
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
RECIPE: dict[str, Any] = {
    "name": "humans300m",
    "scorers": ["people", "watermark", "text", "style", "quality", "fingerprint"],
    "rules": {
        "watermark": "pwatermark < 0.5",
        "art": "partistic < 0.5",
        "person": "persons(score > people.min_score, short_side > people.min_short_side) >= 1",
    },
}
RUN: dict[str, Any] = {
    "recipe": RECIPE,
    "recipe_hash": from_dict(RECIPE, "made").hash,
    "plan_hash": "fedcba9876543210",
    "source": "photos",
    "profile": "builtin",
    "models": {"people": "people-small@a1b2c3"},
    "versions": {"python": "3.11"},
    "passed_over": {},
    "counts": {"kept": 15, "rejected": 10, "failed": 12},
    "decided": "",
    "packed": "",
    "shards": 1,
    "stages": {
        "plan": {"seconds": 0.2, "images_per_s": 90.0},
        "score": {"seconds": 75.0, "images_per_s": 4.5},
    },
}


def photo(number: int) -> Image.Image:
    """The one photo of a person that every install has, cropped, mirrored and toned differently each time."""
    image = Image.open(PHOTO).convert("RGB")
    image = image.crop((10 * (number % 9), 6 * (number % 7), image.width, image.height - 12 * (number % 11)))
    image = ImageOps.mirror(image) if number % 2 else image
    return ImageOps.posterize(image, 2) if number % 5 == 4 else image


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def row(uri: str, **values: Any) -> dict[str, Any]:
    """A row of the manifest: a kept photo of one person, where `values` do not say otherwise."""
    sizes = {"original_width": 512, "original_height": 600, "width": 512, "height": 600}
    person = {"x0": 60.0, "y0": 40.0, "x1": 460.0, "y1": 600.0, "score": 0.97}
    base = {
        "uri": uri,
        "member": "",
        "caption": "",
        "status": "success",
        "error_message": "",
        "exif_orientation": 1,
        "format": "JPEG",
        "phash": 1,
        "pwatermark": 0.1,
        "text_area": 0.0,
        "text_area_outside": 0.0,
        "text_boxes": [],
        "partistic": 0.1,
        "punnatural": 0.1,
        "punsafe": None,
        "blur": 200.0,
        "exposure": 0.5,
        "person_boxes": [person],
        "not_asked": [],
        "duplicate_of": "",
        "num_persons": 1,
        "largest_person_px": 400.0,
        "verdict": "kept",
        "reasons": [],
        "key": "",
        "shard": -1,
        "offset": -1,
        "size": -1,
        "transcoded": False,
        "recipe_hash": RUN["recipe_hash"],
        "models": [("people", "people-small@a1b2c3")],
    }
    return base | sizes | values


def failed_row(uri: str, status: str, message: str) -> dict[str, Any]:
    """A row of an input that could not be read."""
    base = row(uri, status=status, error_message=message, verdict="failed", reasons=[], models=[])
    scores = (
        "phash",
        "pwatermark",
        "text_area",
        "text_area_outside",
        "text_boxes",
        "partistic",
        "punnatural",
    )
    empty = (*scores, "blur", "exposure", "person_boxes", "num_persons", "largest_person_px")
    return base | dict.fromkeys(empty) | {"original_width": 0, "original_height": 0, "uid": "", "sha256": ""}


def write_run(out: Path, rows: list[dict[str, Any]], files: int = 2, **run: Any) -> Path:
    """Write run.json, plan.parquet and the manifest in `files` files."""
    for number, one in enumerate(rows):
        one.setdefault("uid", f"{number:032x}")
        one.setdefault("sha256", (one["uid"] or "") * 2)
    for one in rows if "recipe" in run else ():
        one["recipe_hash"] = from_dict(run["recipe"], "made").hash
    (out / "manifest").mkdir(parents=True)
    places = {"member_offset": 0, "bytes": -1, "version": "", "plan_error": "", "unit": 0}
    plan = [places | {name: one[name] for name in PLAN.names if name in one} for one in rows]
    pq.write_table(pa.Table.from_pylist(plan, PLAN), out / "plan.parquet")
    schema = manifest_schema([])
    each = -(-len(rows) // files)
    for number in range(files):
        part = [{name: one[name] for name in schema.names} for one in rows[number * each : (number + 1) * each]]
        pq.write_table(pa.Table.from_pylist(part, schema), out / "manifest" / f"{number:05d}.parquet")
    (out / "run.json").write_text(json.dumps(RUN | {"inputs": len(rows)} | run))
    return out


def pack(out: Path, shard: int, rows: list[dict[str, Any]]) -> None:
    """Put the rows' photos into a tar and note in the rows where each lies."""
    (out / "shards").mkdir(parents=True, exist_ok=True)
    path = out / "shards" / f"{shard:05d}.tar"
    with tarfile.open(path, "w") as tar:
        for index, one in enumerate(rows):
            data = Path(one["uri"]).read_bytes()
            member = tarfile.TarInfo(f"{shard:05d}{index:04d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with tarfile.open(path) as tar:
        for one, member in zip(rows, tar.getmembers(), strict=True):
            place = {
                "key": member.name[:9],
                "shard": shard,
                "offset": member.offset_data,
                "size": member.size,
            }
            one.update(place)


def sample_run(out: Path) -> Path:
    """15 kept, 10 rejected (one a repeat, one gone since, one with a hostile name), 12 failed."""
    photos = out / "photos"
    photos.mkdir()
    paths = [photos / f"{number:02d}.jpg" for number in range(24)] + [photos / HOSTILE]
    for number, path in enumerate(paths):
        path.write_bytes(jpeg(photo(number)))
    kept = [row(str(path), pwatermark=0.03 * number) for number, path in enumerate(paths[:15])]
    pack(out, 0, kept[:10])
    by_watermark = [
        rejected(path, "watermark", pwatermark=0.5 + 0.1 * number) for number, path in enumerate(paths[15:18])
    ]
    by_two = rejected(paths[18], "watermark", "art", pwatermark=0.51, partistic=0.9)
    no_person = {"person_boxes": [], "num_persons": 0, "largest_person_px": 0.0}
    nobody = [rejected(path, "person", **no_person) for path in paths[19:23]]
    repeat = rejected(paths[23], "duplicate", uid=f"{0:032x}", duplicate_of=f"{0:032x}")
    hostile = rejected(paths[24], "art", partistic=0.7, caption="<img src=x>")
    failed = [failed_row(f"/photos/broken-{n}.jpg", "failed_to_decode", "DamagedImage: ends early") for n in range(11)]
    failed.append(failed_row("/photos/<b>gone</b>.jpg", "failed_to_read", "FileNotFoundError: <i>no</i> such file"))
    write_run(out, [*kept, *by_watermark, by_two, *nobody, repeat, hostile, *failed])
    paths[19].unlink()
    return out


def rejected(path: Path, *reasons: str, **values: Any) -> dict[str, Any]:
    """A row of an image that these rules reject."""
    return row(str(path), verdict="rejected", reasons=list(reasons), **values)
