"""A language task that a teacher's text writes: prompts of the data's rows, its answers to learn, and the truth.

The teacher writes the lessons once; ordinary cross-entropy follows. Transfer holds its answers (after their prompts),
train what labels alone teach: the labels as text after the same prompts, or where there are none the data's own text.
Val and test hold the labels, or where there are none the teacher's answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from export import StepFront
from family.errors import mistake
from family.progress import Watch
from family.run_folder import content_id
from family.tasks.lm_task import CONTEXT, SPLITS, LmTask, cut_document, pick_tokenizer, start_of
from family.tasks.options import DataOptions, Source
from family.tasks.splits import split_rows
from family.text.answers import Answers, collect_answers
from family.text.documents import read_documents
from family.text.endpoint import EndpointOptions
from family.text.prompts import fill_template
from family.types import Split


@dataclass(frozen=True)
class Asks:
    """`template`: the prompt, with columns of the data in braces."""

    template: str
    endpoint: EndpointOptions


@dataclass
class Rows:
    """Rows of the task as they are put together."""

    prompts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # the data's rows
    split: list[Split] = field(default_factory=list)

    def add(self, split: Split, owner: int, prompt: str, text: str) -> None:
        self.prompts.append(prompt)
        self.texts.append(text)
        self.owners.append(int(owner))
        self.split.append(split)


@dataclass(frozen=True)
class Asked:
    """The task, and the teacher's answers. `said[i]`: what was kept first for the data's row i; `prompts`: its prompt;
    `labels`: its label as text, None where there is none."""

    task: LmTask
    answers: Answers
    said: dict[int, str]
    prompts: Sequence[str]
    labels: Sequence[str | None]


def open_asked(
    options: DataOptions, asks: Asks, folder: Path, cache: Path, show: Callable[[str], None], watch: Watch
) -> Asked:
    """Ask the teacher about every row, and put the task together. Raises Mistakes with what is wrong, RunFailed where
    the endpoint is away. `folder`: of the answers."""
    source = read_documents(options, cache)
    splits, notes, doubts = split_rows(source, options, np.zeros(source.rows, np.int64), stratify=False)
    prompts = fill_template(asks.template, {name: list(values) for name, values in source.columns.items()})
    order = np.concatenate([splits[split] for split in SPLITS])
    answers = collect_answers(asks.endpoint, [prompts[i] for i in order], folder, show, watch)
    given: dict[int, list[str]] = {}
    for one in answers.kept:
        given.setdefault(int(order[one.prompt]), []).append(one.value)
    labels = [str(label) if known else None for label, known in zip(source.labels, source.known, strict=True)]
    labels = labels if options.label else [None] * source.rows
    rows = put_together(source, splits, prompts, labels, given)
    counts = {split: rows.split.count(split) for split in SPLITS}
    for split in SPLITS:
        if not counts[split]:
            raise mistake(
                "teacher", f"left no row in {split}: of {len(order)} rows {len(given)} have an answer that was kept."
            )
    task = make_task(options, source, rows, (*source.notes, *notes), (*source.warnings, *doubts))
    said = {row: texts[0] for row, texts in given.items()}
    return Asked(task, answers, said, prompts, labels)


def put_together(
    source: Source,
    splits: dict[str, np.ndarray],
    prompts: Sequence[str],
    labels: Sequence[str | None],
    given: dict[int, list[str]],
) -> Rows:
    rows = Rows()
    for i in splits["train"]:
        label = labels[i]
        if label is not None:
            rows.add("train", i, prompts[i], label)
        elif not any(labels):
            rows.add("train", i, "", source.columns["text"][i])
    for i in (*splits["train"], *splits["transfer"]):
        for text in given.get(int(i), ()):
            rows.add("transfer", i, prompts[i], text)
    for split in ("val", "test"):
        for i in splits[split]:
            truth = labels[i] if labels[i] is not None else next(iter(given.get(int(i), ())), None)
            if truth is not None:
                rows.add(split, i, prompts[i], truth)
    return rows


def make_task(
    options: DataOptions, source: Source, rows: Rows, notes: tuple[str, ...], warnings: tuple[str, ...]
) -> LmTask:
    tokenizer, said = pick_tokenizer(options, [p + t for p, t in zip(rows.prompts, rows.texts, strict=True)])
    context = options.context or CONTEXT
    texts = [
        text if prompt else cut_document(text, tokenizer, context)[0]
        for prompt, text in zip(rows.prompts, rows.texts, strict=True)
    ]
    digest = hashlib.sha256("\0".join([*rows.prompts, *texts]).encode()).hexdigest()
    split = np.array(rows.split)
    splits = {name: np.flatnonzero(split == name) for name in SPLITS}
    parts = {name: own.tolist() for name, own in splits.items()}
    owners = np.array(rows.owners)
    task = LmTask(
        texts=texts,
        prompts=rows.prompts,
        splits=splits,
        tokenizer=tokenizer,
        shared=False,
        start=start_of(tokenizer),
        context=context,
        fingerprint=content_id(digest, tokenizer.fingerprint, parts, context),
        notes=(*notes, said),
        warnings=warnings,
        documents=owners if source.groups is None else np.unique(source.groups, return_inverse=True)[1][owners],
        front=StepFront(1, 1, 1, context),
    )
    return replace(task, warnings=(*warnings, *warn_of_cut(task)))


def warn_of_cut(task: LmTask) -> tuple[str, ...]:
    """Rows whose answer does not fit beside its prompt."""
    whole = [
        len(p) + len(t)
        for p, t in zip(*(task.tokenizer.tokens(x, 10_000) for x in (task.prompts, task.texts)), strict=True)
    ]
    over = sum(count + 1 > task.context for count in whole)
    if not over:
        return ()
    return (f"{over} of {len(whole)} rows take more than the context of {task.context} tokens, and are cut at the end",)
