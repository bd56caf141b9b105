"""Progress of a training loop: a bar on a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Shows step, loss, tokens/s and the time that is left.

    Args:
        name: of what is trained.
        shown: False on all ranks but the main one.
        stream: where to; a bar if it is a terminal, else a line every `interval` seconds.
        interval: seconds between plain lines; a bar is redrawn ten times a second.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        shown: bool = True,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.shown = shown
        self.stream = sys.stderr if stream is None else stream
        self.clock = clock
        self.bar: Progress | None = None
        if shown and self.stream.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self.bar = Progress(*columns, TimeRemainingColumn(), console=Console(file=self.stream), transient=False)
            self.task = self.bar.add_task(name, total=1.0, text="")
        self.interval = 0.1 if self.bar is not None else interval
        self.started = self.latest = clock()
        self.first_done: float | None = None

    def __enter__(self) -> TrainingProgress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, done: float, step: int, loss: float, rate: float) -> None:
        """Say where training stands.

        Args:
            done: share of the whole, in [0, 1].
            step: steps done.
            loss: of the latest step.
            rate: targets (tokens) a second.
        """
        if not self.shown:
            return
        now = self.clock()
        if self.first_done is None:
            self.first_done = done  # a resumed run starts in the middle: its pace counts from here
        if now - self.latest < self.interval and done < 1:
            return
        self.latest = now
        text = f"step {step}  loss {loss:.4f}  {rate:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, text=text)
            return
        gained = done - self.first_done
        left = f"  {(now - self.started) * (1 - done) / gained:.0f} s left" if gained > 0 and done < 1 else ""
        print(f"{self.name}  {done:4.0%}  {text}{left}", file=self.stream, flush=True)
