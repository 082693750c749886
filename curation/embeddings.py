"""CLIP embeddings kept beside the scores, in clip-retrieval's layout: one pair of files per unit.

    embeddings/img_emb/img_emb_00000.npy            float16 [n,D], each row of length 1
    embeddings/metadata/metadata_00000.parquet      image_path, caption, uid, row (its row in the manifest, from 0)

A unit in which nothing was embedded has no files.
"""

import io
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.store import Store

FOLDERS = ("embeddings/img_emb", "embeddings/metadata")
METADATA = pa.schema(
    [
        pa.field("image_path", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("uid", pa.string()),
        pa.field("row", pa.int64()),
    ]
)
LENGTH_ERROR = 0.01  # of a unit vector in float16, generously


def vectors_file(unit: int) -> str:
    return f"{FOLDERS[0]}/img_emb_{unit:05d}.npy"


def metadata_file(unit: int) -> str:
    return f"{FOLDERS[1]}/metadata_{unit:05d}.parquet"


def write_embeddings(store: Store, unit: int, start: int, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Write what the unit's good rows hold under `embedding`; `start` is the manifest's row of its first.

    Returns bytes and sha256 of each file, for the stats that vouch for them.
    """
    kept = [
        (start + i, row) for i, row in enumerate(rows) if row["status"] == "success" and row["embedding"] is not None
    ]
    names = (vectors_file(unit), metadata_file(unit))
    if not kept:
        for name in names:
            store.remove(name)
        return {}
    buffer = io.BytesIO()
    np.save(buffer, np.stack([row["embedding"] for _, row in kept]).astype(np.float16))
    store.write_bytes(names[0], buffer.getvalue())
    facts = [
        {
            "image_path": f"{row['uri']}/{row['member']}" if row["member"] else row["uri"],
            "caption": row["caption"],
            "uid": row["uid"],
            "row": number,
        }
        for number, row in kept
    ]
    store.write_table(names[1], pa.Table.from_pylist(facts, METADATA))
    return {name: {"bytes": store.size(name), "sha256": store.sha256(name)} for name in names}


def read_embeddings(store: Store, unit: int) -> tuple[NDArray[np.float16], pa.Table]:
    """float16 [n,D] and the n rows of metadata; [0,0] and none where nothing of the unit was embedded."""
    if not store.exists(vectors_file(unit)):
        return np.zeros((0, 0), np.float16), METADATA.empty_table()
    with store.open(vectors_file(unit)) as file:
        vectors = np.load(io.BytesIO(file.read()), allow_pickle=False)
    return vectors, store.read_table(metadata_file(unit))


def check_embeddings(store: Store, unit: int, wanted: dict[int, str], files: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with a unit's embeddings; `wanted` are the uids by row that must have one."""
    for name, facts in files.items():
        if not store.exists(name) or store.sha256(name) != facts["sha256"]:
            return [f"{name} is missing or does not have the sha256 its stats vouch for"]
    vectors, metadata = read_embeddings(store, unit)
    if len(vectors) != metadata.num_rows:
        return [f"{vectors_file(unit)} has {len(vectors)} rows, its metadata {metadata.num_rows}"]
    if dict(zip(metadata["row"].to_pylist(), metadata["uid"].to_pylist(), strict=True)) != wanted:
        return [f"{metadata_file(unit)} does not name the images of the manifest that were asked for an embedding"]
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
    return [] if np.all(np.abs(lengths - 1) < LENGTH_ERROR) else [f"{vectors_file(unit)}: not all rows have length 1"]
