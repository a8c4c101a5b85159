"""Whole texts as a task: what lies on disk, what is wrong with it, and what students of several vocabularies read."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from export import TextFront, apply_front
from family.errors import Mistakes
from family.tables import count_bytes, write_test_rows
from family.tasks import DataOptions, open_task
from family.tasks.text_task import TextTask
from family.text.text_source import LONGEST, SEPARATOR, split_columns
from family.text.tokenizer import PAD

WORDS = {"animal": ["ant", "bee", "cat"], "plant": ["oak", "elm", "fern"]}
FILLERS = ["the", "of", "a", "small", "naïve", "😀", "Ελλάδα", "runs"]
SMALL = (300, 320)


def make_rows(count: int = 60) -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        kind = list(WORDS)[i % 2]
        words = [*rng.choice(FILLERS, 2 + i % 7), *rng.choice(WORDS[kind], 2), str(i)]
        rows.append({"text": " ".join(words), "label": kind})
    return rows


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def open_rows(folder: Path, rows: list[dict], **options) -> TextTask:
    write_lines(folder / "d.jsonl", rows)
    return open_file(folder, "d.jsonl", **options)


def open_file(folder: Path, path: str, **options) -> TextTask:
    given = {"task": "text", "vocabularies": SMALL} | options
    task = open_task(DataOptions(path, folder, **given), folder / "cache")
    assert isinstance(task, TextTask)
    return task


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> TextTask:
    return open_rows(tmp_path_factory.mktemp("text"), make_rows())


def test_lines_tables_and_folders_say_the_same(tmp_path, task):
    rows = make_rows()
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "d.csv", index=False)
    frame.to_parquet(tmp_path / "d.parquet")
    for i, row in enumerate(rows):
        (tmp_path / "mails" / row["label"]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "mails" / row["label"] / f"{i:03}.txt").write_text(row["text"], encoding="utf-8")
    wanted = sorted(zip(task.texts, task.truth.tolist(), strict=True))
    for path in ("d.csv", "d.parquet", "mails"):
        other = open_file(tmp_path, path)
        assert sorted(zip(other.texts, other.truth.tolist(), strict=True)) == wanted
        assert other.classes == ("animal", "plant")
    assert "60 rows of text" in " ".join(task.notes)


def test_a_saved_hugging_face_dataset_is_read(tmp_path, task):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(make_rows()).save_to_disk(str(tmp_path / "saved"))
    assert list(open_file(tmp_path, "saved").texts) == list(task.texts)


@pytest.mark.parametrize(
    ("label", "options", "kind"),
    [
        (lambda i: f"{i / 7:.2f}", {}, "regression"),
        (lambda i: str(i % 5), {"score": "rmse"}, "regression"),
        (lambda i: f"3.{i % 12}", {}, "classification"),  # versions: 3.1 and 3.10 are two
        (lambda i: f"{i % 30:03}", {}, "classification"),
    ],
)
def test_numbers_in_a_table_of_text_are_numbers_where_they_are_values(tmp_path, label, options, kind):
    rows = [{"text": f"oak {i}", "label": label(i) if i % 9 else ""} for i in range(180)]
    pd.DataFrame(rows).to_csv(tmp_path / "d.csv", index=False)
    made = open_file(tmp_path, "d.csv", **options)
    assert made.kind == kind
    if kind == "regression":
        known = [i for i, row in enumerate(rows) if row["label"]]
        assert made.truth[known, 0] == pytest.approx([float(rows[i]["label"]) for i in known])
    else:
        assert set(made.classes) == {row["label"] for row in rows if row["label"]}


def test_words_that_pandas_takes_for_nothing_stay_words(tmp_path):
    rows = [{"text": word, "label": "ab"[i % 2]} for i, word in enumerate(["NA", "null", "None", "nan", "007"] * 6)]
    pd.DataFrame(rows).to_csv(tmp_path / "d.csv", index=False)
    assert set(open_file(tmp_path, "d.csv").texts) == {"NA", "null", "None", "nan", "007"}


def test_every_student_reads_the_same_rows_in_tokens_of_its_own(task):
    large, small = task.seen_by({"vocabulary": 320, "length": 16}), task.seen_by({"vocabulary": 300, "length": 16})
    assert isinstance(small.front, TextFront)
    assert (small.front.vocabulary, small.front.length) == (300, 16)
    assert small.body.inputs[0].dtype == "int64"
    rows = np.arange(8)
    assert small.sentences("val", rows) == large.sentences("val", rows)
    ours, theirs = (one.inputs("val", rows, 0)[0].numpy() for one in (small, large))
    assert ours.max() < 300 <= theirs.max()
    assert (ours != PAD).sum() > (theirs != PAD).sum()
    assert len({task.fingerprint, small.fingerprint, large.fingerprint}) == 3
    assert task.seen_by({"vocabulary": 300, "length": 16}) is small


def test_ids_are_the_tokenizers_own(task):
    seen = task.seen_by({"vocabulary": 300, "length": task.front.length})
    for i, text in enumerate(seen.sentences("test", np.arange(5))):
        (ids,) = apply_front(seen.front, seen.raw("test", np.array([i])))
        assert ids[0].tolist() == seen.tokenizer.opened.encode(text, add_special_tokens=False).ids
    assert json.loads(seen.tokenizer.data)["model"]["type"] == "BPE"


def test_one_row_is_not_padded_and_several_are_as_long_as_the_longest(task):
    seen = task.seen_by({})
    lengths = [seen.raw("val", np.array([i]))["input_ids"].shape[1] for i in range(6)]
    assert len(set(lengths)) > 1
    together = seen.raw("val", np.arange(6))["input_ids"]
    assert together.shape[1] == max(lengths)
    assert [(row != PAD).sum() for row in together] == lengths


def test_a_vocabulary_larger_than_the_texts_give_is_said(tmp_path):
    task = open_rows(tmp_path, make_rows(), vocabularies=(300, 50_000))
    assert task.front.vocabulary < 1000
    assert "for the texts give no 50000" in " ".join(task.notes)
    assert task.seen_by({"vocabulary": 50_000}).front.vocabulary == task.front.vocabulary


def test_pairs_are_read_as_one(tmp_path):
    rows = [{"q": f"is {r['text']}\x1e so", "a": "yes", "same": r["label"]} for r in make_rows()]
    task = open_rows(tmp_path, rows, text=("q", "a"), label="same")
    text = task.texts[0]
    assert split_columns(text) == [rows[0]["q"].replace("\x1e", " "), "yes"]
    assert task.preprocessing["columns"] == ["q", "a"]
    assert task.preprocessing["separator"] == SEPARATOR


def test_lists_of_names_are_several_labels(tmp_path):
    rows = [r | {"label": [r["label"], *(["long"] if len(r["text"]) > 30 else [])]} for r in make_rows()]
    task = open_rows(tmp_path, [*rows, {"text": "of no kind", "label": []}])
    assert (task.kind, task.classes) == ("multilabel", ("animal", "long", "plant"))
    row = rows[int(task.row_ids("train")[0])]
    assert task.labels("train")[0].tolist() == [float(name in row["label"]) for name in task.classes]


def test_rows_without_a_label_and_a_pool_of_texts_are_transfer(tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "more.txt").write_text("an oak by the way")
    rows = [*make_rows(), {"text": "of no known kind", "label": None}]
    task = open_rows(tmp_path, rows, transfer="pool")
    assert task.sentences("transfer", np.arange(2)) == ["of no known kind", "an oak by the way"]
    assert (task.lessons("transfer") == -1).all()
    write_lines(tmp_path / "pool.jsonl", [{"text": "elm"}, {"text": "  "}])
    assert open_rows(tmp_path, rows, transfer="pool.jsonl").rows("transfer") == 2


def test_a_teacher_of_vectors_is_waited_for(tmp_path):
    task = open_rows(tmp_path, [{"text": r["text"]} for r in make_rows()], score="cosine")
    assert task.waits
    vectors = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    taught = task.with_vectors(vectors)
    assert (taught.kind, taught.body.outputs[0].shape, taught.waits) == ("embedding", ("batch", 5), False)
    assert np.array_equal(taught.labels("val"), vectors[task.row_ids("val")])
    assert taught.score.fn(vectors, 3 * vectors) == pytest.approx(1)
    assert taught.fingerprint != task.with_vectors(2 * vectors).fingerprint


def test_empty_texts_are_left_out_and_rows_keep_their_places(tmp_path):
    rows = make_rows()
    rows[3]["text"], rows[4]["text"], rows[5]["text"] = "", " \n", None
    task = open_rows(tmp_path, rows)
    assert "3 rows of empty text are left out" in task.warnings
    used = np.concatenate([task.row_ids(split) for split in ("train", "val", "test")])
    assert sorted(used) == [i for i in range(60) if i not in (3, 4, 5)]
    assert task.sentences("train", np.arange(1)) == [rows[int(task.row_ids("train")[0])]["text"]]


def test_enormous_texts_are_cut_with_a_word(tmp_path):
    rows = make_rows()
    rows[0]["text"] = "oak " * LONGEST
    task = open_rows(tmp_path, rows, lengths=(16,))
    assert f"1 texts have more than {LONGEST:,} characters" in " ".join(task.notes)
    assert "have more than 16 tokens" in " ".join(task.notes)
    assert task.inputs("train", np.arange(3), 0)[0].shape[1] <= 16


GOOD = b"text,label\n" + b"".join(b"an oak,%s\n" % name for name in (b"x", b"y") * 20)
WRONG = {
    "invalid UTF-8 in a table": ("d.csv", GOOD + b"caf\xe9,x\n", {}, "d.csv cannot be read as .csv in UTF-8"),
    "invalid UTF-8 in lines": ("d.jsonl", b'{"text": "caf\xe9"}', {}, "must be UTF-8. d.jsonl is none at byte 13"),
    "half a character": ("d.jsonl", b'{"text": "\\ud800", "label": 1}', {}, "Row 0 has half a character at place 0"),
    "no such column": ("d.csv", GOOD, {"text": ("txt",)}, "names 'txt', which is no column. Found: text, label"),
    "no label": ("d.csv", b"text\noak\nelm\n", {}, "Name the column in data.label, or, for a sentence encoder"),
    "another label": ("d.csv", GOOD, {"label": "lable"}, "'lable' is not there. Found: text, label. Did you mean"),
    "one class": ("d.csv", b"text,label\n" + b"oak,x\n" * 20, {}, "holds one class only (x)"),
    "all empty": ("d.csv", b"text,label\n" + b'"  ",x\n"  ",y\n' * 20, {}, "is empty in every row of 'train'"),
    "pixels": ("d.csv", GOOD, {"augment": {"shift": 2}}, "shift cannot be applied to text"),
    "a small vocabulary": ("d.csv", GOOD, {"vocabularies": (100,)}, "must be at least 258"),
    "another format": ("d.npz", GOOD, {}, "for task: text. Got d.npz"),
    "cosine of classes": ("d.csv", GOOD, {"score": "cosine"}, "cosine is for vectors"),
    "a score of values": ("d.csv", GOOD, {"score": "bits_per_byte"}, "must be one of accuracy, macro_f1, auroc"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes(tmp_path, name):
    file, data, options, said = WRONG[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(Mistakes) as found:
        open_file(tmp_path, file, **options)
    assert said in str(found.value)


def test_invalid_utf8_in_a_folder_names_the_file(tmp_path):
    for kind in ("x", "y"):
        (tmp_path / "mails" / kind).mkdir(parents=True)
        (tmp_path / "mails" / kind / "1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(Mistakes, match=r"must be UTF-8. 1.txt is none at byte 3"):
        open_file(tmp_path, "mails")


def test_a_label_that_train_never_shows_is_told(tmp_path):
    rows = [r | {"split": ("train", "val", "test")[i % 3]} for i, r in enumerate(make_rows())]
    rows[1]["label"] = "mineral"
    with pytest.raises(Mistakes, match="leaves train without a row of class mineral"):
        open_rows(tmp_path, rows)


def test_a_pool_without_text_is_told(tmp_path):
    write_lines(tmp_path / "pool.jsonl", [{"words": "elm"}])
    with pytest.raises(Mistakes, match=r"lacks the data.s column of text. It has words"):
        open_rows(tmp_path, make_rows(), transfer="pool.jsonl")


def test_a_pool_that_is_no_unicode_is_told_of_the_pool(tmp_path):
    (tmp_path / "pool.jsonl").write_bytes(b'{"text": "\\ud800"}\n')
    with pytest.raises(Mistakes, match=r"data.transfer: .*Row 0 has half a character"):
        open_rows(tmp_path, make_rows(), transfer="pool.jsonl")


def test_groups_stay_together(tmp_path):
    rows = [r | {"who": f"writer {i // 5}"} for i, r in enumerate(make_rows())]
    task = open_rows(tmp_path, rows, group="who")
    sides = [set(task.groups(split)) for split in ("train", "val", "test")]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]


def test_shares_are_the_same_for_the_same_seed(tmp_path):
    one, two = (open_rows(tmp_path, make_rows(), seed=3) for _ in range(2))
    assert one.fingerprint == two.fingerprint
    assert open_rows(tmp_path, make_rows(), seed=4).fingerprint != one.fingerprint


def test_one_long_text_does_not_fill_the_memory_with_test_rows(tmp_path, monkeypatch):
    splits = ["train", "val", "test"]
    rows = [{"text": f"oak {i}", "label": "ab"[i // 3 % 2], "split": splits[i % 3]} for i in range(60)]
    rows[-1]["text"] = "an oak " * 2000
    task = open_rows(tmp_path, rows)
    kept = task.originals("test", np.arange(task.rows("test")))["text"]
    assert count_bytes(task) == kept.nbytes
    job = SimpleNamespace(task=task, folder=tmp_path)
    write_test_rows(job)
    with np.load(tmp_path / "test-rows.npz") as there:
        assert there["input:text"].tolist() == kept.tolist()
    (tmp_path / "test-rows.npz").unlink()
    monkeypatch.setattr("family.tables.TEST_ROWS_BYTES", kept.nbytes - 1)
    write_test_rows(job)
    assert not (tmp_path / "test-rows.npz").exists()
