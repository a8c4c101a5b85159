"""A measuring process that dies: a candidate that it dies of is left out; where a target is lost, the run says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from benchmark import Meter, WorkerDied
from family import spaces
from family.candidates import measure_quickly, measure_untrained, parts_of, untrained_graphs
from family.errors import RunFailed
from family.job import Job

TRIES = 2


class Unmeasurable(Exception):
    """What measures dies of this candidate, and of no other: its last words."""


def try_measuring(job: Job, params: Mapping[str, Any], benches: Mapping[str, Meter | None]) -> dict[str, Any]:
    """As `measure_untrained`, tried again where the measuring process dies. Raises Unmeasurable where it dies each time
    though it measures the smallest student, RunFailed where it does not even that."""
    for _ in range(TRIES):
        try:
            return measure_untrained(job, params, benches)
        except WorkerDied as problem:
            words = str(problem).rstrip(".")
    with explain_death():
        probe(job, benches)
    raise Unmeasurable(words)


def probe(job: Job, benches: Mapping[str, Meter | None]) -> None:
    """Measure the smallest student on every target, whatever is known of it. Raises WorkerDied."""
    path = next(iter(untrained_graphs(job, spaces.smallest(job.space)).values()))
    for name, part in parts_of(job, benches):
        measure_quickly(job, name, part, path, benches[name])


@contextlib.contextmanager
def explain_death() -> Iterator[None]:
    """A measuring process that died ends the run with one line. Raises RunFailed."""
    try:
        yield
    except WorkerDied as problem:
        said = str(problem).rstrip(".")
        raise RunFailed(
            f"Stopped: {said}. What was finished is kept; see to what measures, then repeat the same command."
        ) from problem
