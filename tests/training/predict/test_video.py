"""Videos: a frame in, a panel and a line out; what breaks off is told."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from tests.training.predict.conftest import files_of_at_most, write_video
from training.predict.compose import Prediction
from training.predict.draw import Style
from training.predict.inputs import Clip
from training.predict.run import Options, predict
from training.predict.video import Frame, Reader, Writer

WHOLE = Options(boxes="whole", device="cpu")


def frames_of(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        frames.append(got[1])
    return frames


def test_a_video_gives_a_video_of_panels_and_a_line_per_frame(checkpoints, tmp_path):
    video = write_video(tmp_path / "walk.mp4", frames=9)
    (row,) = predict([str(video)], tmp_path / "out", checkpoints, WHOLE)
    assert (row.status, row.frames, row.num_persons, row.error_message) == ("success", 9, 1, "")
    assert row.files == ("walk.panel.mp4", "walk.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out" / "walk.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(9))
    assert [line["time"] for line in lines] == [round(n / 20, 4) for n in range(9)]
    assert len(lines[0]["people"][0]["keypoints"]) == 17
    panels = frames_of(tmp_path / "out" / "walk.panel.mp4")
    assert len(panels) == 9
    assert panels[0].shape[1] == 5 * 384 + 4 * 4
    assert not list((tmp_path / "out").glob(".tmp-*"))


def test_a_video_that_breaks_off_gives_what_is_there_and_says_so(checkpoints, tmp_path):
    whole = write_video(tmp_path / "whole.avi", frames=40, codec="MJPG")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    (row,) = predict([str(cut)], tmp_path / "out", {"pose": checkpoints["pose"]}, WHOLE)
    assert row.status == "partial"
    assert 5 < row.frames < 40
    assert row.error_message == f"EndedEarly: frame {row.frames} of 40 was the last that can be read"
    assert len(frames_of(tmp_path / "out" / "cut.panel.mp4")) == row.frames


def test_what_is_no_video_is_a_row_and_no_page_of_complaints(checkpoints, tmp_path, capfd):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "empty.mp4").write_bytes(b"")
    whole = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "v" / "headless.mp4").write_bytes(whole[: len(whole) // 2])
    rows = predict([str(tmp_path / "v"), "77"], tmp_path / "out", {"pose": checkpoints["pose"]}, WHOLE)
    assert [(row.kind, row.status) for row in rows] == [("video", "failed")] * 2 + [("webcam", "failed")]
    assert all("cannot be opened" in row.error_message for row in rows)
    assert capfd.readouterr().err.strip() == ""
    assert list(pd.read_parquet(tmp_path / "out" / "manifest.parquet").name) == ["empty", "headless", "webcam-77"]


def test_frames_at_uneven_times_keep_them(checkpoints, tmp_path):
    video = write_video(tmp_path / "phone.mkv")
    data = video.read_bytes()
    times = [*range(0, 600, 50)]
    uneven = [*times[:6], *range(500, 1700, 200)]  # as phones and browsers record
    for before, after in reversed(list(zip(times, uneven, strict=True))):  # 0x81: of track 1
        data = data.replace(b"\x81" + struct.pack(">h", before), b"\x81" + struct.pack(">h", after))
    duration = data.index(b"\x44\x89\x88") + 3
    video.write_bytes(data[:duration] + struct.pack(">d", 1550) + data[duration + 8 :])
    (row,) = predict([str(video)], tmp_path / "out", {"pose": checkpoints["pose"]}, WHOLE)
    assert (row.status, row.frames, row.error_message) == ("success", 12, "")
    lines = [json.loads(line) for line in (tmp_path / "out" / "phone.jsonl").read_text().splitlines()]
    assert [line["time"] for line in lines] == [milliseconds / 1000 for milliseconds in uneven]
    assert len(frames_of(tmp_path / "out" / "phone.panel.mp4")) == 31  # until 1.5 s at 20 per second


def test_the_number_of_frames_may_be_limited(checkpoints, tmp_path):
    video = write_video(tmp_path / "walk.mp4", frames=9)
    options = Options(boxes="whole", device="cpu", frames=3, pictures=False)
    (row,) = predict([str(video)], tmp_path / "out", {"depth": checkpoints["depth"]}, options)
    assert (row.status, row.frames, row.files) == ("success", 3, ("walk.jsonl",))


def test_a_live_recording_plays_in_true_time(tmp_path):
    writer = Writer(tmp_path, "cam", 10.0, Style(side=64), pictures=True, data=False)
    image = np.zeros((48, 64, 3), np.uint8)
    for number, seconds in enumerate((0.0, 0.5, 0.52, 1.0)):  # uneven, as slow models leave it
        writer.add(Frame(number, seconds, image), Prediction(image, ()))
    assert writer.close() == ("cam.panel.mp4",)
    assert len(frames_of(tmp_path / "cam.panel.mp4")) in (11, 12)  # one second at 10 per second, from both ends


@pytest.mark.parametrize("rate", [29.97, 89.7133, 117.647058, 235.17115, 999.51])
def test_panels_of_every_frame_rate_can_be_written(tmp_path, rate):
    """Phones' slow motion has uneven times, of which OpenCV gives the mean; MPEG-4 does not take every number."""
    writer = Writer(tmp_path, "v", rate, Style(side=64), pictures=True, data=False)
    image = np.zeros((48, 64, 3), np.uint8)
    for number in range(3):
        writer.add(Frame(number, number / rate, image), Prediction(image, ()))
    assert writer.close() == ("v.panel.mp4",)
    assert len(frames_of(tmp_path / "v.panel.mp4")) == 3


def test_more_frames_than_the_rate_play_in_true_time(tmp_path):
    """Three seconds at 60 a second, of a file that states no rate: 25 panels a second."""
    writer = Writer(tmp_path, "v", 25.0, Style(side=64), pictures=True, data=False)
    image = np.zeros((48, 64, 3), np.uint8)
    for number in range(180):
        writer.add(Frame(number, number / 60, image), Prediction(image, ()))
    writer.close()
    assert 74 <= len(frames_of(tmp_path / "v.panel.mp4")) <= 77


def test_a_folder_may_have_a_colon(tmp_path, monkeypatch):
    """As the time of day has."""
    monkeypatch.chdir(tmp_path)
    writer = Writer(Path("12:30"), "v", 10.0, Style(side=64), pictures=True, data=False)
    image = np.zeros((48, 64, 3), np.uint8)
    writer.add(Frame(0, 0.0, image), Prediction(image, ()))
    assert writer.close() == ("v.panel.mp4",)
    assert (tmp_path / "12:30" / "v.panel.mp4").stat().st_size > 0


def test_frames_of_another_size_fit_into_the_first(tmp_path):
    writer = Writer(tmp_path, "v", 10.0, Style(side=64), pictures=True, data=False)
    for number, shape in enumerate(((48, 64, 3), (64, 48, 3))):
        image = np.full(shape, 80, np.uint8)
        writer.add(Frame(number, number / 10, image), Prediction(image, ()))
    writer.close()
    first, second = frames_of(tmp_path / "v.panel.mp4")
    assert first.shape == second.shape


def test_a_video_for_which_there_is_no_room_is_told_and_leaves_the_earlier_one(tmp_path):
    (tmp_path / "v.panel.mp4").write_bytes(b"earlier")
    writer = Writer(tmp_path, "v", 10.0, Style(side=64), pictures=True, data=False)
    with files_of_at_most(8192):
        for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)):
            writer.add(Frame(number, number / 10, image), Prediction(image, ()))
        with pytest.raises(OSError, match=r"v\.panel\.mp4 could not be written whole; is the disk full"):
            writer.close()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("v.panel.mp4", b"earlier")]


@pytest.mark.parametrize(("stated", "count", "rate", "expected"), [(25.0, 50, 25.0, 50), (1000.0, 2000, 25.0, 50)])
def test_a_clock_of_milliseconds_is_no_frame_rate(tmp_path, monkeypatch, stated, count, rate, expected):
    """Browsers record files that state none; OpenCV then gives their clock."""
    said = {cv2.CAP_PROP_FPS: stated, cv2.CAP_PROP_FRAME_COUNT: count}
    capture = SimpleNamespace(isOpened=lambda: True, get=lambda name: said.get(name, 0.0), release=lambda: None)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: capture)
    reader = Reader(Clip("clip", str(tmp_path / "clip.webm")))
    assert (reader.rate, reader.expected) == (rate, expected)
