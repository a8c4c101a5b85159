"""Tokenizers: byte-level BPE trained to size, whose vocabularies nest, and those that others made.

A tokenizer is the bytes of a Hugging Face `tokenizer.json`, which Python, Node and browsers read alike. One of ours
splits text as GPT-2's does (Radford et al. 2019) and knows every byte, so that no text is unknown to it. Id 0 is
padding and id 1 a text of nothing; neither ever comes out of a text, whatever it says. No special tokens are added to a
text.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from family.errors import mistake

PAD, NOTHING = 0, 1
SPECIALS = ("<pad>", "<nothing>")
LEAST = len(SPECIALS) + 256  # padding, nothing, and every byte
LONGEST_TOKEN = 24  # bytes of a token at most, so that few characters need to be read of an enormous text
SLACK = 256  # characters read beyond what `length` tokens can hold: a word that is cut is split otherwise
# GPT-2's pattern, spelt out: the built-in one takes other characters for spaces in JavaScript (U+0085, U+FEFF)
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
INSTALL = "pip install 'student-family[text]'"


def import_tokenizers() -> Any:
    """The package `tokenizers`, on one thread unless the environment says otherwise. Raises Mistakes without it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are processes, and a fork after threads warns
    try:
        import tokenizers
    except ImportError as problem:
        raise mistake("task", f"of text needs the package tokenizers; install it with: {INSTALL}") from problem
    return tokenizers


@dataclass(frozen=True)
class Tokenizer:
    """`data`: a tokenizer.json without truncation and padding. Ids are below `size`. `nothing` stands for a text
    without tokens. `longest`: bytes of a token at most."""

    data: bytes
    size: int
    nothing: int = NOTHING
    longest: int = LONGEST_TOKEN

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def opened(self) -> Any:
        return import_tokenizers().Tokenizer.from_buffer(self.data)

    @property
    def special(self) -> dict[str, int]:
        """Tokens that no text gives, by name; of one of ours the one of nothing alone."""
        if self.opened.id_to_token(NOTHING) == SPECIALS[1]:
            return {SPECIALS[1]: NOTHING}
        added = json.loads(self.data)["added_tokens"]
        return {token["content"]: int(token["id"]) for token in added if token["special"]}

    def characters(self, length: int) -> int:
        """How many characters of a text are read where `length` tokens are wanted; the rest is not looked at."""
        return length * self.longest + SLACK

    def tokens(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Ids of each text, at most `length` and at least one. Raises ValueError for text that is no Unicode."""
        most = self.characters(length)
        try:
            found = self.opened.encode_batch_fast([text[:most] for text in texts], add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as problem:
            raise ValueError(f"text must be valid Unicode: {problem}") from problem
        return [one.ids[:length] or [self.nothing] for one in found]

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """(n, length) int64, padded with 0."""
        ids = np.full((len(texts), length), PAD, np.int64)
        for row, found in zip(ids, self.tokens(texts, length), strict=True):
            row[: len(found)] = found
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding and the id of nothing are none."""
        return str(self.opened.decode([i for i in map(int, ids) if i not in (PAD, self.nothing)]))


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE of at most `vocabulary` ids: fewer where the texts repeat too little. The same texts, in any
    order, give the same bytes. Raises ValueError for a vocabulary too small to hold every byte."""
    if vocabulary < LEAST:
        raise ValueError(f"a vocabulary must have at least {LEAST} ids (256 bytes, padding, nothing). Got {vocabulary}")
    package = import_tokenizers()
    split = package.pre_tokenizers.Split(package.Regex(PATTERN), "isolated")
    as_bytes = package.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made = package.Tokenizer(package.models.BPE())
    made.pre_tokenizer = package.pre_tokenizers.Sequence([split, as_bytes])
    made.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    parts = json.loads(made.to_str())
    parts["added_tokens"] = []  # so that a text that says <pad> is read as any other
    return Tokenizer(to_bytes(parts), len(parts["model"]["vocab"]))


def to_bytes(parts: dict[str, Any]) -> bytes:
    parts = parts | {"truncation": None, "padding": None}
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()


def cut(tokenizer: Tokenizer, vocabulary: int) -> Tokenizer:
    """The same tokenizer with its first `vocabulary` ids alone: id i means the same in both.

    Raises ValueError where it does not nest (`list_merges`), or the vocabulary cannot hold every byte.
    """
    if vocabulary >= tokenizer.size:
        return tokenizer
    merges = list_merges(tokenizer)
    if vocabulary < (least := merges.least):
        raise ValueError(f"a vocabulary must have at least {least} ids to hold every byte. Got {vocabulary}")
    parts = json.loads(tokenizer.data)
    model = parts["model"]
    model["vocab"] = {token: i for token, i in model["vocab"].items() if i < vocabulary}
    model["merges"] = model["merges"][: int(np.searchsorted(merges.made, vocabulary))]
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["id"] < vocabulary]
    return replace(tokenizer, data=to_bytes(parts), size=vocabulary)


@dataclass(frozen=True)
class Merges:
    """Of a vocabulary that nests: merge i joins the ids `left[i]` and `right[i]` to `made[i]`, which ascends, all
    int64. `least`: ids that the smallest vocabulary has."""

    left: np.ndarray
    right: np.ndarray
    made: np.ndarray
    least: int


def list_merges(tokenizer: Tokenizer) -> Merges:
    """Raises ValueError where the vocabulary is no byte-level BPE whose ids come in the order of its merges."""
    parts = json.loads(tokenizer.data)
    model = parts["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or not has_byte_level(parts.get("pre_tokenizer")):
        raise ValueError(f"only a byte-level BPE vocabulary can be cut. This one is {model.get('type')}")
    vocab = model["vocab"]
    pairs = [pair if isinstance(pair, list) else pair.split(" ", 1) for pair in model["merges"]]
    table = [(vocab[a], vocab[b], vocab[a + b]) for a, b in pairs]
    left, right, made = np.array(table, np.int64).reshape(-1, 3).T
    least = max((i for token, i in vocab.items() if len(token) == 1), default=0) + 1
    ordered = bool((np.diff(made) > 0).all()) and (not len(made) or int(made[0]) >= least)
    if not ordered or (left >= made).any() or (right >= made).any():
        raise ValueError("a vocabulary can be cut only where its ids come in the order of its merges; these do not")
    return Merges(left, right, made, least)


def has_byte_level(pre: dict[str, Any] | None) -> bool:
    return pre is not None and (pre["type"] == "ByteLevel" or any(map(has_byte_level, pre.get("pretokenizers", []))))


def parts_of(tokenizer: Tokenizer, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """What each id is in the smaller vocabulary: flat ids, and where each id's begin (size + 1,).

    The merges of the smaller one all come first, so a text's tokens there are those of the larger taken apart.
    """
    merges = list_merges(tokenizer)
    told: list[list[int]] = [[i] for i in range(tokenizer.size)]
    for a, b, made in zip(merges.left.tolist(), merges.right.tolist(), merges.made.tolist(), strict=True):
        if made >= vocabulary:
            told[made] = told[a] + told[b]
    begins = np.zeros(tokenizer.size + 1, np.int64)
    begins[1:] = np.cumsum([len(one) for one in told])
    return np.array([i for one in told for i in one], np.int64), begins


def read_tokenizer(path: Path, where: str) -> Tokenizer:
    """A tokenizer.json, or the folder of a transformers model that holds one. Raises Mistakes naming `where`."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise mistake(where, f"must be a tokenizer.json or a folder that holds one. Looked for {file}.")
    try:
        return open_tokenizer(file.read_bytes())
    except (ValueError, KeyError, TypeError, OSError) as problem:
        said = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise mistake(where, f"{file.name} is no tokenizer.json: {said}.") from problem


def open_tokenizer(data: bytes) -> Tokenizer:
    """What others made, as a Tokenizer. Raises ValueError where `data` is no tokenizer.json."""
    parts = json.loads(data)
    if not isinstance(parts, dict) or not isinstance(parts.get("model"), dict):
        raise ValueError("it must be an object with a model")  # noqa: TRY004  a file's contents, not a type
    try:
        opened = import_tokenizers().Tokenizer.from_buffer(data)
    except Exception as problem:
        raise ValueError(str(problem)) from problem
    names: dict[str, int] = opened.get_vocab(with_added_tokens=True)
    own = names.keys() >= set(SPECIALS) and (names[SPECIALS[0]], names[SPECIALS[1]]) == (PAD, NOTHING)
    unknown = opened.token_to_id(parts["model"].get("unk_token") or "")
    longest = max((len(name.encode()) for name in names), default=1)
    return Tokenizer(
        to_bytes(parts),
        max(names.values(), default=0) + 1,
        NOTHING if own else PAD if unknown is None else int(unknown),
        LONGEST_TOKEN if own else longest,
    )


__all__ = [
    "LEAST",
    "NOTHING",
    "PAD",
    "Merges",
    "Tokenizer",
    "cut",
    "list_merges",
    "open_tokenizer",
    "parts_of",
    "read_tokenizer",
    "train_tokenizer",
]
