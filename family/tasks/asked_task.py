"""A language task that a teacher's text writes: prompts of the data's rows, its answers to learn, and the truth.

The teacher writes the lessons once; ordinary cross-entropy follows. Transfer holds its answers (after their prompts),
train what labels alone teach: the labels as text after the same prompts, or where there are none the data's own text.
Val and test hold the labels, or where there are none the teacher's answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export import StepFront
from family.errors import mistake
from family.progress import Watch
from family.run_folder import content_id
from family.tasks.lm_task import CONTEXT, SPLITS, LmTask, cut_document, pick_tokenizer, start_of
from family.tasks.options import DataOptions, Source
from family.tasks.splits import split_rows
from family.text.answers import Answers, collect_answers, keep_answers
from family.text.documents import read_documents
from family.text.endpoint import EndpointOptions
from family.text.filters import open_validity
from family.text.prompts import fill_template, read_prompts
from family.text.tokenizer import Tokenizer, cut
from family.types import Split

FEW = 8  # prompts that a dry run asks


@dataclass(frozen=True)
class Asks:
    """`template`: the prompt, with columns of the data in braces. `more`: a file of further prompts, or None."""

    template: str
    more: str | None
    endpoint: EndpointOptions


@dataclass(frozen=True)
class Questions:
    """What is to be asked, before anything is. `prompts[i]` and `labels[i]` (as text, None where there is none) of row
    i, which is the data's while there are such, and then of a further prompt; `splits`: rows of each."""

    options: DataOptions
    asks: Asks
    source: Source
    splits: Mapping[Split, np.ndarray]
    prompts: Sequence[str]
    labels: Sequence[str | None]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def order(self) -> np.ndarray:
        """Rows as they are asked."""
        return np.concatenate([self.splits[split] for split in SPLITS])


@dataclass
class Rows:
    """Rows of the task as they are put together."""

    prompts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # rows of the questions
    split: list[Split] = field(default_factory=list)

    def add(self, split: Split, owner: int, prompt: str, text: str) -> None:
        self.prompts.append(prompt)
        self.texts.append(text)
        self.owners.append(int(owner))
        self.split.append(split)


@dataclass(frozen=True)
class Asked:
    """The task, and the teacher's answers. `said[i]`: what was kept first for row i of the questions."""

    task: LmTask
    answers: Answers
    said: Mapping[int, str]
    questions: Questions


def read_questions(options: DataOptions, asks: Asks, cache: Path) -> Questions:
    """The data, its splits and all prompts. Raises Mistakes with what is wrong."""
    source = read_documents(options, cache)
    splits, notes, doubts = split_rows(source, options, np.zeros(source.rows, np.int64), stratify=False)
    prompts = fill_template(asks.template, {name: list(values) for name, values in source.columns.items()})
    labels = read_labels(source, asks) if options.label else [None] * source.rows
    more = read_prompts(asks.more, asks.endpoint.folder) if asks.more is not None else ()
    further = np.arange(source.rows, source.rows + len(more))
    rows: dict[Split, np.ndarray] = {split: splits[split] for split in SPLITS}
    rows["transfer"] = np.concatenate([rows["transfer"], further])
    notes += [f"{len(more)} further prompts"] if more else []
    return Questions(
        options,
        asks,
        source,
        rows,
        (*prompts, *more),
        (*labels, *[None] * len(more)),
        (*source.notes, *notes),
        (*source.warnings, *doubts),
    )


def read_labels(source: Source, asks: Asks) -> list[str | None]:
    """As the teacher would say them: where `valid` lists the answers allowed, a label among them is that answer."""
    valid = asks.endpoint.filters.valid
    take = str if valid is None or isinstance(valid, str) else open_validity(valid)
    known = zip(map(str, source.labels), source.known, strict=True)
    return [(take(label) or label) if here else None for label, here in known]


def rehearse(questions: Questions) -> LmTask:
    """The task as it would be were every answer the label, or the prompt again: for what can be told before the
    teacher is asked. Raises Mistakes where a split is empty even so."""
    task = put_together(questions, stand_ins(questions))
    empty = [split for split in SPLITS if not task.rows(split)]
    if empty:
        doubts = task.warnings[len(questions.warnings) :]
        where, why = ("students.dims.context", f": {'; '.join(doubts)}") if doubts else ("data.label", "")
        raise mistake(where, f"leaves no row in {' and '.join(empty)}{why}.")
    return task


def stand_ins(questions: Questions) -> dict[int, list[str]]:
    return {i: [questions.labels[i] or questions.prompts[i]] for i in questions.order.tolist()}


def ask_all(
    questions: Questions,
    folder: Path,
    show: Callable[[str], None],
    watch: Watch,
    built_of: Path | None = None,
) -> Asked:
    """Ask the teacher about every row, and put the task together. `folder`: of the answers. `built_of`: where it is
    written of which answers; a later call with it asks nothing, and gives the same task.

    Raises Mistakes with what is wrong, RunFailed where the endpoint is away.
    """
    answers, given = ask(questions, questions.order, folder, show, watch, built_of=built_of)
    task = put_together(questions, given)
    empty = [split for split in SPLITS if not task.rows(split)]
    if empty:
        said = f"of {len(questions.order)} prompts {len(given)} have an answer that was kept"
        raise mistake("teacher", f"leaves no row in {' and '.join(empty)}: {'; '.join([said, *task.warnings])}.")
    if built_of is not None:
        keep_answers(built_of, answers)
    return Asked(task, answers, {row: texts[0] for row, texts in given.items()}, questions)


def ask_few(questions: Questions, folder: Path, show: Callable[[str], None], watch: Watch) -> Asked:
    """As `ask_all`, with a few requests about val at most; what else the teacher would say is as in `rehearse`."""
    val = questions.splits["val"]
    val_first = np.concatenate([val, questions.order[~np.isin(questions.order, val)]])
    answers, given = ask(questions, val_first, folder, show, watch, FEW)
    task = put_together(questions, stand_ins(questions) | given)
    return Asked(task, answers, {row: texts[0] for row, texts in given.items()}, questions)


def ask(
    questions: Questions,
    rows: np.ndarray,
    folder: Path,
    show: Callable[[str], None],
    watch: Watch,
    most: int | None = None,
    built_of: Path | None = None,
) -> tuple[Answers, dict[int, list[str]]]:
    """The answers to the prompts of `rows`, and those that were kept of each. A teacher's answers lie apart from
    another's."""
    endpoint = questions.asks.endpoint
    place = folder / content_id(endpoint.url.rstrip("/"), endpoint.model)
    answers = collect_answers(endpoint, [questions.prompts[i] for i in rows], place, show, watch, most, built_of)
    given: dict[int, list[str]] = {}
    for one in answers.kept:
        given.setdefault(int(rows[one.prompt]), []).append(one.value)
    return answers, given


def put_together(questions: Questions, given: Mapping[int, list[str]]) -> LmTask:
    """given: row → what is said there."""
    rows, prompts, labels = Rows(), questions.prompts, questions.labels
    bare = not any(label is not None for label in labels)
    for i in questions.splits["train"]:
        label = labels[i]
        if label is not None:
            rows.add("train", i, prompts[i], label)
        elif bare:
            rows.add("train", i, "", questions.source.columns["text"][i])
    for i in (*questions.splits["train"], *questions.splits["transfer"]):
        for text in given.get(int(i), ()):
            rows.add("transfer", i, prompts[i], text)
    own: tuple[Split, ...] = ("val", "test")
    for split in own:
        for i in questions.splits[split]:
            truth = labels[i] if labels[i] is not None else next(iter(given.get(int(i), ())), None)
            if truth is not None:
                rows.add(split, i, prompts[i], truth)
    return make_task(questions, rows)


def make_task(questions: Questions, rows: Rows) -> LmTask:
    options = questions.options
    learnt = [p + t for p, t, split in zip(rows.prompts, rows.texts, rows.split, strict=True) if split in SPLITS[:2]]
    tokenizer, said = pick_tokenizer(options, learnt)
    context = options.context or CONTEXT
    rows, doubts = fit_context(rows, cut(tokenizer, min(options.vocabularies or (tokenizer.size,))), context)
    digest = hashlib.sha256("\0".join([*rows.prompts, *rows.texts]).encode()).hexdigest()
    split = np.array(rows.split)
    splits = {name: np.flatnonzero(split == name) for name in SPLITS}
    parts = {name: own.tolist() for name, own in splits.items()}
    return LmTask(
        texts=rows.texts,
        prompts=rows.prompts,
        splits=splits,
        tokenizer=tokenizer,
        shared=False,
        start=start_of(tokenizer),
        context=context,
        fingerprint=content_id(digest, tokenizer.fingerprint, parts, context),
        notes=(*questions.notes, said),
        warnings=(*questions.warnings, *doubts),
        documents=groups_of(questions)[rows.owners],
        front=StepFront(1, 1, 1, context),
    )


def fit_context(rows: Rows, tokenizer: Tokenizer, context: int) -> tuple[Rows, tuple[str, ...]]:
    """Text without a prompt is cut into pieces; a prompt with its answer that the context does not hold is left out,
    and it is said. `tokenizer`: of the smallest vocabulary."""
    told = [tokenizer.tokens(texts, context + 1) for texts in (rows.prompts, rows.texts)]
    fitting, over = Rows(), 0
    for i, (prompt, text) in enumerate(zip(*told, strict=True)):
        given = rows.split[i], rows.owners[i], rows.prompts[i]
        if not rows.prompts[i]:
            for piece in cut_document(rows.texts[i], tokenizer, context - 2):
                fitting.add(*given, piece)
        elif len(prompt) + len(text) + 1 > context:
            over += 1
        else:
            fitting.add(*given, rows.texts[i])
    if not over:
        return fitting, ()
    said = f"{over} of {len(told[0])} prompts with their answers take more than the context of {context} tokens"
    return fitting, (f"{said}, and are left out",)


def groups_of(questions: Questions) -> np.ndarray:
    """(rows of the questions,): equal where rows stand together; further prompts stand alone."""
    source, count = questions.source, len(questions.prompts)
    if source.groups is None:
        return np.arange(count)
    groups = np.unique(source.groups, return_inverse=True)[1]
    return np.concatenate([groups, np.arange(source.rows, count)])
