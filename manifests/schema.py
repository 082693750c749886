"""The columns of every table, with their Arrow types; img2dataset's and LAION's names come first.

No column is ever null-typed and every file of a table has the same schema, so `pandas.read_parquet` on the
folder works whatever the photos were.
"""

import pyarrow as pa

BOX = pa.struct([pa.field(name, pa.float32()) for name in ("x0", "y0", "x1", "y1", "score")])
"""A rectangle in pixels of the upright image (x right, y down, x1 and y1 exclusive) with a score in 0..1."""

BOXES = pa.list_(BOX)

PLAN = pa.schema(
    [
        pa.field("uri", pa.string()),  # absolute path or URL of the file that holds the image
        pa.field("member", pa.string()),  # name inside a tar, "" for a file of its own
        pa.field("member_offset", pa.int64()),  # first byte of the member's data in the tar, 0 otherwise
        pa.field("bytes", pa.int64()),  # size in bytes, -1 where it is not known before reading
        pa.field("version", pa.string()),  # mtime in ns or the server's etag, "" where there is none
        pa.field("caption", pa.string()),  # "" where there is none
        pa.field("plan_error", pa.string()),  # why the input cannot be read at all, "" where it may be
        pa.field("unit", pa.int32()),
    ]
)
"""One row per input, in order, frozen by the first run. Extra columns of a table source follow these."""

IMAGE = (
    pa.field("status", pa.string()),  # success, or failed_to_<read|decode|score|pack>
    pa.field("error_message", pa.string()),  # "Class: text", "" on success
    pa.field("width", pa.int32()),  # of the packed image, pixels; the upright source's until it is packed
    pa.field("height", pa.int32()),
    pa.field("original_width", pa.int32()),  # of the upright source image
    pa.field("original_height", pa.int32()),
    pa.field("exif_orientation", pa.int8()),  # 1..8 as in the EXIF standard
    pa.field("format", pa.string()),  # JPEG, PNG, WEBP, …, as the bytes say, not the file's name
    pa.field("sha256", pa.string()),  # of the source bytes
    pa.field("uid", pa.string()),  # first 32 hex digits of sha256
)
"""What reading and decoding one image tells, before any scorer."""

SCORES = (
    pa.field("phash", pa.uint64()),  # 64-bit DCT hash; null for a picture without contrast
    pa.field("pwatermark", pa.float32()),
    pa.field("text_area", pa.float32()),  # union of the text boxes / image area, 0..1
    pa.field("text_area_outside", pa.float32()),  # the part of text_area not on a person
    pa.field("text_boxes", BOXES),
    pa.field("partistic", pa.float32()),
    pa.field("punnatural", pa.float32()),
    pa.field("punsafe", pa.float32()),
    pa.field("blur", pa.float32()),  # variance of the Laplacian at 512 px; low is blurred
    pa.field("exposure", pa.float32()),  # mean luminance, 0 black .. 1 white
    pa.field("person_boxes", BOXES),
)
"""Raw answers of the scorers; null where the scorer was not asked."""

ASKING = (pa.field("not_asked", pa.list_(pa.string())),)
"""Scorers that a lazy run did not ask of an image, because it was rejected already; their columns are null."""

DECISION = (
    pa.field("duplicate_of", pa.string()),  # uid of the kept image this one repeats, "" if none
    pa.field("num_persons", pa.int32()),  # boxes with score > people.min_score
    pa.field("largest_person_px", pa.float32()),  # short side of the largest of them, 0 without
    pa.field("verdict", pa.string()),  # kept | rejected | failed
    pa.field("reasons", pa.list_(pa.string())),  # every rule that failed
    pa.field("key", pa.string()),  # of the sample in its shard, "" unless kept
    pa.field("shard", pa.int32()),  # -1 unless kept
    pa.field("offset", pa.int64()),  # first byte of the JPEG in the tar, -1 until packed
    pa.field("size", pa.int64()),  # bytes of the JPEG in the tar, -1 until packed
    pa.field("transcoded", pa.bool_()),  # re-encoded because rotated, resized or not a JPEG
    pa.field("recipe_hash", pa.string()),
    pa.field("models", pa.map_(pa.string(), pa.string())),  # scorer → name@hash
)

VERDICTS = ("kept", "rejected", "failed")


def extra_fields(plan: pa.Schema) -> list[pa.Field]:
    """Columns that a table source brought along, in their order."""
    return [field for field in plan if field.name not in PLAN.names]


def scores_schema(extras: list[pa.Field]) -> pa.Schema:
    """Schema of `scores/*.parquet`."""
    return pa.schema(
        [PLAN.field("uri"), PLAN.field("member"), PLAN.field("caption"), *IMAGE, *SCORES, *ASKING, *extras]
    )


def manifest_schema(extras: list[pa.Field]) -> pa.Schema:
    """Schema of `manifest/*.parquet` and of the parquet beside each shard: img2dataset's columns first."""
    fields = {field.name: field for field in (*PLAN, *IMAGE, *SCORES, *ASKING, *DECISION)}
    first = ("key", "uri", "member", "caption")
    image = tuple(field.name for field in IMAGE)
    rest = [field.name for field in (*SCORES, *ASKING, *DECISION) if field.name != "key"]
    return pa.schema([*(fields[name] for name in (*first, *image, *rest)), *extras])
