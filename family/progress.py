"""What a run says while it works: one live line under what was said, on a terminal; plain lines elsewhere."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TextIO

PERIOD = 0.5  # seconds between two drawings


@dataclass(frozen=True)
class Stage:
    """What is running now. `done` of `wanted` (0: not counted), seconds left at most, best val score per budget;
    `about`: these are estimates; and what else is to say."""

    what: str
    done: int = 0
    wanted: int = 0
    seconds_left: float | None = None
    best: Mapping[str, float] = field(default_factory=dict)
    about: bool = False
    note: str = ""


Watch = Callable[[Stage], None]


def watch_nothing(stage: Stage) -> None:
    """For callers who do not look."""


class Progress:
    """Takes the lines of a run as its `show`, and its stages as its `watch`; a context manager."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.stage, self.since = Stage("reading the data"), clock()
        self.live = stream.isatty()
        self.lock, self.over = threading.RLock(), threading.Event()
        self.drawing = threading.Thread(target=self.redraw, daemon=True)

    def __enter__(self) -> Progress:
        if self.live:
            self.drawing.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.over.set()
        if self.live:
            self.drawing.join()
            self.write("\r\x1b[K")

    def __call__(self, line: str) -> None:
        """Say `line` for good."""
        with self.lock:
            self.write(f"\r\x1b[K{line}\n" if self.live else f"{line}\n")
            if self.live:
                self.draw()

    def watch(self, stage: Stage) -> None:
        """Enter `stage`, or note how far it has come. Without a terminal only new ones are said."""
        with self.lock:
            if stage.what != self.stage.what:
                self.since = self.clock()
                if not self.live:
                    self.write(f"now: {stage.what}\n")
            self.stage = stage
            if self.live:
                self.draw()

    def status(self) -> str:
        """One line: what is running, for how long, how much of it is done, time left, best per budget."""
        stage = self.stage
        said = [f"now: {stage.what}", spell(self.clock() - self.since)]
        if stage.wanted:
            said.append(f"{stage.done} of {stage.wanted}")
        if stage.seconds_left is not None:
            said.append(f"at most about {spell(stage.seconds_left)} left")
        if stage.best:
            scores = ", ".join(f"{name} {value:.3f}" for name, value in stage.best.items())
            said.append(f"best val{' about' if stage.about else ''}: {scores}")
        if stage.note:
            said.append(stage.note)
        return " · ".join(said)

    def redraw(self) -> None:
        while not self.over.wait(PERIOD):
            with self.lock:
                self.draw()

    def draw(self) -> None:
        width = shutil.get_terminal_size().columns
        self.write(f"\r\x1b[K{self.status()[: width - 1]}")

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def spell(seconds: float) -> str:
    """3:07, or 1:02:03."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
