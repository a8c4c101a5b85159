"""Final measuring has the host to itself: no training step is taken meanwhile, in any process of any run.

Two locks of the kernel on files that every process of this host sees, gone with the process that holds them. The
*room* is shared by all who train and taken whole by who measures. Who wants to measure first closes the *door*; who
trains looks at it between two steps, leaves the room when it is closed, and waits before it. So the measuring begins
when every step that was under way has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

# One place for all users of the host, so not a user's TMPDIR.
PLACE = Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()) / "student-family"
LOOK_S = 0.02  # steps shorter than this look at the door only so often
PATIENCE_S = 600.0  # for one step of each who trains, and for other measurings each


@contextlib.contextmanager
def measure_alone(warn: Callable[[str], None], patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the host while this lasts. Warns, and goes on, where it does not become free within the patience."""
    with open_lock("door") as door, open_lock("room") as room:
        if not (take(door, patience_s) and take(room, patience_s)):
            warn(f"warning: others still use this host after {patience_s:g} s, so timings may be off ({PLACE}-*.lock)")
        yield


@contextlib.contextmanager
def train_in_turn() -> Iterator[Callable[[], None]]:
    """What to call before each step: it returns when nobody measures here. Costs a look at the clock each time."""
    with open_lock("door") as door, open_lock("room") as room:
        yield Turn(door, room).wait


class Turn:
    def __init__(self, door: IO[str], room: IO[str]):
        self.door, self.room, self.looked = door, room, -LOOK_S

    def wait(self) -> None:
        now = time.monotonic()
        if now - self.looked < LOOK_S:
            return
        if not try_lock(self.door, fcntl.LOCK_SH):
            fcntl.flock(self.room, fcntl.LOCK_UN)  # let the measuring begin
            fcntl.flock(self.door, fcntl.LOCK_SH)
        fcntl.flock(self.room, fcntl.LOCK_SH)
        fcntl.flock(self.door, fcntl.LOCK_UN)
        self.looked = time.monotonic()


def try_lock(handle: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def take(handle: IO[str], patience_s: float) -> bool:
    """Lock it for this process alone; False where others hold it all that time."""
    end, pause = time.monotonic() + patience_s, 0.001
    while not try_lock(handle, fcntl.LOCK_EX):
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return True


@contextlib.contextmanager
def open_lock(part: str) -> Iterator[IO[str]]:
    """The file, made for everyone; one of another user's is locked without being written to."""
    path = PLACE.with_name(f"{PLACE.name}-{part}.lock")
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644)
        os.fchmod(descriptor, 0o644)
        os.close(descriptor)
    with path.open() as handle:
        yield handle
