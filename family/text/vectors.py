"""A sentence encoder's vectors as the truth: asked once of every text; students learn them, and are scored by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from family.errors import mistake
from family.run_folder import content_id, write_beside
from family.tasks.text_task import SPLITS, TextTask
from family.teacher_kinds import TeacherOptions
from family.teachers import OneTeacher, open_asked
from family.types import Teacher

TOGETHER = 512


def learn_vectors(
    options: Sequence[TeacherOptions], task: TextTask, folder: Path, cache: Path
) -> tuple[TextTask, Teacher]:
    """The task with the teacher's vectors for truth, and the teacher, which is not asked again. Raises Mistakes."""
    if len(options) != 1:
        raise mistake("teacher", f"must be one where its vectors are learnt. Got {len(options)}.")
    asked = open_asked(options[0], task, folder, cache)
    place = cache / f"vectors-{content_id(asked.fingerprint, task.fingerprint)}.npy"
    if not place.exists():
        found = {split: np.arange(task.rows(split)) for split in SPLITS}
        parts = {
            split: np.concatenate([asked.ask(split, rows[i : i + TOGETHER], 0) for i in range(0, len(rows), TOGETHER)])
            for split, rows in found.items()
            if len(rows)
        }
        vectors = np.zeros((len(task.texts), next(iter(parts.values())).shape[1]), np.float32)
        for split, own in parts.items():
            vectors[task.row_ids(split)] = own
        if not np.isfinite(vectors).all():
            raise mistake("teacher", "gives NaN or infinite values.")
        if vectors.shape[1] < 2:
            raise mistake("teacher", "gives one value a text, which is no vector. Look at teacher.output, or at score.")

        def save(beside: Path) -> None:
            with beside.open("wb") as handle:
                np.save(handle, vectors)

        write_beside(place, save)
    vectors = np.load(place)
    taught = task.with_vectors(vectors)
    known = replace(asked, ask=lambda split, rows, _: vectors[task.row_ids(split)[rows]], views=1)
    note = "labels alone: the teacher's vectors of train, without those of transfer"
    notes = (*asked.notes, note)
    return taught, OneTeacher(known, content_id(asked.fingerprint, "vectors"), notes, "", None)
