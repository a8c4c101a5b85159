"""What students answer to the prompts of test, by the file that ships, beside the teacher's answers and the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from export import Runner
from family.controls import faithful_pairs
from family.entry_points import step_inputs
from family.job import Job
from family.recipe import Recipe
from family.run_folder import remember
from family.students import export_trained, trained_folder
from family.tasks.asked_task import Asked, groups_of
from family.tasks.lm_task import NOTHING_TO_LEARN, LmTask
from family.text.filters import open_learnt
from family.text.text_teacher import TextTeacher
from family.types import Split, Training
from reports import SCORES, difference, score_interval

AT_ONCE = 64  # prompts of one length that are gone on with together
SAMPLES = 6
VERSION = 1


def tell_asking(job: Job) -> dict[str, Any]:
    """What asking the teacher gave and took, for family.json; nothing of a teacher that gives more than text."""
    if not isinstance(job.teacher, TextTeacher):
        return {}
    found = job.teacher.asked.answers
    splits: tuple[Split, ...] = ("val", "test")
    gold = {split: dict(zip(("rows", "right"), job.teacher.gold(split), strict=True)) for split in splits}
    counts = {name: dict(getattr(found, name)) for name in ("refused", "unanswered")}
    told = {"given": len(found.given), "kept": len(found.kept), "repeated": found.repeated, "stopped": found.stopped}
    return told | counts | asdict(found.spent) | {"money": found.money, "gold": gold}


def tell_answers(job: Job, params: Mapping[str, Any], precision: str, recipe: Recipe) -> dict[str, Any]:
    """How often student and control answer validly, as the teacher, and as the label, with 95 % intervals: means over
    the paired seeds, `{rows, student, control, difference, samples}`. Nothing where the teacher gives more than text,
    or no pair can be compared."""
    pairs = faithful_pairs(job, params, recipe)
    if not isinstance(job.teacher, TextTeacher) or not pairs:
        return {}
    asked = job.teacher.asked
    rows = [int(i) for i in asked.questions.splits["test"]]
    told = {
        who: [answers_of(job, asked, params, own, precision, rows) for own in trainings]
        for who, trainings in zip(("student", "control"), zip(*pairs, strict=True), strict=True)
    }
    return {
        "rows": len(rows),
        **{who: {"valid": share_valid(texts)} for who, texts in told.items()},
        "matches": {
            name: compare_matches(asked, rows, truth, told) for name, truth in truths_of(asked, rows).items() if truth
        },
        "samples": pick_samples(asked, rows, told),
    }


def truths_of(asked: Asked, rows: Sequence[int]) -> dict[str, dict[int, str]]:
    """What an answer may match: what the teacher said, and the labels, each where there is one."""
    labels = {i: label for i in rows if (label := asked.questions.labels[i]) is not None}
    return {"teacher": {i: asked.said[i] for i in rows if i in asked.said}, "label": labels}


def compare_matches(
    asked: Asked, rows: Sequence[int], truth: Mapping[int, str], told: Mapping[str, Sequence[Sequence[str | None]]]
) -> dict[str, Any]:
    """Shares of the rows with a truth that are answered so, and the paired difference of student and control."""
    known = [place for place, i in enumerate(rows) if i in truth]
    groups = (
        groups_of(asked.questions)[[rows[place] for place in known]]
        if asked.questions.source.groups is not None
        else None
    )
    hits = {
        who: [as_outputs([texts[place] == truth[rows[place]] for place in known]) for texts in seeds]
        for who, seeds in told.items()
    }
    right, accuracy = np.zeros(len(known), np.int64), SCORES["accuracy"]
    gap = difference(accuracy, right, hits["student"], hits["control"], groups)
    means = {who: float(np.mean([accuracy.fn(right, one) for one in seeds])) for who, seeds in hits.items()}
    first = score_interval(accuracy, right, hits["student"][0], groups)
    return {
        "rows": len(known),
        **means,
        "interval": {"value": first.value, "low": first.low, "high": first.high},
        "difference": {"value": gap.value, "low": gap.low, "high": gap.high},
    }


def as_outputs(hits: Sequence[bool]) -> np.ndarray:
    """(rows, 2): class 0 is the likelier where it is a hit."""
    found = np.array(hits, np.float32)
    return np.stack([found, 1 - found], 1)


def share_valid(seeds: Sequence[Sequence[str | None]]) -> float:
    return float(np.mean([[text is not None for text in texts] for texts in seeds]))


def pick_samples(
    asked: Asked, rows: Sequence[int], told: Mapping[str, Sequence[Sequence[str | None]]]
) -> list[dict[str, str | None]]:
    """A few prompts with what everyone says: `{prompt, label, teacher, student, control}`."""
    places = range(0, len(rows), max(1, len(rows) // SAMPLES))[:SAMPLES]
    questions = asked.questions
    return [
        {
            "prompt": questions.prompts[rows[place]],
            "label": questions.labels[rows[place]],
            "teacher": asked.said.get(rows[place]),
            **{who: seeds[0][place] for who, seeds in told.items()},
        }
        for place in places
    ]


def answers_of(
    job: Job, asked: Asked, params: Mapping[str, Any], training: Training, precision: str, rows: Sequence[int]
) -> list[str | None]:
    """What the rule of validity takes of the file's likeliest answers to the prompts of `rows`, None where it is not
    valid or nothing."""
    digest = export_trained(job, params, training)[precision]["sha256"]
    path = trained_folder(job, params, training) / precision / "model.onnx"
    prompts = [asked.questions.prompts[i] for i in rows]
    assert isinstance(job.task, LmTask)
    task = job.task.seen_by(params)
    inputs = [digest, task.fingerprint, job.teacher.fingerprint, VERSION]
    texts: list[str] = remember(path.with_name("answers.json"), inputs, lambda: write_answers(task, path, prompts))
    take = open_learnt(asked.questions.asks.endpoint.filters.valid)
    return [take(text) or None for text in texts]


def write_answers(task: LmTask, path: Path, prompts: Sequence[str]) -> list[str]:
    """The likeliest answer of the file at `path` to each prompt, to its end or one token beyond the longest that was
    learnt."""
    runner = Runner(path)
    longest = int((task.tokens[1] != NOTHING_TO_LEARN).sum(1).max())
    ids = [[task.start, *tokens] for tokens in task.tokenizer.tokens(prompts, task.context - 1)]
    lengths = np.array([len(one) for one in ids])
    texts = [""] * len(ids)
    for length in np.unique(lengths).tolist():
        same = np.flatnonzero(lengths == length)
        for some in (same[start : start + AT_ONCE] for start in range(0, len(same), AT_ONCE)):
            told = go_on(
                task, runner, np.array([ids[i] for i in some], np.int64), min(longest, task.context - length + 1)
            )
            for i, tokens in zip(some, told, strict=True):
                texts[i] = str(task.tokenizer.opened.decode(tokens))
    return texts


def go_on(task: LmTask, runner: Runner, ids: np.ndarray, most: int) -> list[list[int]]:
    """ids (n, length) → the likeliest tokens after each, until the token that ends an answer, at most `most`."""
    length, over = ids.shape[1], np.zeros(len(ids), bool)
    for _ in range(most):
        told = runner(step_inputs(task.front, ids, 0))[:, -1].argmax(1)
        ids = np.concatenate([ids, told[:, None]], 1)
        over |= told == task.start
        if over.all():
            break
    return [until(row, task.start) for row in ids[:, length:].tolist()]


def until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
