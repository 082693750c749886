"""Videos and webcams: frames in, a video of panels and one JSON line per frame out."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.predict.compose import Prediction
from training.predict.draw import Style, panel
from training.predict.files import people_list
from training.predict.inputs import Clip

SIDE = 384
"""Pixels of the longer side of each picture in a video's panel: five of them are about as wide as full HD."""
WEBCAM_RATE = 15.0
"""Frames per second of a webcam's video; a panel is repeated until the next one is due, so it plays in true time."""
FALLBACK_RATE = 25.0

# What cannot be read is told in one sentence, not in the libraries' pages; the variable may be set to hear more.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_MISSING_SHARE, _MISSING_FEW = 0.02, 2  # containers estimate their number of frames


class UnreadableVideo(OSError):
    """No frame can be had."""


@dataclass(frozen=True)
class Frame:
    """One frame (H, W, 3) uint8 RGB, upright. time: seconds from the start."""

    number: int
    time: float
    image: np.ndarray


class Reader:
    """Frames of a video file or a webcam. rate: per second. expected: their number as the file states it, 0 where it
    does not. Raises UnreadableVideo.
    """

    def __init__(self, clip: Clip) -> None:
        self.live = clip.webcam is not None
        self._capture = cv2.VideoCapture(clip.uri if clip.webcam is None else clip.webcam)
        if not self._capture.isOpened():
            raise UnreadableVideo(
                f"webcam {clip.webcam} cannot be opened; is it connected, and free?"
                if self.live
                else "cannot be opened as a video: damaged, cut off or of an unknown kind"
            )
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        # 1000 is the clock of a file that states no rate, as browsers record, and its count is of milliseconds
        self.rate = WEBCAM_RATE if self.live else rate if 1 <= rate < 1000 else FALLBACK_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) * (self.rate / rate if rate >= 1000 else 1)
        self.expected = 0 if self.live else max(0, int(count))
        self._seconds = -1 / self.rate  # of the last frame

    def __iter__(self) -> Iterator[Frame]:
        start, number = time.monotonic(), 0
        try:
            while (got := self._capture.read())[0]:
                self._seconds = time.monotonic() - start if self.live else self._stated_time()
                yield Frame(number, self._seconds, cv2.cvtColor(got[1], cv2.COLOR_BGR2RGB))
                number += 1
        finally:
            self._capture.release()

    def _stated_time(self) -> float:
        """The frame's own time, as phones record unevenly; by the rate where the file gives none."""
        stated = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return stated if stated > self._seconds else self._seconds + 1 / self.rate

    def ended_early(self, frames: int) -> bool:
        """Whether `frames`, and the time they take, are clearly less than the file states."""
        reached = max(frames, round(self._seconds * self.rate) + 1)
        return self.expected - reached > max(_MISSING_FEW, _MISSING_SHARE * self.expected)


class Writer:
    """`NAME.panel.mp4` and `NAME.jsonl`, which get their names when they are whole.

    Every frame's panel has the size of the first; frames of another size are fitted into it.
    """

    def __init__(self, out: Path, name: str, rate: float, style: Style, pictures: bool, data: bool) -> None:
        self.out, self.name, self.rate, self.style = out, name, _writable(rate), style
        self.pictures, self.data = pictures, data
        folder = (out / name).parent.absolute()  # ffmpeg takes what stands before a colon for a protocol
        folder.mkdir(parents=True, exist_ok=True)
        stem = Path(name).name
        self._beside = {
            kind: folder / f".tmp-{stem}.{kind}"
            for kind, wanted in (("panel.mp4", pictures), ("jsonl", data))
            if wanted
        }
        self._lines = self._beside["jsonl"].open("w", encoding="utf-8") if data else None
        self._video: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._frames = self._panels = 0

    def add(self, frame: Frame, found: Prediction) -> None:
        """Raises OSError where the video cannot be written."""
        self._frames += 1
        if self._lines is not None:
            line: dict[str, Any] = {"frame": frame.number, "time": round(frame.time, 4)}
            line["people"] = people_list(found.people)
            self._lines.write(json.dumps(line) + "\n")
        if self.pictures:
            self._add_panel(frame, panel(found, self.style))

    def close(self) -> tuple[str, ...]:
        """Names of the files that were written, relative to the output folder. Raises OSError, and leaves no file,
        where one could not be written.
        """
        try:
            self._end()
            # cv2's writer tells nothing of a full disk, but what it puts last is what a video is opened by
            if self._video is not None and not cv2.VideoCapture(str(self._beside["panel.mp4"])).isOpened():
                raise OSError(f"{self.out / self.name}.panel.mp4 could not be written whole; is the disk full?")
        except OSError:
            self.discard()
            raise
        done = []
        for kind, beside in self._beside.items():
            if self._frames and beside.exists():
                os.replace(beside, self.out / f"{self.name}.{kind}")
                done.append(f"{self.name}.{kind}")
            beside.unlink(missing_ok=True)
        return tuple(done)

    def discard(self) -> None:
        """Leave no file, and what has their names as it is."""
        with suppress(OSError):
            self._end()
        for beside in self._beside.values():
            beside.unlink(missing_ok=True)

    def _end(self) -> None:
        if self._lines is not None:
            self._lines.close()
        if self._video is not None:
            self._video.release()

    def _add_panel(self, frame: Frame, picture: np.ndarray) -> None:
        if self._video is None:
            self._size = (picture.shape[1], picture.shape[0])
            path = str(self._beside["panel.mp4"])
            self._video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), self.rate, self._size)
            if not self._video.isOpened():
                raise OSError(f"no video of {self._size[0]} x {self._size[1]} can be written to {path}")
        picture = _fitted(picture, self._size)
        due = round(frame.time * self.rate) + 1
        # one panel ahead of time is rounding; further ahead this frame is passed over
        for _ in range(max(int(self._panels <= due), due - self._panels)):
            self._video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            self._panels += 1


def _writable(rate: float) -> float:
    """MPEG-4 divides a second into at most 65,535 parts, and OpenCV gives a frame up to 1,000 of them."""
    return rate if rate <= 65 else round(rate, 2 if rate < 655 else 0)


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in the middle of a white one of (width, height), made smaller where it must be."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    scale = min(size[0] / picture.shape[1], size[1] / picture.shape[0], 1.0)
    width, height = int(picture.shape[1] * scale), int(picture.shape[0] * scale)
    sheet = np.full((size[1], size[0], 3), 255, np.uint8)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    sheet[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return sheet
