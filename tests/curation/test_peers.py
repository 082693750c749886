"""Other people's readers open the shards: webdataset, HF datasets, pandas."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import webdataset
from PIL import Image

from curation.recipe import Recipe
from curation.run import Workplace, curate
from tests.curation.photos import GOOD, jpeg, write


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory, plain_recipe: Recipe) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    photos = GOOD | {f"{seed}.jpg": jpeg(seed) for seed in range(100, 130)}
    curate(str(write(folder / "photos", photos)), str(folder / "out"), plain_recipe, place=Workplace(0))
    return folder / "out"


def tars(curated: Path) -> list[str]:
    return [str(path) for path in sorted((curated / "shards").glob("*.tar"))]


def test_pandas_reads_the_manifest_with_one_row_per_input(curated: Path) -> None:
    manifest = pd.read_parquet(curated / "manifest")
    assert len(manifest) == len(GOOD) + 30
    kept = manifest[manifest.verdict == "kept"]
    assert kept.key.is_unique
    row = kept.iloc[3]
    with open(tars(curated)[row.shard], "rb") as tar:
        tar.seek(row.offset)
        image = Image.open(io.BytesIO(tar.read(row["size"])))
    assert image.format == "JPEG"
    assert image.size == (row.width, row.height)
    shard = pd.read_parquet(curated / "shards" / "00000.parquet")
    assert shard.columns.tolist() == manifest.columns.tolist()
    assert shard.key.tolist() == kept[kept.shard == 0].key.tolist()


def test_webdataset_reads_every_sample(curated: Path) -> None:
    samples = list(webdataset.WebDataset(tars(curated), shardshuffle=False).decode("rgb8"))
    kept = pd.read_parquet(curated / "manifest").query("verdict == 'kept'")
    assert [sample["__key__"] for sample in samples] == kept.key.tolist()
    assert {frozenset(sample) - {"__key__", "__url__", "__local_path__"} for sample in samples} == {
        frozenset({"jpg", "json"})
    }
    assert all(sample["jpg"].shape == (sample["json"]["height"], sample["json"]["width"], 3) for sample in samples)
    assert all(sample["jpg"].dtype == np.uint8 for sample in samples)


def test_hugging_face_datasets_reads_every_sample(curated: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset("webdataset", data_files=tars(curated), split="train", cache_dir=str(tmp_path))
    kept = pd.read_parquet(curated / "manifest").query("verdict == 'kept'")
    assert found["__key__"][:] == kept.key.tolist()
    assert found[0]["jpg"].size == (kept.width.iloc[0], kept.height.iloc[0])
    assert found[0]["json"]["uid"] == kept.uid.iloc[0]


def test_img2dataset_finds_only_its_own_files_in_the_shard_folder(curated: Path) -> None:
    for path in (curated / "shards").glob("*.json"):
        assert int(path.name.split("_")[0]) >= 0  # how img2dataset reads the number of a finished shard
        stats = json.loads(path.read_text())
        assert {"count", "successes", "failed_to_download", "failed_to_resize", "duration", "status_dict"} <= set(stats)
    index = json.loads((curated / "wids.json").read_text())
    assert [shard["filesize"] for shard in index["shardlist"]] == [Path(tar).stat().st_size for tar in tars(curated)]
