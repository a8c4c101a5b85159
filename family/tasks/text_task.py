"""Whole texts: one answer to each. A row is a text, the same for every student; its tokens are those of the student's
own vocabulary, the first so many of one tokenizer, and at most as many as the student reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export import Signature, TensorSpec, TextFront, body_signature, raw_signature
from family.doors import hash_code, is_reference
from family.errors import mistake
from family.run_folder import content_id
from family.tasks.augment import check_augment
from family.tasks.checks import check_values, collect, warn_of_duplicates
from family.tasks.labels import check_classes, pick_score, read_labels, warn_of_rare
from family.tasks.named import is_known
from family.tasks.options import DataOptions, Source
from family.tasks.splits import split_rows
from family.tasks.teaching import labels_as_lessons
from family.tasks.user_functions import check_user_score, say_direction
from family.text.lines import as_objects
from family.text.text_source import read_pool, read_texts
from family.text.tokenizer import LEAST, PAD, Tokenizer, cut, train_tokenizer
from family.types import Kind, Split
from reports import Score

VOCABULARIES = (512, 1024, 2048, 4096, 8192)  # where the students' dims say nothing else
SHORTEST, USUAL = 16, 256  # tokens of a text that students read, where their dims say nothing else
COVERED = 99  # percent of the texts that these hold whole
SPLITS: tuple[Split, ...] = ("train", "transfer", "val", "test")


@dataclass(frozen=True, eq=False)
class TextTask:
    """See `family.types.Task`. `texts`: of every row of the data and, after them, of the pool; `truth` alike.

    `tokenizer`, `front`: of the largest vocabulary and length, or of the student that meets the task. `encoded`: ids of
    every text (rows, length) by vocabulary, shared by all that meet it.
    """

    texts: Sequence[str]
    splits: Mapping[Split, np.ndarray]
    truth: np.ndarray
    kind: Kind
    classes: tuple[str, ...] | None
    score: Score
    tokenizer: Tokenizer
    front: TextFront
    fingerprint: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    sources: np.ndarray | None  # (rows,): names of groups
    columns: Mapping[str, Any]  # those read as one, where there are several
    longest: int  # tokens of a text that any student reads
    encoded: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    met: dict[tuple[int, int], TextTask] = field(default_factory=dict, repr=False)
    name: str = "text"
    views: int = 1
    ragged: bool = False

    @cached_property
    def signature(self) -> Signature:
        return Signature(raw_signature(self.front), self.body.outputs)

    @cached_property
    def body(self) -> Signature:
        name = "logits" if self.classes else "values"
        outputs = len(self.classes) if self.classes else self.truth.shape[1]
        if self.kind == "embedding":
            name = "embedding"
        return Signature(
            body_signature(self.front, outputs, name).inputs, (TensorSpec(name, "float32", ("batch", outputs)),)
        )

    @property
    def waits(self) -> bool:
        """For vectors of the teacher, which are its truth."""
        return self.kind == "embedding" and self.truth.shape[1] == 0

    @cached_property
    def target_scale(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Of a regression; an embedding's direction alone counts, which its own values tell."""
        if self.kind != "regression":
            return None
        taught = self.labels("train")
        return taught.mean(0), taught.std(0) + 1e-12

    @property
    def preprocessing(self) -> dict[str, Any]:
        characters = self.tokenizer.characters(self.front.length)
        told = {"tokenizer": "tokenizer.json", "nothing": self.tokenizer.nothing, "characters": characters}
        return told | dict(self.columns)

    def describe(self) -> dict[str, Any]:
        found: dict[str, Any] = {"task": self.name, "kind": self.kind}
        found["rows"] = {split: len(rows) for split, rows in self.splits.items()}
        if self.classes:
            taught = self.labels("train")
            counts = taught.sum(0) if taught.ndim == 2 else np.bincount(taught, minlength=len(self.classes))
            found["train_labels"] = {name: int(n) for name, n in zip(self.classes, counts, strict=True)}
        told = {"vocabulary": self.front.vocabulary, "length": self.front.length}
        return found | told | {"augment": "none", "views": 1}

    def seen_by(self, params: Mapping[str, Any]) -> TextTask:
        vocabulary = min(int(params.get("vocabulary", self.front.vocabulary)), self.front.vocabulary)
        length = min(int(params.get("length", self.front.length)), self.front.length)
        if (vocabulary, length) not in self.met:
            self.met[vocabulary, length] = replace(
                self,
                tokenizer=cut(self.tokenizer, vocabulary),
                front=replace(self.front, vocabulary=vocabulary, length=length),
                fingerprint=content_id(self.fingerprint, vocabulary, length),
                met={},
            )
        return self.met[vocabulary, length]

    @property
    def ids(self) -> np.ndarray:
        """(rows, length) of every text, padded; as long as the longest text that is read."""
        size = self.front.vocabulary
        if size not in self.encoded:
            ids = self.tokenizer.encode(self.texts, self.longest)
            width = int((ids != PAD).any(0).sum())
            self.encoded[size] = ids[:, :width].astype(np.uint16 if size <= 2**16 else np.uint32)
        return self.encoded[size][:, : self.front.length]

    def rows(self, split: Split) -> int:
        return len(self.splits[split])

    def row_ids(self, split: Split) -> np.ndarray:
        return self.splits[split]

    def labels(self, split: Split) -> np.ndarray:
        return np.asarray(self.truth[self.splits[split]])

    def lessons(self, split: Split) -> Tensor:
        return labels_as_lessons(self, split)

    def groups(self, split: Split) -> np.ndarray | None:
        return None if self.sources is None else self.sources[self.splits[split]]

    def keep(self, split: Split, rows: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        return outputs

    def sentences(self, split: Split, rows: np.ndarray) -> list[str]:
        """The texts themselves."""
        return [self.texts[i] for i in self.splits[split][rows]]

    def originals(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Rows as no student reads them yet."""
        return {"text": np.array(self.sentences(split, rows), np.str_)}

    def inputs(self, split: Split, rows: np.ndarray, view: np.ndarray | int) -> tuple[Tensor, ...]:
        return (torch.from_numpy(self.ids[self.splits[split][rows]].astype(np.int64)),)

    def raw(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        """As long as the longest of these rows."""
        ids = self.ids[self.splits[split][rows]].astype(np.int64)
        return {"input_ids": ids[:, : max(1, int((ids != PAD).any(0).sum()))]}

    def teacher_inputs(
        self, split: Split, rows: np.ndarray, view: int, preprocess: Mapping[str, Any] | None
    ) -> tuple[np.ndarray, ...]:
        """The texts (rows,) as strings (object)."""
        if preprocess:
            raise mistake("teacher.preprocess", "is for images; this teacher takes texts as they are. Leave it out.")
        return (as_objects(self.sentences(split, rows)),)

    def with_vectors(self, vectors: np.ndarray) -> TextTask:
        """The task whose truth are the teacher's vectors (rows, k) of all texts."""
        key = hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()
        return replace(self, truth=vectors, fingerprint=content_id(self.fingerprint, key), met={})


def open_text(options: DataOptions, cache: Path) -> TextTask:
    """Texts with their labels. Without labels and with `score: cosine` the task waits for the teacher's vectors
    (`with_vectors`). Raises Mistakes with what is wrong."""
    source = read_texts(options, cache)
    by_vectors = options.score == "cosine" and not source.known.any() and options.label is None
    if by_vectors:
        source = replace(source, known=has_split(source, options))
    elif not source.known.any():
        said = "is not there, so that nothing can be learnt or scored. Name the column in data.label"
        raise mistake("data.label", f"{said}, or, for a sentence encoder's vectors, set score: cosine.")
    kind, classes, truth, notes = as_truth(source, options, by_vectors)
    collect(
        lambda: check_values(source),
        lambda: pick_score(options, kind),
        lambda: check_augment(options.augment, source.kind, options.folder),
    )
    score = pick_score(options, kind)
    codes = truth if kind == "classification" else np.zeros(len(truth), np.int64)
    splits, told, doubts = split_rows(source, options, codes, kind == "classification")
    texts = list(source.columns["text"])
    splits, left_out = leave_out_empty(splits, texts)
    check_classes(kind, classes, truth, splits)
    if is_reference(options.score):
        check_user_score(score, str(options.score), kind, truth[splits["val"]])
        notes.append(say_direction(score, str(options.score), options.folder))
    texts, truth, splits = add_pool(texts, truth, splits, source, options, cache)
    learnt = [texts[i] for split in ("train", "transfer") for i in splits[split]]
    tokenizer, size = make_tokenizer(learnt, options)
    longest, short = pick_length(learnt, tokenizer, options)
    keys = np.array([hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts])
    parts = {name: rows.tolist() for name, rows in splits.items()}
    scored = [hash_code(str(options.score), options.folder)] if is_reference(options.score) else []
    digest = hashlib.sha256(truth.tobytes()).hexdigest()
    sources = source.groups
    if sources is not None:
        sources = np.concatenate([sources, np.full(len(texts) - len(sources), "transfer")])
    return TextTask(
        texts=texts,
        splits={name: splits[name] for name in SPLITS},
        truth=truth,
        kind=kind,
        classes=classes,
        score=score,
        tokenizer=tokenizer,
        front=TextFront(longest, tokenizer.size, PAD),
        fingerprint=content_id("".join(keys), digest, parts, tokenizer.fingerprint, longest, *scored),
        notes=(*source.notes, *notes, *told, size, *short),
        warnings=(
            *source.warnings,
            *doubts,
            *left_out,
            *warn_of_rare(classes, kind, truth, splits),
            *warn_of_duplicates(keys, splits),
        ),
        sources=sources,
        columns=source.preprocessing,
        longest=longest,
    )


def has_split(source: Source, options: DataOptions) -> np.ndarray:
    """All rows but those of a ready-made transfer split: they have no label, and the teacher gives one."""
    if source.split is None:
        return np.ones(source.rows, bool)
    return is_known(source.split, options)


def as_truth(
    source: Source, options: DataOptions, by_vectors: bool
) -> tuple[Kind, tuple[str, ...] | None, np.ndarray, list[str]]:
    """Kind, classes, truth and notes; of vectors that are not there yet (rows, 0)."""
    if by_vectors:
        return "embedding", None, np.zeros((source.rows, 0), np.float32), ["labels: the teacher's own vectors"]
    if options.score == "cosine":
        if source.labels.ndim != 2:
            raise mistake("score", "cosine is for vectors; the labels are single values. Take another, or no label.")
        known = source.known[:, None]
        return "embedding", None, np.where(known, source.labels, np.nan).astype(np.float32), ["labels: vectors"]
    return read_labels(source, options)


def leave_out_empty(
    splits: Mapping[str, np.ndarray], texts: Sequence[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Splits without rows of empty text; positions stay those of the data. Raises Mistakes where nothing is left."""
    there = np.array([bool(text) for text in texts])
    kept = {name: rows[there[rows]] for name, rows in splits.items()}
    gone = [name for name in ("train", "val", "test") if not len(kept[name])]
    if gone:
        raise mistake("data.text", f"is empty in every row of '{gone[0]}'.")
    count = sum(len(rows) for rows in splits.values()) - sum(len(rows) for rows in kept.values())
    return kept, (f"{count} rows of empty text are left out",) if count else ()


def add_pool(
    texts: list[str],
    truth: np.ndarray,
    splits: dict[str, np.ndarray],
    source: Source,
    options: DataOptions,
    cache: Path,
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Append the unlabelled texts of `data.transfer`, as transfer rows."""
    if options.transfer is None:
        return texts, truth, splits
    named = source.preprocessing.get("columns") or options.text or ("text",)
    pool = read_pool(options, named, cache)
    rows = np.arange(len(texts), len(texts) + len(pool))
    blank = np.zeros((len(pool), *truth.shape[1:]), truth.dtype)
    joined = splits | {"transfer": np.concatenate([splits["transfer"], rows])}
    return [*texts, *pool], np.concatenate([truth, blank]), joined


def make_tokenizer(texts: Sequence[str], options: DataOptions) -> tuple[Tokenizer, str]:
    """Trained on train and transfer to the largest vocabulary that students may have."""
    wanted = max(options.vocabularies or VOCABULARIES)
    if min(options.vocabularies or VOCABULARIES) < LEAST:
        said = f"must be at least {LEAST}, for every byte and two more. Got {min(options.vocabularies)}."
        raise mistake("students.dims.vocabulary", said)
    tokenizer = train_tokenizer(texts, wanted)
    told = f"tokenizer: byte-level BPE trained on train and transfer, {tokenizer.size} tokens"
    return tokenizer, told + (f", for the texts give no {wanted}" if tokenizer.size < wanted else "")


def pick_length(texts: Sequence[str], tokenizer: Tokenizer, options: DataOptions) -> tuple[int, tuple[str, ...]]:
    """How many tokens of a text are read at most, and how many texts that cuts. By default as many as `COVERED` percent
    of the texts have in the smallest vocabulary, in steps of 8."""
    smallest = cut(tokenizer, min(options.vocabularies or VOCABULARIES))
    counts = np.array([len(one) for one in smallest.tokens(texts, max(options.lengths or (USUAL,)) + 1)])
    if options.lengths:
        length = max(options.lengths)
    else:
        length = int(np.clip(-(-np.percentile(counts, COVERED) // 8) * 8, SHORTEST, USUAL))
    over = int((counts > length).sum())
    said = f"{over} of {len(counts)} texts have more than {length} tokens of {smallest.size}; the rest is not read"
    return length, (said,) if over else ()
