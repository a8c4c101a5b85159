"""The store of drawn tokens: what it holds, what it takes, and that it goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from token_parts import make_teacher, make_tokenizer, open_text

from family.errors import Mistakes
from family.text import token_targets
from family.text.token_targets import LiveTargets, Plan, list_tokens, open_token_store


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def task(tmp_path, tokenizer):
    return open_text(tmp_path, tokenizer)


def test_shares_of_the_draws_are_the_teachers_probabilities(task, tokenizer):
    """Over many stores of other seeds; every one holds as many draws as it says, at every position."""
    teacher, rows = make_teacher(tokenizer), np.arange(4)
    sums = torch.zeros(4, 16, tokenizer.size)
    stores = 60
    for seed in range(stores):
        said = list_tokens(teacher, task, "train", rows, Plan("drawn", 16, seed))
        ids, counts = torch.from_numpy(said["ids"].astype(int)), torch.from_numpy(said["counts"]).float()
        assert (counts.sum(2) == 16).all()
        sums.scatter_add_(2, ids, counts)
    p = teacher.logits(task.inputs("train", rows, 0)[0]).softmax(2)
    error = (sums / (16 * stores) - p).square().mean().sqrt()
    independent = (p * (1 - p) / (16 * stores)).mean().sqrt()
    assert 0 < error < 1.1 * independent


def test_a_token_takes_96_bytes_at_32_draws(tmp_path, task, tokenizer):
    store = open_token_store(make_teacher(tokenizer), task, tmp_path / "store")
    assert store.bytes_per_token == 32 * 3 <= 120
    positions = task.rows("train") * 16
    written = sum(file.stat().st_size for file in (tmp_path / "store" / store.fingerprint).glob("train-*.npy"))
    assert written / positions == pytest.approx(96, rel=0.02)
    assert store.bytes_per_view == 96 * 16
    arrays = store.arrays["train"]
    assert (arrays["ids"].dtype, arrays["counts"].dtype) == (np.uint16, np.uint8)


def test_the_same_store_is_read_again_and_another_teacher_text_or_tokenizer_has_its_own(tmp_path, task, tokenizer):
    keys = {}
    for name, (teacher, data, draws) in {
        "first": (make_teacher(tokenizer), task, 16),
        "again": (replace(make_teacher(tokenizer), ask=None), task, 16),  # asked, it would fail
        "teacher": (make_teacher(tokenizer, 1), task, 16),
        "text": (make_teacher(tokenizer), replace(task, fingerprint="other text or tokenizer"), 16),
        "draws": (make_teacher(tokenizer), task, 17),
    }.items():
        keys[name] = open_token_store(teacher, data, tmp_path / "store", draws).fingerprint
    assert keys["first"] == keys["again"]
    assert len(set(keys.values())) == 4


def test_a_vocabulary_is_part_of_the_tasks_fingerprint(tmp_path, task):
    (tmp_path / "b").mkdir()
    assert open_text(tmp_path / "b", make_tokenizer(280)).fingerprint != task.fingerprint


def test_more_than_65536_tokens_take_four_bytes_each(monkeypatch, tmp_path, task, tokenizer):
    monkeypatch.setattr(token_targets, "SMALL_IDS", 10)
    store = open_token_store(make_teacher(tokenizer), task, tmp_path / "store", 16)
    assert store.arrays["train"]["ids"].dtype == np.uint32
    assert store.bytes_per_token == 16 * 5


@pytest.mark.parametrize("at", [0, 1, 3])
def test_an_interrupted_store_asks_for_the_missing_rows_alone(tmp_path, task, tokenizer, at, monkeypatch):
    monkeypatch.setattr(token_targets, "CHUNK", 10)
    teacher, calls = make_teacher(tokenizer), []

    def ask(ids):
        if len(calls) == at:
            raise KeyboardInterrupt
        calls.append(len(ids))
        return teacher.ask(ids)

    with pytest.raises(KeyboardInterrupt):
        open_token_store(replace(teacher, ask=ask), task, tmp_path / "store", 16)
    rest = []
    counted = replace(teacher, ask=lambda ids: (rest.append(len(ids)), teacher.ask(ids))[1])
    store = open_token_store(counted, task, tmp_path / "store", 16)
    assert sum(calls) + sum(rest) == task.rows("train")
    same(store, open_token_store(teacher, task, tmp_path / "whole", 16))


def same(one, other):
    for name, values in one.arrays["train"].items():
        assert np.array_equal(values, other.arrays["train"][name])


FILL = """
import sys
from pathlib import Path
from token_parts import make_teacher, make_tokenizer, open_text
from family.tasks import DataOptions, open_task
from family.text import token_targets
token_targets.CHUNK = 2
folder, tokenizer = Path(sys.argv[1]), make_tokenizer()
task = open_task(DataOptions("text", folder, task="lm", context=16, tokenizer=tokenizer.data), folder / "cache")
print("ready", flush=True)
token_targets.open_token_store(make_teacher(tokenizer), task, folder / "store", 16, progress=lambda s: print(s, flush=True))
"""


def test_a_store_killed_while_it_is_written_goes_on(tmp_path, task, tokenizer):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-P", "-c", FILL, str(tmp_path)]
    told = {"stdout": subprocess.PIPE, "text": True, "env": {**os.environ, "PYTHONPATH": path}}
    with subprocess.Popen(command, **told) as process:
        for line in process.stdout:
            if "rows 20 of" in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (part,) = (tmp_path / "store").glob(".*.part")
    marked = json.loads((part / "train.json").read_text())["rows"]
    assert 20 <= marked < task.rows("train")
    with (part / "train-ids.npy").open("ab") as half:
        half.write(b"x" * 7)  # as if it had been killed within a row
    same(open_token_store(make_teacher(tokenizer), task, tmp_path / "store", 16),
         open_token_store(make_teacher(tokenizer), task, tmp_path / "whole", 16))  # fmt: skip


def test_a_damaged_store_is_filled_again(tmp_path, task, tokenizer):
    teacher = make_teacher(tokenizer)
    store = open_token_store(teacher, task, tmp_path / "store", 16)
    file = tmp_path / "store" / store.fingerprint / "train-ids.npy"
    file.write_bytes(file.read_bytes()[:-2] + b"??")
    same(open_token_store(teacher, task, tmp_path / "store", 16), store)


def test_top_is_the_likeliest_and_the_true_token(tmp_path, task, tokenizer):
    store = open_token_store(make_teacher(tokenizer), task, tmp_path / "store", 16, kept="top")
    rows = np.arange(5)
    said, truth = store.batch("train", rows, rows * 0), task.lessons("train")[rows]
    known = truth >= 0
    assert torch.equal(said.draws[..., -1][known], truth[known])
    assert torch.allclose(said.counts.sum(2)[known], torch.ones(int(known.sum())), atol=2e-3)


@pytest.mark.parametrize(
    ("kept", "draws", "where", "said"),
    [
        ("top_k_renormalised", 32, "distill.soft_targets", "is biased: what the kept tokens are given is too much"),
        ("best", 32, "distill.soft_targets", "must be drawn, top or live. Got 'best'."),
        ("drawn", 8, "distill.draws", "must be from 16 to 64 a position. Got 8."),
        ("drawn", 128, "distill.draws", "Got 128."),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, task, tokenizer, kept, draws, where, said):
    with pytest.raises(Mistakes) as told:
        open_token_store(make_teacher(tokenizer), task, tmp_path / "store", draws, kept=kept)
    assert where in str(told.value)
    assert said in str(told.value)


def test_live_targets_are_every_logit_of_any_text(task, tokenizer):
    teacher, rows = make_teacher(tokenizer), np.array([3, 1])
    live = LiveTargets(teacher, task)
    ids = task.inputs("train", rows, 0)[0]
    assert torch.equal(live.batch("train", rows, rows * 0).logits, teacher.logits(ids))
    assert live.has >= {"all", "draws"}
