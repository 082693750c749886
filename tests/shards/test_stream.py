"""Any number of ranks and workers, stopped anywhere, gives the same samples; broken ones are replaced by rule."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from shards.cache import ShardCache, ShardError
from shards.crop import BrokenImage, Crop, Encoded, RandomCrop, cut
from shards.index import open_shards
from shards.order import Order
from shards.stream import Batch, Recycler, stream
from tests.shard_factory import photo, write_curated, write_foreign, write_members
from tests.shards.test_index import own_cache, server  # noqa: F401

CROP = RandomCrop((32, 32))


def batches(opened, start=0, stop=48, micro_batch=4, seed=1, **kind) -> list[Batch]:
    order = Order(opened.counts, seed, window=2)
    return list(stream(opened, order, CROP, start=start, stop=stop, micro_batch=micro_batch, **kind))


def alike(a: list[Batch], b: list[Batch]) -> bool:
    def joined(parts):
        return (
            np.concatenate([p.images.numpy() for p in parts]),
            np.concatenate([p.mask_keys.numpy() for p in parts]),
            [u for p in parts for u in p.uids],
        )

    (x, k, u), (y, m, v) = joined(a), joined(b)
    return np.array_equal(x, y) and np.array_equal(k, m) and u == v


@pytest.fixture
def opened(tmp_path):
    return open_shards(str(write_curated(tmp_path / "out", shards=3, per_shard=7)))


def test_workers_do_not_change_the_batches(opened):
    alone = batches(opened)
    assert alike(alone, batches(opened, workers=1))
    assert alike(alone, batches(opened, workers=2))


def test_a_job_that_is_asked_to_end_gets_its_batches_still(opened):
    """SLURM sends SIGTERM to every process of a job, the decoding ones too; the trainer finishes its step."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        order = Order(opened.counts, 1, window=2)
        coming = stream(opened, order, CROP, start=0, stop=200, micro_batch=4, workers=2)
        taken = [next(coming)]
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
        taken += coming
    finally:
        signal.signal(signal.SIGTERM, before)
    assert alike(taken, batches(opened, stop=200))


FAILING_TRAINER = """
import signal, sys
from shards.crop import RandomCrop
from shards.index import open_shards
from shards.order import Order
from shards.stream import stream

signal.signal(signal.SIGTERM, lambda *_: None)
opened = open_shards(sys.argv[1])
order = Order(opened.counts, 1, window=2)
batches = stream(opened, order, RandomCrop((32, 32)), start=0, stop=200, micro_batch=4, workers=2)
next(batches)
raise ArithmeticError("no more")
"""


def test_an_error_of_the_trainer_ends_its_process_and_the_workers(tmp_path):
    """The traceback of an error that nobody catches keeps the stream, and so the workers, until the very end."""
    write_curated(tmp_path / "out", shards=3, per_shard=7)
    failing = [sys.executable, "-c", FAILING_TRAINER, str(tmp_path / "out")]
    here = Path(__file__).parents[2]
    ended = subprocess.run(failing, capture_output=True, text=True, timeout=120, cwd=here, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith("ArithmeticError: no more")


FAILING_READER = """
import time
from shards.cache import ReadAhead

class Slow:
    def fetch(self, *_):
        time.sleep(60)

ahead = ReadAhead(Slow())
ahead.want([(f"http://host/{n}.tar", 1, "") for n in range(8)])
raise ArithmeticError("no more")
"""


def test_downloads_ahead_keep_no_process(tmp_path):
    failing = [sys.executable, "-c", FAILING_READER]
    here = Path(__file__).parents[2]
    ended = subprocess.run(failing, capture_output=True, text=True, timeout=50, cwd=here, check=False)
    assert ended.stderr.strip().endswith("ArithmeticError: no more")


def test_too_little_shared_memory_is_told(monkeypatch):
    def full(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(ShardError, match=r"need 0\.2 GB of shared memory.*--shm-size"):
        Recycler(8, (8, 1024, 1024, 3))


def test_memory_is_reused_only_when_nobody_holds_the_batch(opened):
    """Kept batches stay as they were however many follow; dropped ones make room, so the memory stays bounded."""
    kept = batches(opened, stop=2000, workers=2)
    alone = batches(opened, stop=2000)
    assert alike(kept, alone)
    order = Order(opened.counts, 1, window=2)
    arrays = stream(opened, order, CROP, start=0, stop=2000, micro_batch=4, workers=2)
    arrays = [batch.images[1:].numpy() for batch in arrays]  # no tensor is left, only memory
    assert all(np.array_equal(a, b.images[1:]) for a, b in zip(arrays, alone, strict=True))
    dropped = stream(opened, order, CROP, start=0, stop=2000, micro_batch=4, workers=2)
    pieces = [batch.piece for batch in dropped]
    assert -1 not in pieces
    assert set(pieces) == set(range(6))
    assert [batch.piece for batch in kept].count(-1) > 400


def test_resuming_anywhere_continues_exactly(opened):
    """Also across the end of an epoch (21 samples)."""
    straight = batches(opened)
    for cut_at in (4, 20, 24, 44):
        assert alike(straight, batches(opened, stop=cut_at) + batches(opened, start=cut_at))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_every_step_out_between_them(opened, world):
    """Step by step, the ranks together hold what one process holds; at another micro-batch and worker count."""
    ranks = [batches(opened, micro_batch=12 // world, rank=r, world=world, workers=r % 2) for r in range(world)]
    steps = [[rank[i] for rank in ranks] for i in range(48 // 12)]
    whole = batches(opened, micro_batch=12)
    for together, alone in zip(steps, whole, strict=True):
        assert alike(together, [alone])


def test_a_sample_has_one_crop_and_mask_per_epoch_wherever_it_comes(opened):
    first, second = batches(opened, 0, 21, 1), batches(opened, 21, 42, 1)
    wider = list(stream(opened, Order(opened.counts, 1, 99), CROP, start=0, stop=21, micro_batch=1))
    by_uid = {b.uids: b for b in first}
    assert [b.uids for b in first] != [b.uids for b in wider]  # another window, another order
    assert all(alike([by_uid[b.uids]], [b]) for b in wider)
    assert not any(alike([by_uid[b.uids]], [b]) for b in second)


def test_a_broken_sample_is_replaced_by_the_next_and_moves_nothing(tmp_path):
    good = open_shards(str(write_foreign(tmp_path / "good.tar", range(12))))
    members = [(f"{s:06d}.jpg", b"broken" if s == 5 else photo(s)) for s in range(12)]
    hurt = open_shards(str(write_members(tmp_path / "hurt.tar", members)))
    a, b = batches(good, stop=12, micro_batch=1), batches(hurt, stop=12, micro_batch=1)
    next_uid = good.samples(0).uid_hex(6)
    differ = [(x, y) for x, y in zip(a, b, strict=True) if x.uids != y.uids]
    assert [(x.uids[0], y.uids[0]) for x, y in differ] == [(good.samples(0).uid_hex(5), next_uid)]
    broken = differ[0][1].broken
    assert [(item.row, item.key) for item in broken] == [(5, "000005")]
    assert "not an image" in broken[0].reason
    assert sum(len(y.broken) for y in b) == 1


def test_a_row_of_broken_samples_ends_the_stream_with_the_shard_named(tmp_path):
    write_members(tmp_path / "a.tar", [(f"{s}.jpg", b"\xff\xd8\xff junk") for s in range(20)])
    with pytest.raises(ShardError, match=r"16 samples in a row of .*a\.tar") as error:
        batches(open_shards(str(tmp_path)), stop=4, workers=1)
    assert "Traceback" not in str(error.value)


def test_a_shard_that_disappears_is_an_error_not_a_hang(tmp_path):
    opened = open_shards(str(write_foreign(tmp_path / "a.tar", range(8))))
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ShardError, match="cannot be opened"):
        batches(opened, stop=8, workers=2)


def test_remote_shards_give_the_same_batches_through_a_small_cache(tmp_path, server):  # noqa: F811
    write_curated(tmp_path / "out", shards=6, per_shard=4)
    tar = (tmp_path / "out/shards/00000.tar").stat().st_size
    names = "out/shards/{00000..00005}.tar"
    cache = ShardCache(tmp_path / "copies", limit=int(4.8 * tar) + 60_000)
    remote = open_shards(f"{server}/{names}", cache)
    local = open_shards(f"{tmp_path}/{names}")
    assert remote.fingerprint == local.fingerprint
    assert alike(batches(local), batches(remote, workers=2))
    assert sum(f.stat().st_size for f in cache.folder.iterdir()) <= cache.limit
    assert threading.active_count() < 20


def test_a_cache_smaller_than_two_windows_is_refused(tmp_path, server):  # noqa: F811
    write_curated(tmp_path / "out", shards=4, per_shard=4)
    cache = ShardCache(tmp_path / "copies", limit=1000)
    remote = open_shards(f"{server}/out/shards/{{00000..00003}}.tar", cache)
    with pytest.raises(ShardError, match="allow a larger cache"):
        batches(remote)


# -- crops -------------------------------------------------------------------------------------------------------------


def test_crops_stay_inside_with_the_asked_area_and_aspect():
    area, aspect, flips = [], [], 0
    for key in range(3000):
        crop = CROP.choose(480, 640, key)
        assert 0 <= crop.top <= crop.top + crop.height <= 480
        assert 0 <= crop.left <= crop.left + crop.width <= 640
        area.append(crop.height * crop.width / (480 * 640))
        aspect.append(crop.width / crop.height)
        flips += crop.flip
    assert 0.19 < min(area) < 0.21
    assert 0.9 < max(area) <= 1
    assert 0.74 < min(aspect) < 0.77
    assert 1.3 < max(aspect) < 1.35
    assert 1400 < flips < 1600


def test_a_sliver_gets_the_largest_centred_crop():
    crop = CROP.choose(10, 1000, 0)
    assert (crop.top, crop.height, crop.width) == (0, 10, 13)
    assert crop.left in (493, 494)


def test_tall_results_take_tall_crops():
    crops = [RandomCrop((64, 48)).choose(1000, 1000, key) for key in range(500)]
    assert np.mean([np.log(c.width / c.height) for c in crops]) == pytest.approx(np.log(0.75), abs=0.1)


def test_scaled_decoding_moves_a_crop_by_at_most_half_a_pixel():
    data = photo(0, 800, 1000)
    full, scaled = (RandomCrop((64, 64), scaled_decode=on) for on in (False, True))
    for key in range(20):
        exact = full(data, key).astype(int)
        slope = np.abs(np.diff(exact, axis=1)).mean() + np.abs(np.diff(exact, axis=0)).mean()
        assert np.abs(exact - scaled(data, key)).mean() < 0.5 * slope + 1


def test_scaled_decoding_never_has_to_enlarge():
    data = photo(0, 640, 640)
    assert Encoded(data).decode(0.5, 0.5).shape == (320, 320, 3)
    assert Encoded(data).decode(0.51, 0.3).shape == (640, 640, 3)
    assert Encoded(data).decode(0.2, 0.2).shape == (160, 160, 3)


def test_resizing_is_pillows_bicubic():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    ours = cut(pixels, Crop(10, 20, 60, 80), (90, 130), (32, 48)).astype(int)
    theirs = np.asarray(Image.fromarray(pixels[10:70, 20:100]).resize((48, 32), Image.Resampling.BICUBIC))
    assert np.abs(ours - theirs).max() <= 1


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_kind_of_picture_becomes_upright_rgb():
    picture = Image.open(io.BytesIO(photo(4, 40, 60)))
    upright = np.asarray(picture).astype(int)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = Image.fromarray(np.rot90(np.asarray(picture)).copy())
    jpeg = encoded(turned, "JPEG", exif=exif, quality=95)
    photoshop = b"\xff\xed" + (8002).to_bytes(2, "big") + bytes(8000)  # its segment may come first, with a thumbnail
    kinds = {
        "turned": jpeg,
        "turned, told late": jpeg[:2] + photoshop + jpeg[2:],
        "turned TIFF": encoded(turned, "TIFF", exif=exif),
        "png": encoded(picture, "PNG"),
        "webp": encoded(picture, "WEBP", lossless=True),
        "alpha": encoded(picture.convert("RGBA"), "PNG"),
        "cmyk": encoded(picture.convert("CMYK"), "JPEG", quality=95),
    }
    for name, data in kinds.items():
        image = Encoded(data)
        pixels = image.decode()
        assert (image.height, image.width) == pixels.shape[:2] == (40, 60), name
        assert np.abs(pixels.astype(int) - upright).mean() < 4, name
        assert pixels.flags.writeable, name  # torch warns of others
    grey = Encoded(encoded(picture.convert("L"), "JPEG")).decode()
    assert grey.shape == (40, 60, 3)


def test_what_is_longer_than_a_jpeg_can_be_is_refused():
    with pytest.raises(BrokenImage, match="65501 x 2 px has a side of more than 65500 pixels"):
        Encoded(encoded(Image.new("L", (65501, 2)), "PNG"))


@pytest.mark.parametrize("data", [b"", b"GIF89a", photo(1)[:400], photo(1)[:20], b"\xff\xd8\xff" + bytes(100)])
def test_what_is_not_a_whole_picture_is_broken(data):
    with pytest.raises(BrokenImage):
        CROP(data, 0)


def test_sixteen_bits_of_grey_are_not_clipped_and_floats_are_refused():
    grey = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for kind in ("PNG", "TIFF"):
        found = Encoded(encoded(Image.fromarray(grey), kind)).decode()
        assert (found == (grey >> 8)[..., None]).all()
    with pytest.raises(BrokenImage, match="floating-point pixels have no stated white"):
        Encoded(encoded(Image.fromarray(grey.astype(np.float32)), "TIFF")).decode()


def test_transparency_lies_over_white_as_in_curation():
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    clear.paste((200, 10, 10, 255), (0, 0, 8, 16))
    found = Encoded(encoded(clear, "PNG")).decode()
    assert (found[:, :8] == (200, 10, 10)).all()
    assert (found[:, 8:] == 255).all()


def test_a_huge_picture_is_refused_before_its_pixels_are_decoded():
    header = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))
    at = header.index(b"\xff\xc0")
    header[at + 5 : at + 9] = (65000).to_bytes(2, "big") * 2
    with pytest.raises(BrokenImage, match="more than"):
        CROP(bytes(header), 0)


def test_truncated_at_the_end_is_broken_too(tmp_path: Path):
    data = photo(7, 300, 300)
    with pytest.raises(BrokenImage):
        RandomCrop((32, 32))(data[: len(data) // 2], 0)
