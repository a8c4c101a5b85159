"""Ids by the tokenizer that ships with a student, and whether its golden strings give its golden ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

KIND, STEP = "text", "step"  # of `preprocessing` in a manifest
READS_TEXT = (KIND, STEP)
INSTALL = "pip install tokenizers"


def open_tokenizer(data: bytes) -> Any:
    """The bytes of a tokenizer.json, without truncation and padding whatever it says. Raises ValueError where they are
    none, ImportError without the package tokenizers."""
    from tokenizers import Tokenizer

    try:
        opened = Tokenizer.from_buffer(data)
    except Exception as error:  # the package raises no narrower one
        raise ValueError(f"its tokenizer is no tokenizer.json: {' '.join(str(error).split())}") from error
    opened.no_padding()
    opened.no_truncation()
    return opened


def to_ids(tokenizer: Any, texts: Sequence[str], front: Mapping[str, Any]) -> np.ndarray:
    """(texts, longest) int64: at most `length` ids of the first `characters` of each, padded with `pad`; `nothing` for
    a text without tokens."""
    read = [text[: front["characters"]] for text in texts]
    rows = [one.ids for one in tokenizer.encode_batch(read, add_special_tokens=False)]
    rows = [row[: front["length"]] or [front["nothing"]] for row in rows]
    ids = np.full((len(rows), max(map(len, rows))), front["pad"], np.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    return ids


def is_untried(preprocessing: Mapping[str, Any] | None) -> bool:
    """Whether there is a tokenizer that cannot be opened here."""
    return (preprocessing or {}).get("kind") in READS_TEXT and find_spec("tokenizers") is None


def check_tokenizer(folder: Path, manifest: Mapping[str, Any], golden: Mapping[str, Any], ids: Any) -> list[str]:
    """What is wrong with the tokenizer of a folder whose files are those that shipped: of a student of texts the golden
    `ids`, of one that writes those of its golden prompts. Without the package `tokenizers` it is not tried. Raises
    KeyError, TypeError and ValueError where golden.json does not fit."""
    front = manifest["preprocessing"] or {}
    if front.get("kind") not in READS_TEXT:
        return []
    if front["tokenizer"] not in manifest["files"]:
        return [f"manifest.json: preprocessing: tokenizer must be one of its files. Got {front['tokenizer']!r}"]
    wanted = _read_texts(golden, ids, front) if front["kind"] == KIND else _read_prompts(golden)
    if is_untried(front):
        return []
    tokenizer = open_tokenizer((folder / front["tokenizer"]).read_bytes())
    kind = "text" if front["kind"] == KIND else "prompt"
    return [
        f"the tokenizer gives other ids than are golden for {kind} {i + 1}"
        for i, (text, own) in enumerate(wanted)
        if _ids_of(tokenizer, text, front) != own
    ]


def _read_texts(golden: Mapping[str, Any], ids: Any, front: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    texts = golden.get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError("texts must be a list of strings")
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or len(ids) != len(texts):
        raise ValueError(f"there must be a row of ids for each of {len(texts)} texts")
    return [(text, trim(row, front["pad"])) for text, row in zip(texts, ids, strict=True)]


def _read_prompts(golden: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    return [(str(entry["prompt"]), list(entry["ids"])) for entry in golden["prompts"]]


def _ids_of(tokenizer: Any, text: str, front: Mapping[str, Any]) -> list[int]:
    if front["kind"] == KIND:
        return trim(to_ids(tokenizer, [text], front)[0], front["pad"])
    return prompt_ids(tokenizer, text, front)


def prompt_ids(tokenizer: Any, prompt: str, front: Mapping[str, Any]) -> list[int]:
    """The start, then the prompt's own."""
    return [front["start"], *tokenizer.encode(prompt, add_special_tokens=False).ids]


def trim(row: np.ndarray, pad: int) -> list[int]:
    """Ids without padding at the end."""
    used = np.flatnonzero(row != pad)
    return [int(i) for i in row[: used[-1] + 1]] if len(used) else []
