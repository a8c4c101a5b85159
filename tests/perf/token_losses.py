"""Losses over next tokens compared in bits per byte on test, at equal steps: the table of docs/language.md.

`python examples/brown/prepare.py` first, then `python -P tests/perf/token_losses.py`, about half an hour on one core.
Every run is kept in examples/brown/data/losses, so it goes on where it was stopped. A student has 0.24 million parameters
and 400 steps of 8 rows of 128 tokens. Full distributions are kept as float16, for this comparison alone, and the stores
are drawn from those. Learning rates are those best on some rows of val, one for labels alone and one for all that the
teacher teaches.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark import host
from family.run_folder import content_id, write_beside
from family.soft_targets import save_array
from family.tasks import DataOptions, open_task
from family.tasks.lm_task import LmTask
from family.text.causal_teachers import CausalTeacher, open_causal_teacher
from family.text.decoder import DecoderStudent, shape_of
from family.text.lm_teacher import LmTeacher
from family.text.token_targets import LiveTargets, open_token_store
from family.train import predict, train
from family.types import SoftBatch, Split, Store, Training
from reports import difference, score_interval

EXAMPLE = Path(__file__).parents[2] / "examples" / "brown"
FOLDER = EXAMPLE / "data" / "losses"
PARAMS = {"width": 64, "depth": 2, "heads": 4, "feed": 3, "context": 128}
STEPS, BATCH, SEEDS, RATES = 400, 8, (1000, 1001, 1002), (3e-3, 1e-2, 3e-2)


@dataclass(frozen=True, eq=False)
class Way:
    """How a student is taught: the store's kind and the training's settings."""

    said: str
    store: str
    given: Mapping[str, Any] = field(default_factory=dict)


WAYS = (
    Way("labels alone", "none", {"loss": "labels"}),
    Way("forward KL, full distributions", "full"),
    Way("forward KL, 32 draws", "drawn 32"),
    Way("forward KL, 16 draws", "drawn 16"),
    Way("forward KL, 64 draws", "drawn 64"),
    Way("half labels, half forward KL, 32 draws", "drawn 32", {"label_weight": 0.5}),
    Way("top 31, the rest to the true token", "top 32"),
    Way("reverse KL", "full", {"loss": "reverse_kl"}),
    Way("skewed forward KL, 0.1", "full", {"loss": "skewed_kl"}),
    Way("skewed reverse KL, 0.1", "full", {"loss": "skewed_reverse_kl"}),
    Way("forward KL, T = 2", "full", {"temperature": 2.0}),
    Way("forward KL, half of the text on-policy", "full", {"on_policy": 0.5}),
)
LABELS, FULL, DRAWN = WAYS[:3]


@dataclass(frozen=True, eq=False)
class Full(LiveTargets):
    """What the teacher says of train, every logit, asked once."""

    kept: np.ndarray | None = None  # (rows, length, vocabulary) float16

    def batch(self, split: Split, rows: np.ndarray, views: np.ndarray) -> SoftBatch:
        assert self.kept is not None
        return SoftBatch(logits=torch.from_numpy(self.kept[rows].astype(np.float32)))


@cache
def open_text() -> LmTask:
    """Of train as many rows as the steps take, of val and test some of every document."""
    tokenizer = (EXAMPLE / "data" / "tokenizer.json").read_bytes()
    options = DataOptions("data/brown.jsonl", EXAMPLE, task="lm", text=("text",), context=128, tokenizer=tokenizer)
    task = open_task(options, EXAMPLE / "data" / "cache")
    assert isinstance(task, LmTask)
    rng = np.random.default_rng(0)
    fewer = {name: np.sort(rng.choice(task.splits[name], count, replace=False)) for name, count in SIZES.items()}
    return replace(task, splits={**task.splits, **fewer}, fingerprint=content_id(task.fingerprint, SIZES))


SIZES: dict[Split, int] = {"train": STEPS * BATCH, "val": 200, "test": 1000}


@cache
def open_teacher() -> CausalTeacher:
    return open_causal_teacher("teacher.py:trained", EXAMPLE)


@cache
def open_targets(kind: str) -> Store:
    task = open_text()
    if kind == "full":
        return Full(open_teacher(), task, kept=keep_all())
    if kind == "none":
        return LiveTargets(CausalTeacher(lambda ids: ids, task.tokenizer, task.vocabulary, "none"), task)
    kept, draws = kind.split()
    return open_token_store(replace(open_teacher(), ask=recall), task, FOLDER / "stores", int(draws), kept=kept)


def recall(ids: Tensor) -> Tensor:
    """What `keep_all` kept for rows of train."""
    return torch.from_numpy(keep_all()[[list_rows()[row.tobytes()] for row in ids.numpy()]].astype(np.float32))


@cache
def list_rows() -> dict[bytes, int]:
    """Which row of train has these ids."""
    task = open_text()
    ids = task.inputs("train", np.arange(task.rows("train")), 0)[0].numpy()
    return {row.tobytes(): i for i, row in enumerate(ids)}


@cache
def keep_all() -> np.ndarray:
    task = open_text()
    path = FOLDER / f"full-{content_id(open_teacher().fingerprint, task.fingerprint)}.npy"
    if not path.exists():
        beside, rows = path.with_suffix(".part"), task.rows("train")
        shape = (rows, task.tokens[0].shape[1], task.vocabulary)
        made = np.lib.format.open_memmap(beside, "w+", np.float16, shape)
        for some in np.array_split(np.arange(rows), rows // 8):
            made[some] = open_teacher().logits(task.inputs("train", some, 0)[0]).numpy()
        made.flush()
        beside.rename(path)
    return np.load(path, mmap_mode="r")


def run(way: Way, rate: float, seed: int, split: Split) -> np.ndarray:
    """What is kept of the student's outputs on a split, (rows, 3)."""
    task, teacher = open_text(), "none" if way is LABELS else open_teacher().fingerprint
    base = Training("forward_kl", rate, STEPS, seed, temperature=1.0, label_weight=0.0, batch=BATCH)
    training = replace(base, **way.given)
    path = FOLDER / f"{content_id(training.identity, way.store, task.fingerprint, teacher, PARAMS, split)}.npy"
    if not path.exists():
        start = time.process_time()
        torch.manual_seed(seed)
        student = DecoderStudent(shape_of(PARAMS | {"vocabulary": task.vocabulary}))
        trained = train(student, task, open_targets(way.store), training).module
        outputs = predict(trained, task, split)
        write_beside(path, lambda beside: save_array(beside, outputs))
        told = task.score.fn(task.labels(split), outputs)
        print(f"{way.said}, rate {rate:g}, seed {seed}: {told:.4f} bits per byte on {split}, "
              f"{time.process_time() - start:.0f} CPU-s", flush=True)  # fmt: skip
    return np.asarray(np.load(path))


def best_rate(way: Way) -> float:
    task = open_text()
    return min(RATES, key=lambda rate: task.score.fn(task.labels("val"), run(way, rate, 0, "val")))


def tell() -> str:
    """The table: means over the seeds with intervals over documents; gains over labels alone with intervals over both,
    positive where better. All at 95 %."""
    task = open_text()
    truth, groups = task.labels("test"), task.groups("test")
    rates = {LABELS: best_rate(LABELS), FULL: best_rate(DRAWN)}
    found = {way: [run(way, rates[LABELS if way is LABELS else FULL], seed, "test") for seed in SEEDS] for way in WAYS}
    lines = ["| taught by | bits per byte | better than labels alone |", "| --- | --- | --- |"]
    said = LmTeacher(open_teacher(), task).outputs("test", np.arange(task.rows("test")), 0)
    lines.append(f"| the teacher itself | {say(score_interval(task.score, truth, said, groups))} | |")
    for way, outputs in found.items():
        gain = "" if way is LABELS else say(difference(task.score, truth, outputs, found[LABELS], groups))
        lines.append(f"| {way.said} | {say(score_interval(task.score, truth, np.mean(outputs, 0), groups))} | {gain} |")
    against = {
        way: difference(task.score, truth, found[way], found[FULL], groups) for way in WAYS if "drawn" in way.store
    }
    lines += ["", *(f"{way.said} against full distributions: {say(gain)}" for way, gain in against.items())]
    parts = [
        f"learning rates {rates[LABELS]:g} for labels, {rates[FULL]:g} for the others",
        f"{host()['cpu']}, {host()['cores']} cores",
    ]
    parts += [f"Python {platform.python_version()}", f"torch {torch.__version__}", f"{date.today()}"]
    return "\n".join([*lines, "", "; ".join(parts)])


def say(told: Any) -> str:
    return f"{told.value:.3f} ({told.low:.3f} to {told.high:.3f})"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(tell())
