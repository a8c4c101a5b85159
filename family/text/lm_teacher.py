"""A causal language model as the teacher of next tokens: asked for logits, scored like a student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from family.run_folder import content_id
from family.tasks.lm_task import LmTask
from family.text.causal_teachers import CausalTeacher
from family.types import Split

AT_ONCE = 8  # rows whose logits are held together


@dataclass(frozen=True, eq=False)
class LmTeacher:
    """See `family.types.Teacher`; `logits` are what its soft targets are drawn from."""

    model: CausalTeacher
    task: LmTask
    views: int = 1

    @property
    def fingerprint(self) -> str:
        return content_id(self.model.fingerprint, self.task.tokenizer.fingerprint)

    @property
    def cost(self) -> Mapping[str, Any]:
        return self.model.cost

    @property
    def notes(self) -> tuple[str, ...]:
        return self.model.notes

    def outputs(self, split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        """What is kept of its logits, as of a student's: (rows, 3)."""
        parts = [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]
        return np.concatenate([self.task.keep(split, some, self.logits(split, some)) for some in parts])

    def logits(self, split: Split, rows: np.ndarray) -> np.ndarray:
        """(rows, length, vocabulary) float32. Raises Mistakes for what is no logits."""
        return self.model.logits(self.task.inputs(split, rows, 0)[0]).numpy()
