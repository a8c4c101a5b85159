"""A teacher that returned only text: its answers are the training data, and stand where soft targets would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from family.run_folder import content_id
from family.tasks.asked_task import Asked
from family.types import SoftBatch, Split, Teacher


@dataclass(frozen=True, eq=False)
class TextTeacher:
    """See `family.types.Teacher`; it has no outputs to be scored like a student's."""

    asked: Asked
    views: int = 1

    @property
    def fingerprint(self) -> str:
        return content_id("text", self.asked.answers.fingerprint)

    @property
    def cost(self) -> Mapping[str, Any]:
        return {}

    @property
    def notes(self) -> tuple[str, ...]:
        answers = self.asked.answers
        return (f"teacher: returns only text; {len(answers.kept)} of {len(answers.given)} answers are kept",)

    def outputs(self, split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        raise TypeError("a teacher that returns only text has no outputs")

    def gold(self, split: Split) -> tuple[int, int]:
        """Rows of the split with a label and an answer, and of how many both say the same."""
        questions, said = self.asked.questions, self.asked.said
        known = [i for i in questions.splits[split].tolist() if questions.labels[i] is not None and i in said]
        return len(known), sum(said[i] == questions.labels[i] for i in known)


def say_text_teacher(teacher: Teacher) -> str:
    """How often its answers are the labels of val, where there are any."""
    assert isinstance(teacher, TextTeacher)
    known, right = teacher.gold("val")
    if not known:
        return "teacher: returns only text, and val has no labels to hold it against"
    return f"teacher: {right} of {known} answers on val are the label ({right / known:.4f})"


@dataclass(frozen=True)
class AnswersAlone:
    """See `family.types.Store`: nothing is kept but the answers, which the task holds."""

    fingerprint: str
    views: int = 1
    bytes_per_view: int = 0
    has: frozenset[str] = frozenset({"answers"})
    temperatures: tuple[float, ...] = ()

    def batch(self, split: Split, rows: np.ndarray, views: np.ndarray) -> SoftBatch:
        return SoftBatch()
