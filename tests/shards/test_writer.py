import tarfile
from pathlib import Path

import pytest

from shards.writer import Placed, Sample, check_tar, sample_key, write_tar


def test_the_same_samples_give_the_same_bytes_and_are_found_at_their_offsets(tmp_path: Path) -> None:
    samples = [Sample(sample_key(3, i), bytes([i]) * (500 + i), {"ü": i, "a": [1.5]}) for i in range(5)]
    placed = write_tar(tmp_path / "a.tar", samples)
    write_tar(tmp_path / "b.tar", iter(samples))
    data = (tmp_path / "a.tar").read_bytes()
    assert data == (tmp_path / "b.tar").read_bytes()
    assert [data[p.offset : p.offset + p.size] for p in placed] == [sample.jpeg for sample in samples]
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames()[:2] == ["000030000.jpg", "000030000.json"]
        assert {(m.mtime, m.uid, m.mode) for m in tar} == {(0, 0, 0o644)}
    check_tar(tmp_path / "a.tar", placed)
    with pytest.raises(OSError, match="read back"):
        check_tar(tmp_path / "a.tar", [Placed("000030000", 0, 500), *placed[1:]])


def test_keys_have_nine_digits() -> None:
    assert sample_key(12, 34) == "000120034"
    with pytest.raises(ValueError, match="at most 10000"):
        sample_key(0, 10_000)
