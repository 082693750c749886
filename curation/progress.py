"""What the terminal shows while a run works: a live bar, or without a terminal one plain line every few seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from manifests.account import Counts, numbered

EVERY_S = 5.0


class Meter:
    """Counts what a stage has done and says so."""

    def __init__(self, stage: str, total: int, console: Console, bar: Progress | None) -> None:
        self.stage, self.total, self.console, self.bar = stage, total, console, bar
        self.counts = Counts()
        self.done = self.found = 0  # found: done by an earlier run, so no measure of this one's speed
        self.start = self.said = time.monotonic()
        self.task = bar.add_task(stage, total=total, rate="", counts="") if bar else None

    def add(self, images: int, counts: Counts | None = None, fresh: bool = True) -> None:
        """`images` more are done, now or (not fresh) by an earlier run; `counts`: their verdicts where known."""
        self.done += images
        self.found += 0 if fresh else images
        if counts:
            self.counts += counts
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=self.done, rate=f"{self.rate:.1f} images/s", counts=self._counts())
        elif time.monotonic() - self.said >= EVERY_S:
            self.said = time.monotonic()
            left = (self.total - self.done) / self.rate if self.rate else 0
            self.console.print(
                f"{self.stage}: {self.done}/{numbered(self.total, 'image')}, {self.rate:.1f}/s, "
                f"{_clock(left)} left{self._counts()}"
            )

    @property
    def rate(self) -> float:
        """Images per second so far."""
        return (self.done - self.found) / max(1e-9, time.monotonic() - self.start)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def _counts(self) -> str:
        c = self.counts
        return f"  {c.kept} kept, {c.rejected} rejected, {c.failed} failed" if c.inputs else ""


@contextmanager
def meter(stage: str, total: int, console: Console) -> Iterator[Meter]:
    """A meter for one stage."""
    if not console.is_terminal:
        yield Meter(stage, total, console, None)
        return
    columns = (
        TextColumn("{task.description:>7}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[counts]}"),
    )
    with Progress(*columns, console=console, transient=False) as bar:
        yield Meter(stage, total, console, bar)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
