"""A student's ids by the tokenizer that ships with it, and whether its golden strings give its golden ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

KIND, STEP = "text", "step"  # of `preprocessing` in a manifest
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
    """(texts, longest) int64: at most `length` ids each, padded with `pad`; `nothing` for a text without tokens."""
    rows = [one.ids for one in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    rows = [row[: front["length"]] or [front["nothing"]] for row in rows]
    ids = np.full((len(rows), max(map(len, rows))), front["pad"], np.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    return ids


def is_untried(preprocessing: Mapping[str, Any] | None) -> bool:
    """Whether there is a tokenizer that cannot be opened here."""
    return (preprocessing or {}).get("kind") in (KIND, STEP) and find_spec("tokenizers") is None


def check_texts(folder: Path, manifest: Mapping[str, Any], texts: Any, ids: Any) -> list[str]:
    """What is wrong with the tokenizer of a folder whose files are those that shipped; `texts` and `ids` as its golden
    files have them. Without the package `tokenizers` it is not tried."""
    front = manifest["preprocessing"] or {}
    if front.get("kind") != KIND:
        return []
    if front["tokenizer"] not in manifest["files"]:
        return [f"manifest.json: preprocessing: tokenizer must be one of its files. Got {front['tokenizer']!r}"]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        return ["golden.json must hold the texts of its examples, as strings"]
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or len(ids) != len(texts):
        return [f"golden.npz must hold a row of ids for each of the {len(texts)} texts in golden.json"]
    if is_untried(front):
        return []
    try:
        found = to_ids(open_tokenizer((folder / front["tokenizer"]).read_bytes()), texts, front)
    except (ValueError, UnicodeEncodeError, TypeError) as error:
        return [str(error)]
    return [
        f"the tokenizer gives other ids than golden.npz holds for golden text {i + 1}"
        for i, (row, wanted) in enumerate(zip(found, ids, strict=True))
        if trim(row, front["pad"]) != trim(wanted, front["pad"])
    ]


def prompt_ids(tokenizer: Any, prompt: str, front: Mapping[str, Any]) -> list[int]:
    """The start, then the prompt's own."""
    return [front["start"], *tokenizer.encode(prompt, add_special_tokens=False).ids]


def check_prompt_ids(folder: Path, manifest: Mapping[str, Any], prompts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same of a student that writes: `prompts` as golden.json has them."""
    front = manifest["preprocessing"]
    if front["tokenizer"] not in manifest["files"]:
        return [f"manifest.json: preprocessing: tokenizer must be one of its files. Got {front['tokenizer']!r}"]
    if is_untried(front):
        return []
    tokenizer = open_tokenizer((folder / front["tokenizer"]).read_bytes())
    return [
        f"the tokenizer gives other ids than golden.json holds for golden prompt {i + 1}"
        for i, entry in enumerate(prompts)
        if prompt_ids(tokenizer, entry["prompt"], front) != entry["ids"]
    ]


def trim(row: np.ndarray, pad: int) -> list[int]:
    """Ids without padding at the end."""
    used = np.flatnonzero(row != pad)
    return [int(i) for i in row[: used[-1] + 1]] if len(used) else []
