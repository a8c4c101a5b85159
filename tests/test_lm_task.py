"""Next tokens of text as a task: pieces, tokens, what is learnt and what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from export import front_data, write_decoder
from export.verify import verify
from family.errors import Mistakes
from family.shipping import golden_rows, ship
from family.tasks import DataOptions, open_task
from family.tasks.lm_task import LmTask, cut_document, doubt_start, start_of
from family.teachers import teacher_score
from family.text.decoder import DecoderStudent, as_blocks, shape_of
from family.text.documents import read_documents
from family.text.tokenizer import open_tokenizer, train_tokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "more", "cat", "😀", "naïve", "Ελλάδα"]


def write_documents(folder, count=40, words=60):
    rng = np.random.default_rng(0)
    for i in range(count):
        (folder / f"{i:02}.txt").write_text(" ".join(rng.choice(WORDS, words)) + ".\n", encoding="utf-8")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> LmTask:
    folder = tmp_path_factory.mktemp("lm")
    (folder / "texts").mkdir()
    write_documents(folder / "texts")
    options = DataOptions("texts", folder, task="lm", context=32, vocabularies=(300, 280))
    return open_task(options, folder / "cache")


PARAMS = {"width": 32, "depth": 1, "heads": 2, "feed": 2, "vocabulary": 300, "context": 32}


def test_pieces_are_the_text_and_fit_the_context(task):
    texts = [" ".join(WORDS) * 20, "a", "  \n  word\n", "x" * 5000]
    for text in texts:
        pieces = cut_document(text, task.tokenizer, 32)
        assert "".join(pieces).strip() == text.strip()
        assert max(len(ids) for ids in task.tokenizer.tokens(pieces, 1000)) <= 32


def test_rows_are_the_same_for_every_vocabulary(task):
    large, small = task.seen_by(PARAMS), task.seen_by(PARAMS | {"vocabulary": 280})
    assert np.array_equal(large.labels("val")[:, 0], small.labels("val")[:, 0])
    assert small.labels("val")[:, 1].sum() > large.labels("val")[:, 1].sum()
    assert np.array_equal(large.row_ids("test"), small.row_ids("test"))
    assert large.fingerprint == task.fingerprint != small.fingerprint
    assert int(small.inputs("val", np.arange(3), 0)[0].max()) < 280


def test_what_is_learnt_is_the_text_one_token_on(task):
    rows = np.arange(5)
    (ids,), wanted = task.inputs("train", rows, 0), task.lessons("train")[rows]
    assert (ids[:, 0] == task.start).all()
    for row, (given, next_) in enumerate(zip(ids, wanted, strict=True)):
        known = next_ >= 0
        assert torch.equal(given[1:][known[1:]], next_[:-1][known[1:]])
        text = task.texts[task.row_ids("train")[row]]
        assert task.tokenizer.opened.decode(next_[known].tolist()) == text


def test_bits_of_even_guesses(task):
    rows = np.arange(task.rows("val"))
    ids = task.inputs("val", rows, 0)[0]
    kept = task.keep("val", rows, np.zeros((*ids.shape, task.vocabulary), np.float32))
    truth = task.labels("val")
    assert np.allclose(kept[:, 0], truth[:, 1] * np.log2(task.vocabulary), rtol=1e-5)
    assert np.allclose(kept[:, 2], truth[:, 1] / task.vocabulary, rtol=1e-5)
    expected = truth[:, 1].sum() * np.log2(task.vocabulary) / truth[:, 0].sum()
    assert task.score.fn(truth, kept) == pytest.approx(expected, rel=1e-5)


def test_certain_guesses_take_no_bits(task):
    rows = np.arange(4)
    wanted = task.lessons("val")[rows]
    logits = 50.0 * torch.nn.functional.one_hot(wanted.clamp_min(0), task.vocabulary).float()
    kept = task.keep("val", rows, logits.numpy())
    counts = task.labels("val")[rows, 1]
    assert np.allclose(kept, np.stack([0 * counts, counts, counts], 1), atol=1e-4)


def test_prompts_are_read_but_neither_learnt_nor_scored(task):
    asked = replace(task, prompts=["the cat "] * len(task.texts))
    ids, wanted = asked.tokens
    prompt = task.tokenizer.tokens(["the cat "], 32)[0]
    assert ids[0, 1 : 1 + len(prompt)].tolist() == prompt
    assert (wanted[:, : len(prompt)] == -1).all()
    assert wanted[0, len(prompt)] == task.tokenizer.tokens(task.texts[:1], 1)[0][0]


def test_documents_do_not_straddle_splits(task):
    sides = [set(task.groups(split)) for split in ("train", "val", "test")]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]


@pytest.mark.parametrize(
    ("write", "options", "said"),
    [
        (
            lambda p: (p / "d.txt").write_bytes(b"ok\n\nbad \xff here"),
            {},
            "must be UTF-8. d.txt is none at byte 8",
        ),
        (lambda p: (p / "d.txt").write_text("\n \n"), {}, "holds no text"),
        (lambda p: (p / "d.jsonl").write_text('{"text": "a"}\n{oops\n'), {}, "Line 2"),
        (lambda p: (p / "d.jsonl").write_text('{"txt": "a"}\n'), {"text": ("text",)}, "Did you mean 'txt'?"),
        (
            lambda p: (p / "d.jsonl").write_text('{"text": "a"}\n{"text": "b\\ud800"}\n'),
            {},
            "data.path: must hold valid Unicode. Row 1 of d.jsonl has half a character at place 1.",
        ),
        (lambda p: (p / "d.md").write_text("a"), {}, "must be a .txt file, a folder of .txt files"),
        (lambda p: (p / "d.txt").write_text("a"), {"label": "y"}, "is not for task: lm, whose labels"),
        (lambda p: (p / "d.txt").write_text("a"), {"score": "accuracy"}, "must be bits_per_byte"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, write, options, said):
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(Mistakes) as told:
        open_task(DataOptions(path.name, tmp_path, task="lm", **options), tmp_path / "cache")
    assert said in str(told.value)


def test_documents_of_a_table(tmp_path):
    rows = [{"text": f"{' '.join(WORDS)} {i}", "who": str(i % 5)} for i in range(30)] + [{"text": "", "who": "0"}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = open_task(DataOptions("d.jsonl", tmp_path, task="lm", group="who"), tmp_path / "cache")
    assert "30 documents" in task.notes
    assert "1 empty documents are left out" in task.warnings


def test_missing_text_is_no_document(tmp_path):
    texts = [f"{' '.join(WORDS)} {i}" for i in range(30)]
    pd.DataFrame({"text": [*texts, float("nan"), None]}).to_parquet(tmp_path / "d.parquet")
    source = read_documents(DataOptions("d.parquet", tmp_path, task="lm"), tmp_path / "cache")
    assert source.columns["text"].tolist() == texts
    assert source.warnings == ("2 empty documents are left out",)


def test_a_tokenizer_that_is_brought_stays_whole(tmp_path):
    (tmp_path / "t").mkdir()
    write_documents(tmp_path / "t", 12, 30)
    brought = train_tokenizer([" ".join(WORDS)] * 3, 290)
    options = DataOptions("t", tmp_path, task="lm", tokenizer=brought.data)
    task = open_task(options, tmp_path / "cache")
    assert task.shared
    assert task.vocabulary == brought.size


def test_a_student_ships_with_its_own_tokenizer_and_prompts_of_val(task, tmp_path):
    own = task.seen_by(PARAMS | {"vocabulary": 280})
    artifact = write_decoder(
        as_blocks(DecoderStudent(shape_of(PARAMS | {"vocabulary": 280})).eval()), tmp_path / "m.onnx"
    )
    front = front_data(own.front) | own.preprocessing
    given = {"kind": own.kind, "classes": None, "preprocessing": front, "teacher": None}
    ship(own, tmp_path / "student", artifact, given, own.raw("val", golden_rows(own)), "# A card\n", [])
    assert verify(tmp_path / "student") == []
    assert (tmp_path / "student" / "tokenizer.json").read_bytes() == own.tokenizer.data != task.tokenizer.data
    golden = json.loads((tmp_path / "student" / "golden.json").read_text(encoding="utf-8"))
    for entry, row in zip(golden["prompts"], own.row_ids("val"), strict=False):
        assert own.texts[row].startswith(entry["prompt"])
        assert len(entry["ids"]) <= 17
        assert max(entry["ids"]) < 280


def test_intervals_of_one_document_are_unknown_and_it_is_said(tmp_path):
    splits = ["train"] * 4 + ["val"] + ["test"] * 2
    rows = [{"text": f"{' '.join(WORDS)} {i} " * 6, "split": split} for i, split in enumerate(splits)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    few = open_task(DataOptions("d.jsonl", tmp_path, task="lm", context=32, vocabularies=(280,)), tmp_path / "cache")
    assert any("unknown for one: val has 1 and test has 2" in warning for warning in few.warnings)
    outputs = np.zeros((few.rows("val"), 32, few.vocabulary), np.float32)
    kept = few.keep("val", np.arange(few.rows("val")), outputs)
    found = teacher_score(SimpleNamespace(), few, 0.01 * kept)
    assert 0 < found.value < 1
    assert np.isnan([found.low, found.high]).all()
    with pytest.raises(Mistakes, match="no better than"):
        teacher_score(SimpleNamespace(), few, kept)


def make_foreign(*special: str):
    """A byte-level BPE of others: id 0 is "!", and special tokens come last."""
    parts = json.loads(train_tokenizer(WORDS, 280).data)
    vocab = {name: i - 2 for name, i in parts["model"]["vocab"].items() if i >= 2}
    parts["model"]["vocab"] = vocab
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    told = [{"id": len(vocab) + i, "content": name, "special": True, **plain} for i, name in enumerate(special)]
    return open_tokenizer(json.dumps(parts | {"added_tokens": told}).encode())


@pytest.mark.parametrize(
    ("special", "start"),
    [
        (("<|begin_of_text|>", "<|end_of_text|>"), "<|end_of_text|>"),
        (("<|begin_of_text|>", "<|eot_id|>"), "<|begin_of_text|>"),
        (("[CLS]", "[SEP]"), "[CLS]"),
        ((), "!"),
    ],
)
def test_texts_begin_with_a_special_token_where_there_is_one(special, start):
    tokenizer = make_foreign(*special)
    assert tokenizer.opened.id_to_token(start_of(tokenizer)) == start
    doubts = doubt_start(tokenizer, start_of(tokenizer))
    assert bool(doubts) == (start == "!")
    assert not doubts or "begin and end with token 0, '!'" in doubts[0]


def test_texts_of_our_own_tokenizer_begin_with_nothing():
    tokenizer = train_tokenizer(WORDS, 280)
    assert start_of(tokenizer) == tokenizer.nothing == 1
    assert doubt_start(tokenizer, 1) == ()
