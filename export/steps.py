"""A decoder's file run token by token, keys and values kept. Without torch or onnx."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.front import StepFront
from export.session import Runner, largest_difference
from export.signatures import past_names

Past = Sequence[np.ndarray]


def step_feeds(front: StepFront, ids: Sequence[int], past: Past | None = None) -> dict[str, np.ndarray]:
    """What the file takes for one row of ids after `past`, as it gave it, or after nothing."""
    nothing = np.zeros((1, front.heads, 0, front.head), np.float32)
    known = [nothing] * (2 * front.layers) if past is None else past
    start = known[0].shape[2]
    places = np.arange(start, start + len(ids), dtype=np.int64)
    tokens = {"input_ids": np.array([ids], np.int64), "position_ids": places[None]}
    return tokens | dict(zip(past_names(front.layers), known, strict=True))


def go_on(runner: Runner, front: StepFront, ids: Sequence[int], end: int, tokens: int) -> Iterator[int]:
    """The likeliest ids after `ids`, so many, until `end` or a full context."""
    given, past = list(ids), None
    for _ in range(min(tokens, front.context - len(ids) + 1)):
        logits, *past = runner.all_outputs(step_feeds(front, given, past))
        given = [int(logits[0, -1].argmax())]
        if given == [end]:
            return
        yield given[0]


def follow(runner: Runner, front: StepFront, ids: Sequence[int], continuation: Sequence[int]) -> Iterator[np.ndarray]:
    """Logits (vocabulary,) before each token of a continuation of `ids`."""
    given, past = list(ids), None
    for token in continuation:
        logits, *past = runner.all_outputs(step_feeds(front, given, past))
        yield logits[0, -1]
        given = [token]


def check_prompts(
    folder: Path, runner: Runner, preprocessing: Mapping[str, Any], golden: Mapping[str, Any]
) -> list[str]:
    """What differs after golden prompts: logits of the first token, and tokens that are not the likeliest here. A token
    may differ where two are equally likely, as far as the tolerance tells. Raises KeyError, TypeError, ValueError and
    OSError where golden.json and golden.npz do not fit together."""
    front = StepFront(**{name: int(preprocessing[name]) for name in ("layers", "heads", "head", "context")})
    tolerance, problems = float(golden["tolerance"]), []
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        expected = [arrays[entry["logits"]["key"]] for entry in golden["prompts"]]
    for i, (entry, wanted) in enumerate(zip(golden["prompts"], expected, strict=True)):
        for place, found in enumerate(follow(runner, front, entry["ids"], entry["continuation"])):
            off = largest_difference(found, wanted) if place == 0 else 0.0
            if not off <= tolerance:
                problems.append(f"golden prompt {i + 1}: logits are off by {off:.3g}. Allowed: {tolerance:.3g}")
            if not found[entry["continuation"][place]] >= found.max() - 2 * tolerance:
                problems.append(
                    f"golden prompt {i + 1}: it goes on otherwise from token {place + 1} of its continuation"
                )
                break
    return problems
