"""The task that a teacher's text writes: which rows hold what, before the teacher is asked and after."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_endpoint import start_endpoint

from family.errors import Mistakes
from family.progress import watch_nothing
from family.spaces import open_space
from family.tasks.asked_task import Asks, ask_all, ask_few, read_questions, rehearse
from family.tasks.options import DataOptions
from family.text.endpoint import EndpointOptions
from family.text.filters import FilterOptions
from family.text.text_teacher import TextTeacher, say_text_teacher

KINDS = ("animal", "plant")
TEMPLATE = "What is it? {gloss}\nAnswer:"


def say_kind(prompt: str, settings: dict) -> str:
    """Right but for things whose number ends in 9, which get another text."""
    number = int(prompt.split()[4])
    return "I cannot say." if number % 10 == 9 else f" {KINDS[number % 2].capitalize()}."


def write_rows(folder, labelled=lambda i: i % 3 != 1, text=lambda i: f"thing {i} of many", group=lambda i: i):
    with (folder / "rows.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["gloss", "kind", "source"])
        rows.writerows([text(i), KINDS[i % 2] if labelled(i) else "", f"book {group(i)}"] for i in range(60))
    return DataOptions("rows.csv", folder, task="lm", label="kind", text=("gloss",), context=64, vocabularies=(300,))


def asks(url: str, folder, **given) -> Asks:
    filters = FilterOptions(valid=KINDS)
    more = given.pop("more", None)
    return Asks(TEMPLATE, more, EndpointOptions(url, folder, model="m", first_wait_s=0.0, filters=filters, **given))


def ask(options: DataOptions, asked: Asks, folder, way=ask_all):
    said: list[str] = []
    found = way(read_questions(options, asked, folder), folder / "answers", said.append, watch_nothing)
    return found, said


def rows_of(task, split) -> list[tuple[str, str]]:
    return [(task.prompts[i], task.texts[i]) for i in task.row_ids(split)]


def number_of(prompt: str) -> int:
    return int(prompt.split()[4])


def test_train_holds_labels_transfer_the_answers_val_and_test_the_truth(tmp_path):
    with start_endpoint(say=say_kind) as server:
        found, _ = ask(write_rows(tmp_path), asks(server.url, tmp_path), tmp_path)
    task, questions = found.task, found.questions
    assert len(server.asked) == 60
    for split in ("train", "val", "test"):
        for prompt, text in rows_of(task, split):
            assert number_of(prompt) % 3 != 1
            assert text == KINDS[number_of(prompt) % 2]
    asked = {number_of(questions.prompts[i]) for split in ("train", "transfer") for i in questions.splits[split]}
    answered = rows_of(task, "transfer")
    assert {number_of(prompt) for prompt, _ in answered} == {i for i in asked if i % 10 != 9}
    assert all(text == KINDS[number_of(prompt) % 2] for prompt, text in answered)
    assert {i for i in asked if i % 3 == 1}  # rows without a label are asked too
    assert not {number_of(p) for p, _ in answered} & {
        number_of(p) for s in ("val", "test") for p, _ in rows_of(task, s)
    }


def test_without_labels_the_truth_is_the_teachers_and_train_holds_the_text(tmp_path):
    options = replace(write_rows(tmp_path), label=None)
    with start_endpoint(say=say_kind) as server:
        found, _ = ask(options, asks(server.url, tmp_path), tmp_path)
        assert say_text_teacher(TextTeacher(found)).endswith("val has no labels to hold it against")
    assert {prompt for prompt, _ in rows_of(found.task, "train")} == {""}
    assert all(text.startswith("thing") for _, text in rows_of(found.task, "train"))
    assert all(text == KINDS[number_of(prompt) % 2] for prompt, text in rows_of(found.task, "test"))


def test_how_often_the_answers_are_the_labels(tmp_path):
    def wrong(prompt, settings):
        return KINDS[1 - number_of(prompt) % 2] if number_of(prompt) % 4 < 2 else say_kind(prompt, settings)

    with start_endpoint(say=wrong) as server:  # rows of a group stand together, and are told apart even so
        options = replace(write_rows(tmp_path, lambda i: True, group=lambda i: i // 2), group="source")
        found, _ = ask(options, asks(server.url, tmp_path), tmp_path)
    val = [number_of(prompt) for prompt, _ in rows_of(found.task, "val")]
    known = [i for i in val if i % 4 < 2 or i % 10 != 9]
    right = [i for i in known if i % 4 >= 2]
    assert TextTeacher(found).gold("val") == (len(known), len(right))
    assert 0 < len(right) < len(known)


def test_labels_are_what_the_teacher_would_say(tmp_path):
    options = write_rows(tmp_path)
    kinds = [None if i == 4 else ("plant ", "Animal")[i % 2] for i in range(60)]
    numbers = [None if i == 4 else i % 3 for i in range(60)]  # floats in the file, for its gap
    glosses = [f"thing {i} of many" for i in range(60)]
    frame = pd.DataFrame({"gloss": glosses, "kind": kinds, "number": numbers})
    frame.to_parquet(tmp_path / "rows.parquet")
    asked = asks("http://127.0.0.1:9/v1", tmp_path)
    for label, wanted in (("kind", {"plant", "animal", None}), ("number", {"0", "1", "2", None})):
        read = read_questions(replace(options, path="rows.parquet", label=label), asked, tmp_path)
        assert set(read.labels) == wanted
        assert [i for i, one in enumerate(read.labels) if one is None] == [4]


def test_several_answers_each_are_a_lesson(tmp_path):
    with start_endpoint(say=say_kind) as server:
        one, _ = ask(write_rows(tmp_path), asks(server.url, tmp_path), tmp_path)
        two, _ = ask(write_rows(tmp_path), asks(server.url, tmp_path, answers=2, temperature=1.0), tmp_path)
    assert two.task.rows("transfer") == 2 * one.task.rows("transfer")
    assert two.task.rows("test") == one.task.rows("test")
    assert two.task.fingerprint != one.task.fingerprint


def test_further_prompts_join_transfer(tmp_path):
    (tmp_path / "more.txt").write_text("What is it? thing 1000 of more\nWhat is it? thing 1009 of more\n")
    with start_endpoint(say=say_kind) as server:
        asked = asks(server.url, tmp_path, more="more.txt")
        found, _ = ask(replace(write_rows(tmp_path), group="source"), asked, tmp_path)
    assert ("What is it? thing 1000 of more", "animal") in rows_of(found.task, "transfer")
    assert len(server.asked) == 62
    assert len(set(found.task.documents.tolist())) > 2
    with pytest.raises(Mistakes, match=r"teacher.asks.prompts: names none.txt, which is not there"):
        read_questions(write_rows(tmp_path), replace(asked, more="none.txt"), tmp_path)


def test_nothing_is_asked_before_all_is_read(tmp_path):
    """The rehearsal has the rows that are there in any case, and as many lessons as prompts."""
    questions = read_questions(write_rows(tmp_path), asks("http://127.0.0.1:9/v1", tmp_path), tmp_path)
    task = rehearse(questions)
    assert rows_of(task, "test") == [
        (questions.prompts[i], questions.labels[i]) for i in questions.splits["test"].tolist()
    ]
    assert task.rows("transfer") == len(questions.splits["train"]) + len(questions.splits["transfer"])
    with pytest.raises(Mistakes, match=r"names the field 'glos', which the data lacks. .*Did you mean 'gloss'"):
        read_questions(write_rows(tmp_path), replace(questions.asks, template="{glos}"), tmp_path)


def test_a_dry_run_asks_a_few_and_tells_what_all_would_cost(tmp_path):
    with start_endpoint(say=say_kind) as server:
        options, asked = write_rows(tmp_path), asks(server.url, tmp_path, max_tokens=2)
        found, said = ask(options, asked, tmp_path, ask_few)
        assert len(server.asked) == 8
        assert "60 requests, " in said[2]
        val = [number_of(found.questions.prompts[i]) for i in found.questions.splits["val"]]
        assert {number_of(one.prompt) for one in server.asked} >= set(val)
        assert found.task.rows("transfer") == 60 - len(val) - len(found.questions.splits["test"])
        ask(options, asked, tmp_path)
    assert len(server.asked) == 60


def test_prompts_that_the_context_does_not_hold_are_left_out_and_said(tmp_path):
    long = write_rows(tmp_path, text=lambda i: f"thing {i} of " + "many words " * (40 if i % 5 == 0 else 1))
    with start_endpoint(say=say_kind) as server:
        found, _ = ask(long, asks(server.url, tmp_path), tmp_path)
    assert all(
        number_of(prompt) % 5
        for split in ("train", "transfer", "val", "test")
        for prompt, _ in rows_of(found.task, split)
    )
    assert "take more than the context of 64 tokens, and are left out" in found.task.warnings[-1]
    assert all((found.task.tokens[1] >= 0).any(1))


def test_what_is_wrong_is_said_before_anything_is_asked(tmp_path):
    options, asked = write_rows(tmp_path), asks("http://127.0.0.1:9/v1", tmp_path)
    with pytest.raises(Mistakes, match=r"students.dims.context: leaves no row in train and .* context of 8 tokens"):
        rehearse(read_questions(replace(options, context=8), asked, tmp_path))
    with pytest.raises(Mistakes, match=r"students.dims.vocabulary: must be at least 258 .* Got 100."):
        rehearse(read_questions(replace(options, vocabularies=(100, 300)), asked, tmp_path))


def test_students_have_no_more_tokens_than_the_texts_gave(tmp_path):
    options = replace(write_rows(tmp_path), vocabularies=(280, 2000))
    task = rehearse(read_questions(options, asks("http://127.0.0.1:9/v1", tmp_path), tmp_path))
    dims = {"width": 32, "depth": 1, "heads": 2, "feed": 2, "vocabulary": [280, 2000], "context": 64}
    space = open_space("decoder", dims, tmp_path, task)
    assert 280 < task.vocabulary < 2000
    assert (space.dims["vocabulary"].low, space.dims["vocabulary"].high) == (280, task.vocabulary)


def test_no_answer_that_is_kept(tmp_path):
    with start_endpoint(say=lambda prompt, settings: "I cannot say.") as server, pytest.raises(Mistakes) as problem:
        ask(write_rows(tmp_path), asks(server.url, tmp_path), tmp_path)
    assert "teacher: leaves no row in transfer: of 60 prompts 0 have an answer that was kept." in str(problem.value)


def test_the_vocabulary_is_learnt_from_what_is_learnt(tmp_path):
    """Nothing of val and test goes into the tokenizer."""
    options = write_rows(tmp_path)
    questions = read_questions(options, asks("http://127.0.0.1:9/v1", tmp_path), tmp_path)
    held = [*questions.splits["val"].tolist(), *questions.splits["test"].tolist()]
    changed = [p if i not in held else p + " zzzz zzzz zzzz" for i, p in enumerate(questions.prompts)]
    assert rehearse(replace(questions, prompts=changed)).tokenizer == rehearse(questions).tokenizer
    assert np.isin(held, questions.order).all()
