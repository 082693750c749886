"""A curated folder to look at, made once."""

from pathlib import Path

import pytest
from made_run import failed_row, jpeg, pack, photo, row, write_run

HOSTILE = "\"><script>alert(1)</script> & 'x'.jpg"


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 kept, 10 rejected (one a repeat, one gone since, one with a hostile name), 12 failed."""
    out = tmp_path_factory.mktemp("made")
    photos = out / "photos"
    photos.mkdir()
    paths = [photos / f"{number:02d}.jpg" for number in range(24)] + [photos / HOSTILE.replace("/", "_")]
    for number, path in enumerate(paths):
        path.write_bytes(jpeg(photo(number)))
    kept = [row(str(path), pwatermark=0.03 * number) for number, path in enumerate(paths[:15])]
    pack(out, 0, kept[:10])
    by_watermark = [
        row(str(path), pwatermark=0.5 + 0.1 * number, verdict="rejected", reasons=["watermark"])
        for number, path in enumerate(paths[15:18])
    ]
    by_two = row(str(paths[18]), pwatermark=0.51, partistic=0.9, verdict="rejected", reasons=["watermark", "art"])
    nobody = [
        row(str(path), person_boxes=[], num_persons=0, largest_person_px=0.0, verdict="rejected", reasons=["person"])
        for path in paths[19:23]
    ]
    repeat = row(str(paths[23]), uid=f"{0:032x}", duplicate_of=f"{0:032x}", verdict="rejected", reasons=["duplicate"])
    hostile = row(str(paths[24]), partistic=0.7, verdict="rejected", reasons=["art"], caption="<img src=x>")
    failed = [failed_row(f"/photos/broken-{n}.jpg", "failed_to_decode", "DamagedImage: ends early") for n in range(11)]
    failed.append(failed_row("/photos/<b>gone</b>.jpg", "failed_to_read", "FileNotFoundError: <i>no</i> such file"))
    write_run(out, [*kept, *by_watermark, by_two, *nobody, repeat, hostile, *failed])
    paths[19].unlink()
    return out
