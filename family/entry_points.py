"""Entry points of a student that generates: one file, measured as it decodes a token and as it takes in a prompt.

`decode`: one more token where all of the context but it is past, so that keys and values of a full context are held;
`prefill`: a prompt with nothing before it. The file is there once for each, with its own inputs beside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import Measurement, Meter, feeds_beside
from export import StepFront, past_names
from family.run_folder import write_beside
from family.types import Task

QUANTITIES = {"decode": "ms_per_token", "prefill": "first_token_ms"}
Feeds = Mapping[str, np.ndarray]


def entry_of(path: Path, entry: str) -> Path:
    return path.with_name(f"{entry}.onnx")


def write_entries(path: Path, feeds: Mapping[str, Feeds]) -> None:
    """The file at `path` under the name of each entry point, which share its bytes on disk, and their inputs."""
    for entry, arrays in feeds.items():
        copy = entry_of(path, entry)
        write_beside(copy, lambda beside: os.link(path, beside))
        put_feeds(copy, arrays)


def put_feeds(model: Path, arrays: Feeds) -> None:
    """Inputs of its own beside a model."""

    def save(beside: Path) -> None:
        with beside.open("wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]

    write_beside(feeds_beside(model), save)


def entry_feeds(task: Task, front: StepFront, prompt: int) -> dict[str, Feeds]:
    """Inputs of both entry points: tokens of val; the past of one token is random, for what keys hold does not matter.
    prompt: positions, at most the context."""
    ids = task.inputs("val", np.arange(1), 0)[0].numpy()
    ids = np.resize(ids, (1, prompt))
    return {"decode": step_inputs(front, ids[:, :1], front.context - 1), "prefill": step_inputs(front, ids, 0)}


def step_inputs(front: StepFront, ids: np.ndarray, past: int) -> dict[str, np.ndarray]:
    """What the file takes for ids (batch, length) after `past` positions."""
    rng = np.random.default_rng(0)
    shape = (len(ids), front.heads, past, front.head)
    known = {name: rng.standard_normal(shape, np.float32) for name in past_names(front.layers)}
    places = np.broadcast_to(np.arange(past, past + ids.shape[1]), ids.shape)
    return {"input_ids": ids, "position_ids": np.ascontiguousarray(places), **known}


class GeneratingMeter:
    """Measures `model.onnx` by its entry points: what `meter` says of `decode`, and the latency of `prefill`."""

    def __init__(self, meter: Meter):
        self.meter = meter

    @property
    def host(self) -> str:
        return self.meter.host

    def facts(self) -> dict[str, Any]:
        return self.meter.facts()

    def quickly(self, model: Path) -> list[Measurement]:
        return name_figures("decode", self.meter.quickly(entry_of(model, "decode")))

    def first_token(self, model: Path) -> list[Measurement]:
        """first_token_ms of a candidate."""
        return latency_alone(name_figures("prefill", self.meter.quickly(entry_of(model, "prefill"))))

    def settle(self, models: Sequence[Path]) -> list[list[Measurement]]:
        decode, prefill = (
            [name_figures(entry, own) for own in self.meter.settle([entry_of(model, entry) for model in models])]
            for entry in QUANTITIES
        )
        return [[*one, *latency_alone(other)] for one, other in zip(decode, prefill, strict=True)]

    def close(self) -> None:
        self.meter.close()


def name_figures(entry: str, figures: Sequence[Measurement]) -> list[Measurement]:
    """With the latency called what it is of this entry point; other ways of timing it are left out."""
    return [
        replace(figure, quantity=QUANTITIES[entry]) if figure.quantity == "latency_ms" else figure
        for figure in figures
        if figure.quantity not in ("latency_direct_ms", "latency_p95_ms")
    ]


def latency_alone(figures: Sequence[Measurement]) -> list[Measurement]:
    return [figure for figure in figures if figure.quantity == QUANTITIES["prefill"]]
