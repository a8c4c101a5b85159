"""The folder that an app takes, by what the student reads: numbers, whole texts, or tokens after those before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export import Artifact, write_student
from export.decoder_folder import write_decoder_student
from export.text_folder import write_text_student
from family.tasks.lm_task import LmTask
from family.tasks.text_task import TextTask
from family.types import Task

GOLDEN_ROWS = 4
PROMPT_TOKENS = 16  # of a text that is gone on with, where the data holds no prompts


def golden_rows(task: Task) -> np.ndarray:
    """The first rows of val; of shapes that vary, one."""
    return np.arange(1 if task.ragged else min(GOLDEN_ROWS, task.rows("val")))


def ship(
    task: Task,
    folder: Path,
    artifact: Artifact,
    manifest: Mapping[str, Any],
    golden: Mapping[str, np.ndarray],
    card: str,
    beside: Sequence[Path],
) -> None:
    """Write `folder`. `task`: as the student meets it; `golden`: what the file takes for the golden rows."""
    match task:
        case LmTask():
            write_decoder_student(folder, artifact, manifest, golden_prompts(task), task.tokenizer.data, card, beside)
        case TextTask():
            texts = task.sentences("val", golden_rows(task))
            write_text_student(folder, artifact, manifest, texts, task.tokenizer.data, card, beside)
        case _:
            write_student(folder, artifact, manifest, golden, card, beside)


def golden_prompts(task: LmTask) -> list[str]:
    """Of the golden rows the prompt, or how the text begins, no longer than half of the context."""
    rows = task.row_ids("val")[golden_rows(task)]
    given = [(task.prompts[i], task.context // 2) for i in rows]
    begun = [(task.texts[i], min(PROMPT_TOKENS, task.context // 2)) for i in rows]
    return [cut_prompt(task, *(own if own[0] else other)) for own, other in zip(given, begun, strict=True)]


def cut_prompt(task: LmTask, text: str, tokens: int) -> str:
    """Of whole characters: the last token may hold half of one."""
    return task.tokenizer.decode(task.tokenizer.tokens([text], tokens)[0]).rstrip("\ufffd")
