"""Humans per image, against the same figures computed in one go."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import scan
from manifests.people import HUMANS_300M, QUANTILES, people_per_image
from manifests.store import Store

SCHEMA = pa.schema(
    [("verdict", pa.string()), ("num_persons", pa.int32()), ("largest_person_px", pa.float32())],
)


def write(out: Path, verdicts: list[str], persons: list[int | None], pixels: list[float | None], files: int) -> Store:
    (out / "manifest").mkdir()
    table = pa.table({"verdict": verdicts, "num_persons": persons, "largest_person_px": pixels}, schema=SCHEMA)
    each = -(-len(verdicts) // files)
    for number in range(files):
        pq.write_table(table.slice(number * each, each), out / "manifest" / f"{number:05d}.parquet", row_group_size=97)
    return Store(out)


def test_counts_and_quantiles_equal_those_of_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = 2000
    verdict = rng.choice(["kept", "rejected", "failed"], rows)
    persons = rng.integers(0, 9, rows)
    pixels = rng.integers(1, 900, rows).astype(np.float32)
    failed = verdict == "failed"
    store = write(
        tmp_path,
        verdict.tolist(),
        [None if bad else int(n) for bad, n in zip(failed, persons, strict=True)],
        [None if bad else float(p) for bad, p in zip(failed, pixels, strict=True)],
        files=3,
    )
    monkeypatch.setattr(scan, "BATCH_ROWS", 64)
    people = people_per_image(store)
    kept = verdict == "kept"
    for counts, chosen in ((people.kept, kept), (people.decoded, ~failed)):
        expected = [int(((persons == n) & chosen).sum()) for n in range(4)] + [int(((persons >= 4) & chosen).sum())]
        assert list(counts) == expected
    assert people.uncounted == 0
    assert sum(people.kept_shares) == pytest.approx(1)
    np.testing.assert_array_equal(people.largest_px, np.quantile(pixels[kept], QUANTILES, method="inverted_cdf"))


def test_the_papers_shares_are_a_whole() -> None:
    assert sum(share for share in HUMANS_300M if share is not None) == pytest.approx(1)


def test_images_that_nobody_counted_are_told_apart_from_images_of_nobody(tmp_path: Path) -> None:
    store = write(tmp_path, ["kept", "rejected", "kept"], [None, None, 0], [None, None, 0.0], files=1)
    people = people_per_image(store)
    assert people.uncounted == 2
    assert people.decoded == (1, 0, 0, 0, 0)
    assert people.largest_px == ()
    assert "2 decoded images have no count" in people.table()


def test_the_table_shows_counts_shares_and_the_paper(tmp_path: Path) -> None:
    verdicts = ["kept"] * 3 + ["rejected"]
    store = write(tmp_path, verdicts, [1, 1, 6, 0], [300.0, 400.0, 500.0, 0.0], files=1)
    lines = people_per_image(store).table().splitlines()
    assert lines[1].split() == ["0", "0", "0.0", "–", "1", "25.0"]
    assert lines[2].split() == ["1", "2", "66.7", "17", "2", "50.0"]
    assert lines[5].split() == ["≥", "4", "1", "33.3", "56", "1", "25.0"]
    assert "50 %: 400" in lines[6]


def test_no_manifest_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(scan.NoManifest, match="sapiens-curate decide"):
        people_per_image(Store(tmp_path))
