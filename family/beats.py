"""Who of a search's workers lives, where no process sees the others: each shows a pulse in the study itself.

A worker counts up a number beside the trial that it runs, every few seconds. Who sees the same number for longer than
GRACE_S, by its own clock and while the storage answered, takes the trial up under its own number: so it asks for the
same candidate, whoever runs it, and the storage lets it be told once. (Optuna's own heartbeat gives a failed trial
and a new one, with another number, and its gRPC proxy passes none on.)
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from family.errors import RunFailed

BEAT_S = 5.0
GRACE_S = 30.0
GUEST = "guest "  # study attributes of workers that train and do not measure


class Pulse:
    """The beats of this worker: of the trial that it runs, and, as a guest, of itself."""

    def __init__(self, study: optuna.Study, guest: str | None = None, beat_s: float = BEAT_S):
        self.study, self.guest, self.beat_s = study, guest, beat_s
        self.count, self.over = 0, threading.Event()
        self.trial_id: int | None = None
        self.lock = threading.Lock()  # a beat and the end of its trial do not cross

    @contextlib.contextmanager
    def beating(self) -> Iterator[Pulse]:
        """A thread sends the beats while this lasts."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            thread.join()
            if self.guest:
                with contextlib.suppress(RunFailed):
                    self.study.set_user_attr(GUEST + self.guest, None)

    @contextlib.contextmanager
    def of(self, trial_id: int) -> Iterator[None]:
        """The trial that this worker runs meanwhile."""
        self.trial_id = trial_id
        self.beat()
        try:
            yield
        finally:
            with self.lock:
                self.trial_id = None

    def run(self) -> None:
        with contextlib.suppress(RunFailed):  # the worker's own next call says so
            while not self.over.wait(self.beat_s):
                self.beat()

    def beat(self) -> None:
        with self.lock:
            self.count += 1
            if self.trial_id is not None:
                with contextlib.suppress(UpdateFinishedTrialError):  # another has told it
                    self.study._storage.set_trial_user_attr(self.trial_id, "beat", self.count)
            if self.guest:
                self.study.set_user_attr(GUEST + self.guest, self.count)


class Lookout:
    """Sees which pulses have stopped. `back()`: when the storage last answered again after it was away."""

    def __init__(
        self,
        back: Callable[[], float] = lambda: 0.0,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.back, self.grace_s, self.clock = back, grace_s, clock
        self.seen: dict[Any, tuple[Any, float]] = {}

    def is_silent(self, what: Any, beat: Any) -> bool:
        """Whether `beat` has been the same for longer than the grace."""
        now = self.clock()
        before = self.seen.get(what)
        if before is None or before[0] != beat:
            self.seen[what] = (beat, now)
            return False
        return now - max(before[1], self.back()) > self.grace_s

    def is_abandoned(self, trial: FrozenTrial) -> bool:
        """Whether a running trial's worker is silent; one that was just asked for has no worker yet."""
        said = trial.user_attrs
        return self.is_silent(trial.number, (said.get("worker"), said.get("beat"), str(trial.datetime_start)))

    def count_guests(self, study_attrs: Mapping[str, Any]) -> int:
        """Workers that train what others measure, and are alive."""
        beats = {name: beat for name, beat in study_attrs.items() if name.startswith(GUEST) and beat is not None}
        return sum(not self.is_silent(name, beat) for name, beat in beats.items())
