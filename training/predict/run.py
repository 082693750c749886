"""`sapiens-train predict`: every input gets a row in manifest.parquet, and its files beside it.

photos and frames ─▶ people ─▶ one view per person ─▶ one encoder pass per shared encoder ─▶ heads ─▶ files
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from manifests.account import numbered
from manifests.store import Store
from shards.cache import ShardError
from shards.crop import BrokenImage, Encoded
from training.config import UsageError
from training.labels.sets import ClassList, KeypointSet
from training.predict.compose import Composer, Found, Prediction
from training.predict.draw import Style
from training.predict.files import CONVENTIONS, write_photo
from training.predict.inputs import Clip, Input, Listing, Photo, list_inputs, most_common
from training.predict.models import Models, choose_device, load_models
from training.predict.people import NoBoxes, People, choose_people
from training.predict.results import RECORD, Row, check_output, held, names_of, read_rows, write_rows
from training.predict.video import SIDE, Frame, Reader, UnreadableVideo, Writer
from training.tasks.view import View, fit, warp_image

Item = TypeVar("Item")

CHUNK_PIXELS = 60_000_000
"""Photos are decoded and answered together until they have this many pixels, or as many as a batch has people."""


@dataclass(frozen=True)
class Options:
    """How to predict. boxes: "" for the detector, "whole", or a file. min_score: of a person, None for the default.
    min_keypoint: keypoints of a lower score are not drawn. frames: of each video at most; 0: all.
    """

    boxes: str = ""
    min_score: float | None = None
    min_keypoint: float = 0.3
    batch: int = 4
    device: str = "auto"
    precision: str = "fp32"
    pictures: bool = True
    data: bool = True
    frames: int = 0


@dataclass(frozen=True)
class Answer:
    """What is known of one image. dropped: boxes with nothing of it inside."""

    found: Prediction
    dropped: int


class Predictor:
    """Images in, answers out: people are found, seen through views, and batched over images."""

    def __init__(self, models: Models, people: People, batch: int = 4) -> None:
        self.models, self.people, self.batch = models, people, batch
        self._threads = ThreadPoolExecutor(min(batch, os.cpu_count() or 1))

    def __call__(self, items: Sequence[Input], images: Sequence[np.ndarray]) -> list[Answer | NoBoxes]:
        """images: (H, W, 3) uint8 RGB of any sizes, one per item."""
        composers: list[Composer | NoBoxes] = []
        for boxes, image in zip(self.people(items, images), images, strict=True):
            composers.append(boxes if isinstance(boxes, NoBoxes) else Composer(image, boxes, list(self.models.tasks)))
        seen = ((c, number) for c in composers if isinstance(c, Composer) for number in range(len(c.boxes)))
        for part in _batches(seen, self.batch):
            self._answer(part)
        return [c if isinstance(c, NoBoxes) else Answer(c.done(), c.dropped) for c in composers]

    def _answer(self, part: Sequence[tuple[Composer, int]]) -> None:
        views = [{size: _view(c.boxes[n], size) for size in self.models.sizes} for c, n in part]
        inputs = {
            size: np.stack([warp_image(c.image, seen[size]) for (c, _), seen in zip(part, views, strict=True)])
            for size in self.models.sizes
        }
        try:
            outputs = self.models(inputs)
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"{len(part)} people at a time do not fit into the GPU's memory; give a smaller --batch, or "
                "--precision bf16"
            ) from error

        def decode(i: int) -> Found:
            composer, number = part[i]
            own = {task: views[i][loaded.size] for task, loaded in self.models.tasks.items()}
            return composer.decode(number, {task: output[i] for task, output in outputs.items()}, own)

        for (composer, number), found in zip(part, self._threads.map(decode, range(len(part))), strict=True):
            composer.put(number, found)


def predict(paths: Sequence[str], out: Path, checkpoints: Mapping[str, str], options: Options) -> list[Row]:
    """Answer every input and write its files, the manifest and run.json into `out`; the manifest's rows.

    Raises UsageError for what cannot be meant: no model, a checkpoint of another task, a path that is not there, or an
    output that holds something else. What earlier runs made there of the same inputs is replaced, one input after the
    other, and the rest is left alone. Interrupted, what was done stays, with its manifest.
    """
    check_output(out)
    earlier = read_rows(out)
    listing = list_inputs(paths, out, names_of(earlier))
    device = choose_device(options.device)
    people = choose_people(options.boxes, options.min_score, torch.get_num_threads())
    models = load_models(checkpoints, device, options.precision)
    predictor, style = Predictor(models, people, options.batch), _style(models, options)
    with held(out):
        if names_of(read_rows(out)) != names_of(earlier):
            raise UsageError(f"another process has just written results into {out}; run the same command again")
        Store(out).write_json(RECORD, _record(models, options, listing))
        return _predict(listing.inputs, out, predictor, style, options, earlier)


def _predict(
    inputs: Sequence[Input],
    out: Path,
    predictor: Predictor,
    style: Style,
    options: Options,
    earlier: Sequence[Row],
) -> list[Row]:
    """The rows of all inputs, in their order and in the manifest."""
    rows: list[Row] = []
    photos = [item for item in inputs if isinstance(item, Photo)]
    clips = [item for item in inputs if isinstance(item, Clip)]
    whole = {row.name for row in earlier if row.status == "success"}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            if photos:
                bar = progress.add_task("photos", total=len(photos))
                for row in _predict_photos(photos, out, predictor, style, options):
                    rows.append(row)
                    progress.advance(bar)
            for clip in clips:
                is_whole = clip.name in whole
                done, interrupted = _predict_clip(clip, out, predictor, style, options, progress, is_whole)
                rows += [done] if done else []
                if interrupted and clip.webcam is None:
                    raise KeyboardInterrupt
    finally:
        order = {item.name: number for number, item in enumerate(inputs)}
        rows.sort(key=lambda row: order[row.name])
        write_rows(out, earlier, rows)
    return rows


def _predict_photos(
    photos: Sequence[Photo], out: Path, predictor: Predictor, style: Style, options: Options
) -> Iterator[Row]:
    for chunk in _ahead(_chunks(photos, options.batch)):
        good = [(photo, image) for photo, image in chunk if isinstance(image, np.ndarray)]
        answers = iter(predictor(*zip(*good, strict=True)) if good else ())
        for photo, image in chunk:
            row = Row(photo.name, photo.uri, photo.member, "photo")
            if isinstance(image, str):
                yield replace(row, error_message=image)
                continue
            row = replace(row, width=image.shape[1], height=image.shape[0], frames=1)
            answer = next(answers)
            if isinstance(answer, NoBoxes):
                yield replace(row, error_message=f"NoBoxes: {answer}")
                continue
            place = f"{photo.uri}::{photo.member}" if photo.member else photo.uri
            written = write_photo(out, photo.name, place, answer.found, style, options.pictures, options.data)
            yield replace(
                row,
                status="success",
                num_persons=len(answer.found.people),
                person_boxes=tuple(
                    dict(zip(("x0", "y0", "x1", "y1", "score"), (*p.box, p.score), strict=True))
                    for p in answer.found.people
                ),
                dropped_boxes=answer.dropped,
                depth_near=written.near,
                depth_far=written.far,
                files=written.files,
            )


def _predict_clip(
    clip: Clip, out: Path, predictor: Predictor, style: Style, options: Options, progress: Progress, is_whole: bool
) -> tuple[Row | None, bool]:
    """The clip's row, and whether Ctrl-C ended it, which is how a webcam's recording ends. is_whole: results of all of
    it are there, which part of a video does not replace; then there is no row.
    """
    row = Row(clip.name, clip.uri, "", "video" if clip.webcam is None else "webcam")
    try:
        reader = Reader(clip)
    except UnreadableVideo as error:
        return replace(row, error_message=f"UnreadableVideo: {error}"), False
    total = min(options.frames or reader.expected, reader.expected or options.frames) or None
    bar = progress.add_task(clip.name, total=total)
    style = Style(style.keypoints, style.classes, style.min_keypoint, SIDE)
    writer = Writer(out, clip.name, reader.rate, style, options.pictures, options.data)
    problem, interrupted = "", False
    try:
        for frame, answer in _answered_frames(clip, reader, predictor, options):
            if isinstance(answer, NoBoxes):
                problem = f"NoBoxes: {answer}"
                break
            writer.add(frame, answer.found)
            row = _counted(row, frame, answer)
            progress.advance(bar)
    except KeyboardInterrupt:
        interrupted = True
        problem = "" if reader.live else f"Interrupted after frame {row.frames}"
    except BaseException:
        writer.discard()
        raise
    if interrupted and is_whole and not reader.live:
        writer.discard()
        return None, True
    files = writer.close()
    if not problem and not row.frames:
        problem = "UnreadableVideo: it opens, but no frame can be read"
    if not problem and not options.frames and reader.ended_early(row.frames):
        problem = f"EndedEarly: frame {row.frames} of {reader.expected} was the last that can be read"
    status = "success" if not problem else "partial" if row.frames else "failed"
    return replace(row, status=status, error_message=problem, files=files), interrupted


def _answered_frames(
    clip: Clip, reader: Reader, predictor: Predictor, options: Options
) -> Iterator[tuple[Frame, Answer | NoBoxes]]:
    """Frames with what is known of them: live ones one at a time, those of a file some at a time and read ahead."""
    frames = _limited(reader, options.frames)
    for chunk in _batches(frames if reader.live else _ahead(frames), 1 if reader.live else options.batch):
        yield from zip(chunk, predictor([clip] * len(chunk), [frame.image for frame in chunk]), strict=True)


def _counted(row: Row, frame: Frame, answer: Answer) -> Row:
    height, width = frame.image.shape[:2]
    return replace(
        row,
        width=row.width or width,
        height=row.height or height,
        frames=row.frames + 1,
        num_persons=max(row.num_persons, len(answer.found.people)),
        dropped_boxes=row.dropped_boxes + answer.dropped,
    )


def summary(rows: Sequence[Row], passed_over: Mapping[str, int]) -> str:
    """One line on what came out, and what was no input; passed_over: as in run.json."""
    failed = sum(row.status == "failed" for row in rows)
    partial = sum(row.status == "partial" for row in rows)
    photos = [row for row in rows if row.kind == "photo" and row.status == "success"]
    clips = [row for row in rows if row.kind != "photo" and row.status != "failed"]
    people = numbered(sum(row.num_persons for row in photos), "person", "people")
    frames = numbered(sum(row.frames for row in clips), "frame")
    parts = [f"{numbered(len(photos), 'photo')} with {people}"] if photos else []
    parts += [f"{numbered(len(clips), 'video')} of {frames}"] if clips else []
    parts += [f"{partial} ended early"] if partial else []
    parts += [f"{failed} failed"] if failed else []
    others = Counter(passed_over)
    parts += [f"{others.total()} passed over as no photos or videos: {most_common(others)}"] if others else []
    return "; ".join(parts)


# -- reading -----------------------------------------------------------------------------------------------------------


def _chunks(photos: Iterable[Photo], count: int) -> Iterator[list[tuple[Photo, np.ndarray | str]]]:
    """Decoded photos, some at a time; text says why one cannot be decoded."""
    chunk: list[tuple[Photo, np.ndarray | str]] = []
    pixels = 0
    for photo in photos:
        image = _decode(photo)
        chunk.append((photo, image))
        pixels += image.size // 3 if isinstance(image, np.ndarray) else 0
        if len(chunk) >= count or pixels >= CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _decode(photo: Photo) -> np.ndarray | str:
    if photo.error:
        return photo.error
    try:
        return Encoded(photo.read()).decode()
    except (OSError, ShardError, BrokenImage) as error:
        return f"{type(error).__name__}: {error}"


def _ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, the next one made by a thread while this one is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]


def _batches(items: Iterable[Item], count: int) -> Iterator[tuple[Item, ...]]:
    """The items, `count` at a time."""
    iterator = iter(items)
    while batch := tuple(islice(iterator, count)):
        yield batch


def _limited(reader: Reader, frames: int) -> Iterator[Frame]:
    for frame in reader:
        yield frame
        if frame.number + 1 == frames:
            return


# -- small things ------------------------------------------------------------------------------------------------------


def _view(box: np.ndarray, size: tuple[int, int]) -> View:
    return fit((float(box[0]), float(box[1]), float(box[2]), float(box[3])), size)


def _style(models: Models, options: Options) -> Style:
    sets = {task: loaded.label_set for task, loaded in models.tasks.items()}
    keypoints, classes = sets.get("pose"), sets.get("parts")
    return Style(
        keypoints if isinstance(keypoints, KeypointSet) else None,
        classes if isinstance(classes, ClassList) else None,
        options.min_keypoint,
    )


def _record(models: Models, options: Options, listing: Listing) -> dict[str, Any]:
    return {
        "models": {
            task: {"checkpoint": loaded.path, "size": list(loaded.size), "encoder": loaded.encoder_hash[:16]}
            for task, loaded in models.tasks.items()
        },
        "encoder_passes": len(models.groups),
        "options": asdict(options),
        "passed_over": dict(listing.passed_over),
        "labels": {task: loaded.labels for task, loaded in models.tasks.items()},
        "conventions": CONVENTIONS,
    }
