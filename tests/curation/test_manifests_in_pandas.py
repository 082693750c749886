"""The code in docs/manifests-in-pandas.md runs as printed."""

import re
from pathlib import Path

import pytest

from tests.curation.made_run import failed_row, jpeg, pack, photo, rejected, row, write_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "manifests-in-pandas.md"


def test_every_block_runs_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    paths = [tmp_path / f"{number}.jpg" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(jpeg(photo(number)))
    kept = [row(str(path), num_persons=1 + number % 2) for number, path in enumerate(paths[:4])]
    pack(out, 0, kept)
    dropped = [
        rejected(paths[4], "watermark", pwatermark=0.503),
        rejected(paths[5], "watermark", "art", pwatermark=0.65, partistic=0.9),
    ]
    failed = [failed_row("/gone.jpg", "failed_to_read", "FileNotFoundError: no such file")]
    write_run(out, [*kept, *dropped, *failed])
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    names: dict[str, object] = {}
    printed = []
    for block in blocks:
        exec(block.replace('"OUT"', repr(str(out))), names)  # our own page, nothing else
        printed.append(" ".join(capsys.readouterr().out.split()))
    assert "kept 4" in printed[0]
    assert "watermark 2 1" in printed[1]
    assert printed[2].startswith("0.5 4 0.6 5")
    assert "0.503 1.0 rejected" in printed[3]
    assert "FileNotFoundError 1" in printed[4]
    assert printed[5].endswith(f"000000000 {kept[0]['size']} ffd8ff")
    assert printed[6] == printed[7] == "4"
    assert len((out / "kept.csv").read_text().splitlines()) == 5
