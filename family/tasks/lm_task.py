"""Next tokens of text: documents cut into pieces, and what a student of any vocabulary sees of them.

A row is a piece of text, or an answer after its prompt, the same for every student; its tokens are those of the
student's own tokenizer. Scores are in bits per byte of text, which students of any vocabulary share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export import Signature, StepFront, body_signature, past_names, raw_signature
from family.errors import mistake
from family.run_folder import content_id
from family.tasks.options import DataOptions
from family.tasks.splits import split_rows
from family.text.decoder import shape_of
from family.text.documents import read_documents
from family.text.tokenizer import LEAST, Tokenizer, cut, open_tokenizer, train_tokenizer
from family.types import Kind, Split
from reports import SCORES, Score

CONTEXT = 128
VOCABULARY = 2048  # of a tokenizer trained here, where the students' dims say nothing else
SPLITS: tuple[Split, ...] = ("train", "transfer", "val", "test")
NOTHING_TO_LEARN = -1
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "<|begin_of_text|>")  # of others' tokenizers
FEWEST_DOCUMENTS = 3
BITS = float(np.log2(np.e))  # in a nat


@dataclass(frozen=True, eq=False)
class LmTask:
    """See `family.types.Task`. `prompts` and `texts` of every row: only tokens of the text are learnt and scored.

    `tokenizer`: the teacher's where it is `shared`, else of the largest vocabulary; `shape`: of the student that meets
    the task, None before any does. `start`: the token before every row; it also ends an answer.
    """

    texts: Sequence[str]
    prompts: Sequence[str]
    splits: Mapping[Split, np.ndarray]
    tokenizer: Tokenizer
    shared: bool
    start: int
    context: int
    fingerprint: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    documents: np.ndarray  # (rows,): of which document each row is
    front: StepFront
    name: str = "lm"
    kind: Kind = "tokens"
    classes: None = None
    views: int = 1
    target_scale: None = None
    ragged: bool = False
    score: Score = SCORES["bits_per_byte"]

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.size

    @cached_property
    def signature(self) -> Signature:
        return Signature(raw_signature(self.front), self.body.outputs)

    @cached_property
    def body(self) -> Signature:
        return body_signature(self.front, self.vocabulary, "logits")

    @property
    def preprocessing(self) -> dict[str, Any]:
        ends = {"start": self.start, "end": self.start}
        return {"tokenizer": "tokenizer.json", "vocabulary": self.vocabulary, **ends}

    def describe(self) -> dict[str, Any]:
        splits: tuple[Split, ...] = ("train", "val", "test")
        bytes_ = {split: int(self.labels(split)[:, 0].sum()) for split in splits}
        told = {"task": self.name, "kind": self.kind, "rows": {s: len(r) for s, r in self.splits.items()}}
        return told | {"bytes": bytes_, "vocabulary": self.vocabulary, "augment": "none", "views": 1}

    def rows(self, split: Split) -> int:
        return len(self.splits[split])

    def row_ids(self, split: Split) -> np.ndarray:
        return self.splits[split]

    def groups(self, split: Split) -> np.ndarray | None:
        """Pieces of one document stand together."""
        return np.asarray(self.documents[self.splits[split]])

    def seen_by(self, params: Mapping[str, Any]) -> LmTask:
        shape = shape_of(params)
        front = StepFront(shape.depth, shape.heads, shape.head, shape.context)
        tokenizer = self.tokenizer if shape.vocabulary >= self.vocabulary else cut(self.tokenizer, shape.vocabulary)
        changed = content_id(self.fingerprint, tokenizer.fingerprint)
        fingerprint = self.fingerprint if tokenizer is self.tokenizer else changed
        made = replace(self, tokenizer=tokenizer, front=front, fingerprint=fingerprint)
        if tokenizer is self.tokenizer:
            made.__dict__["tokens"] = self.tokens  # the same, so not made anew
        return made

    @cached_property
    def tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids (rows, length) with the start before them, padded with it, and what to learn (rows, length): the next
        ones, -1 after the end and within prompts. `length`: of the longest row, in steps of 8."""
        prompts = self.tokenizer.tokens(self.prompts, self.context) if any(self.prompts) else [[]] * len(self.texts)
        told = self.tokenizer.tokens(self.texts, self.context + 1)
        ends = [self.start] if any(self.prompts) else []
        rows = [(p, t + ends) for p, t in zip(prompts, told, strict=True)]
        longest = max(len(p) + len(t) for p, t in rows)
        length = min(self.context, -(-longest // 8) * 8)
        ids = np.full((len(rows), length), self.start, np.int64)
        wanted = np.full((len(rows), length), NOTHING_TO_LEARN, np.int64)
        for i, (prompt, text) in enumerate(rows):
            whole = (prompt + text)[:length]
            ids[i, 1 : len(whole)] = whole[:-1]
            wanted[i, len(prompt) : len(whole)] = whole[len(prompt) :]
        return ids, wanted

    def inputs(self, split: Split, rows: np.ndarray, view: np.ndarray | int) -> tuple[Tensor, ...]:
        return (torch.from_numpy(self.tokens[0][self.splits[split][rows]]),)

    def lessons(self, split: Split) -> Tensor:
        return torch.from_numpy(self.tokens[1][self.splits[split]])

    def labels(self, split: Split) -> np.ndarray:
        """(rows, 2) float32: bytes of the text, and its tokens here."""
        rows = self.splits[split]
        sizes = [len(self.texts[i].encode()) for i in rows]
        counts = (self.tokens[1][rows] != NOTHING_TO_LEARN).sum(1)
        return np.stack([np.array(sizes, np.float32), counts.astype(np.float32)], 1)

    def keep(self, split: Split, rows: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """(rows, 3) float32: bits of the text, how many next tokens were the likeliest, and the sum of what those were
        given. outputs: (rows, length, vocabulary)."""
        wanted = torch.from_numpy(self.tokens[1][self.splits[split][rows]])[:, : outputs.shape[1]]
        logp = torch.from_numpy(outputs).log_softmax(2)
        known = wanted != NOTHING_TO_LEARN
        told = logp.gather(2, wanted.clamp_min(0)[:, :, None]).squeeze(2)
        most, guess = logp.max(2)
        sums = [-told * BITS, (guess == wanted).float(), most.exp()]
        return torch.stack([(one * known).sum(1, dtype=torch.float64) for one in sums], 1).numpy().astype(np.float32)

    def raw(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        ids = self.tokens[0][self.splits[split][rows]]
        places = np.ascontiguousarray(np.broadcast_to(np.arange(ids.shape[1]), ids.shape))
        nothing = np.zeros((len(rows), self.front.heads, 0, self.front.head), np.float32)
        return {"input_ids": ids, "position_ids": places} | dict.fromkeys(past_names(self.front.layers), nothing)

    def teacher_inputs(
        self, split: Split, rows: np.ndarray, view: int, preprocess: Mapping[str, Any] | None
    ) -> tuple[np.ndarray, ...]:
        if preprocess:
            raise mistake(
                "teacher.preprocess", "is for images; a language model takes tokens as they are. Leave it out."
            )
        return tuple(one.numpy() for one in self.inputs(split, rows, view))


def open_lm(options: DataOptions, cache: Path) -> LmTask:
    """Documents cut into pieces that the smallest context holds. Raises Mistakes with what is wrong."""
    if options.label is not None:
        raise mistake("data.label", "is not for task: lm, whose labels are the next tokens. Leave it out.")
    if options.score not in (None, "bits_per_byte"):
        raise mistake("score", f"must be bits_per_byte for task: lm. Got '{options.score}'.")
    source = read_documents(options, cache)
    splits, notes, doubts = split_rows(source, options, np.zeros(source.rows, np.int64), stratify=False)
    documents = source.columns["text"]
    tokenizer, said = pick_tokenizer(options, [documents[i] for i in splits["train"]])
    start = start_of(tokenizer)
    context = options.context or CONTEXT
    smallest = min(options.vocabularies or (tokenizer.size,))
    coarse = tokenizer if options.tokenizer is not None else cut(tokenizer, smallest)
    pieces = [cut_document(text, coarse, context) for text in documents]
    owners = np.repeat(np.arange(source.rows), [len(own) for own in pieces])
    texts = [piece for own in pieces for piece in own]
    rows: dict[Split, np.ndarray] = {name: np.flatnonzero(np.isin(owners, splits[name])) for name in SPLITS}
    parts = {name: ids.tolist() for name, ids in rows.items()}
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    groups = owners if source.groups is None else np.unique(source.groups, return_inverse=True)[1][owners]
    return LmTask(
        texts=texts,
        prompts=[""] * len(texts),
        splits=rows,
        tokenizer=tokenizer,
        shared=options.tokenizer is not None,
        start=start,
        context=context,
        fingerprint=content_id(digest, tokenizer.fingerprint, parts, context),
        notes=(*source.notes, *notes, said, f"{len(texts)} pieces of at most {context} tokens"),
        warnings=(*source.warnings, *doubts, *doubt_start(tokenizer, start), *doubt_intervals(rows, groups)),
        documents=groups,
        front=StepFront(1, 1, 1, context),
    )


def doubt_intervals(rows: Mapping[Split, np.ndarray], groups: np.ndarray) -> tuple[str, ...]:
    """Splits of so few documents, or groups of them, that intervals say little, or nothing of one alone."""
    counts = {name: len(np.unique(groups[rows[name]])) for name in ("val", "test")}
    few = [f"{name} has {count}" for name, count in counts.items() if count < FEWEST_DOCUMENTS]
    said = f"intervals need at least {FEWEST_DOCUMENTS} documents, or groups of them, and are unknown for one"
    return (f"{said}: {' and '.join(few)}",) if few else ()


def pick_tokenizer(options: DataOptions, train: Sequence[str]) -> tuple[Tokenizer, str]:
    """The teacher's, or one trained on train to the largest vocabulary that students may have. Raises Mistakes for one
    that cannot hold every byte."""
    if options.tokenizer is not None:
        tokenizer = open_tokenizer(options.tokenizer)
        return tokenizer, f"tokenizer: the teacher's, {tokenizer.size} tokens"
    asked = options.vocabularies or (VOCABULARY,)
    if min(asked) < LEAST:
        said = f"must be at least {LEAST} (256 bytes, padding, nothing). Got {min(asked)}."
        raise mistake("students.dims.vocabulary", said)
    tokenizer = train_tokenizer(train, max(asked))
    return tokenizer, f"tokenizer: byte-level BPE trained on train, {tokenizer.size} tokens"


def start_of(tokenizer: Tokenizer) -> int:
    """The token that stands before every row: one of `ENDS`, else the first special one."""
    for name in ENDS:
        found = tokenizer.opened.token_to_id(name)
        if found is not None:
            return int(found)
    return next(iter(tokenizer.special.values()), tokenizer.nothing)


def doubt_start(tokenizer: Tokenizer, start: int) -> tuple[str, ...]:
    """A start that texts hold too, which a student then takes for an end."""
    name = tokenizer.opened.id_to_token(start)
    if name in ENDS or start in tokenizer.special.values():
        return ()
    said = f"the tokenizer has no special token: texts begin and end with token {start}, {name!r}"
    return (f"{said}, and what is written ends where it comes",)


def cut_document(text: str, tokenizer: Tokenizer, context: int) -> list[str]:
    """Pieces of at most `context` tokens each, cut where a token begins; together they are the text."""
    pieces, start = [], 0
    while start < len(text):
        found = tokenizer.opened.encode(text[start : start + tokenizer.characters(context)], add_special_tokens=False)
        offsets = found.offsets
        stop = len(text) if len(offsets) <= context else start + offsets[context][0]
        stop = max(stop, start + 1)
        while stop > start + 1 and len(tokenizer.tokens([text[start:stop]], context + 1)[0]) > context:
            stop -= 1  # alone, a piece may take a token more than within its document
        pieces.append(text[start:stop])
        start = stop
    return [piece for piece in pieces if piece.strip()]


__all__ = ["LmTask", "open_lm"]
