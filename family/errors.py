"""What a user can get wrong, collected and said at once.

StudentFamilyError
├── Mistakes         the input is wrong: every mistake, each with its YAML path     (exit 2)
├── RunInUse         another process works in this run folder                       (exit 2)
└── RunFailed        the run cannot go on: disk full, read-only folder, …            (exit 1)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """`where` is the YAML path (`data.label`, `budgets.watch.latency_ms`); the line is looked up when printed."""

    where: str
    message: str


class StudentFamilyError(Exception):
    pass


class Mistakes(StudentFamilyError):
    def __init__(self, mistakes: Iterable[Mistake]):
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(f"{m.where}: {m.message}" for m in self.mistakes))


class RunInUse(StudentFamilyError):
    pass


class RunFailed(StudentFamilyError):
    pass


def mistake(where: str, message: str) -> Mistakes:
    """One mistake, ready to raise."""
    return Mistakes([Mistake(where, message)])
