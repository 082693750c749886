"""Opening labelled shards: what labels.json must be, and several sources that must agree."""

import json
from pathlib import Path

import pytest

from shards.cache import ShardError
from shards.labelled import open_labelled
from tests.shard_factory import write_curated
from tests.training.labels.made import person, write_coco
from training.labels.pack import Packing, pack


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAPIENS_CACHE", str(tmp_path / "cache"))
    path = write_coco(tmp_path / "coco", [person(0), person(0, bbox=[1, 1, 30, 40]), person(1)])
    list(pack(Packing("pose", (path,), tmp_path / "out")))
    return tmp_path / "out"


def test_by_folder_by_tar_and_by_pattern(packed: Path) -> None:
    for source in (packed, packed / "shards", packed / "shards/00000.tar", packed / "shards/{00000..00000}.tar"):
        data = open_labelled(str(source))
        assert (data.task, data.shards.count) == ("pose", 3)
        first, second, third = (data.read(0, row) for row in range(3))
        assert first.key == second.key != third.key
        assert first.image == second.image != third.image
        assert len({first.uid, second.uid, third.uid}) == 3
        assert data.shards.samples(0).uid_hex(1) == second.uid


def test_several_sources_must_agree(packed: Path, tmp_path: Path) -> None:
    path = write_coco(tmp_path / "more", [person(1)])
    list(pack(Packing("pose", (path,), tmp_path / "second")))
    assert open_labelled([str(packed), str(tmp_path / "second")]).shards.count == 4
    labels = json.loads((tmp_path / "second/labels.json").read_text())
    (tmp_path / "second/labels.json").write_text(json.dumps(labels | {"task": "depth"}))
    with pytest.raises(ShardError, match=r"has labels for pose and .* for depth"):
        open_labelled([str(packed), str(tmp_path / "second")])
    labels["keypoints"]["name"] = "mine"
    (tmp_path / "second/labels.json").write_text(json.dumps(labels))
    with pytest.raises(ShardError, match="coco17 with 17 keypoints and mine with 17 keypoints"):
        open_labelled([str(packed), str(tmp_path / "second")])


def test_shards_without_labels(packed: Path, tmp_path: Path) -> None:
    curated = write_curated(tmp_path / "curated", 1, 2)
    with pytest.raises(ShardError, match=r"holds no labels; make labelled shards with `sapiens-train pack`"):
        open_labelled(str(curated))
    (curated / "labels.json").write_text((packed / "labels.json").read_text())
    with pytest.raises(ShardError, match="holds photos without labels"):
        open_labelled(str(curated)).read(0, 0)
    (curated / "labels.json").write_text('{"format": 9}')
    with pytest.raises(ShardError, match="is not of format 1"):
        open_labelled(str(curated))
