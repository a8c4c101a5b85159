"""What a run says while it works: one live line under what was said, on a terminal; plain lines elsewhere."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

TRAINED = re.compile(r"trial \d+: .* val ")
PERIOD = 0.5  # seconds between two drawings
SILENT = ("teacher:", "bake-off:")  # after these comes a long silence, so that plain lines say what it is for
# what the run does once it has said a line that begins so; the first that fits
NEXT = (
    ("note: task", "opening the teacher"),
    ("note: teacher", "asking the teacher about val"),
    ("bake-off: which", "comparing losses on a middle student"),
    ("bake-off:", "search"),
    ("trial ", "search"),
    ("finals:", "finals, measured with nothing else running"),
    ("controls of", "training controls, then the report"),
)


class Progress:
    """Takes the lines of a run, as its `show`. `trials`, `minutes`: what the search may take; None: no such limit.

    The loss and its learning rate are looked for after the teacher's score (a dry run measures students instead).
    """

    def __init__(
        self,
        stream: TextIO,
        trials: int,
        minutes: float | None,
        dry_run: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream, self.trials, self.minutes, self.clock = stream, trials, minutes, clock
        tuning = (
            "measuring three students" if dry_run else "asking the teacher; then learning rate, loss or the first trial"
        )
        self.next = (*NEXT, ("teacher:", tuning), ("learning rate", "" if dry_run else "the next step of the recipe"))
        self.stage, self.since, self.trained = "reading the data", clock(), 0
        self.search_began: float | None = None
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
        """Say `line` for good, and what follows it."""
        with self.lock:
            self.write(f"\r\x1b[K{line}\n" if self.live else f"{line}\n")
            stage = next((what for start, what in self.next if line.startswith(start)), self.stage)
            if stage != self.stage:
                self.enter(stage, begun=self.since if line.startswith("trial ") else self.clock())
                if not self.live and line.startswith(SILENT):
                    self.write(f"now: {stage}\n")
            self.trained += bool(TRAINED.match(line))
            if self.live:
                self.draw()

    def enter(self, stage: str, begun: float) -> None:
        self.stage, self.since = stage, begun
        if stage == "search":
            self.search_began = begun

    def status(self) -> str:
        """One line: what is running, for how long, trials done, time left. What an earlier process trained is
        not known here, so the trials left, and their time, are the most that can be left."""
        said = [f"now: {self.stage}", spell(self.clock() - self.since)]
        if self.stage == "search":
            said.append(f"{self.trained} trials trained here, {self.trials} wanted in all")
            if (left := self.seconds_left()) is not None:
                said.append(f"at most about {spell(left)} of search left")
        return " · ".join(said)

    def seconds_left(self) -> float | None:
        """At the pace so far, and within the search's minutes; None before the first trained trial."""
        if not self.trained or self.search_began is None:
            return None
        took = self.clock() - self.search_began
        left = max(0, self.trials - self.trained) * took / self.trained
        return left if self.minutes is None else min(left, max(0.0, self.minutes * 60 - took))

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
