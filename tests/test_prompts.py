"""Prompts: from a file, or from a template over the data; messages never repeat them."""

from __future__ import annotations

import pandas as pd
import pytest

from family.errors import Mistakes
from family.text.prompts import MOST, fill_template, read_prompts

SECRET = "the password is hunter2"


def test_the_same_prompts_from_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\r\nzwei 😀\r\n".encode())
    (tmp_path / "a.jsonl").write_text('{"prompt": "one", "id": 1}\n\n{"prompt": "zwei 😀"}\n', encoding="utf-8")
    frame = pd.DataFrame({"id": [1, 2], "prompt": ["one", "zwei 😀"]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for kind in ("txt", "jsonl", "csv", "parquet"):
        assert read_prompts(f"a.{kind}", tmp_path) == ("one", "zwei 😀")


def test_a_csv_keeps_words_that_look_like_numbers_or_nothing(tmp_path):
    (tmp_path / "a.csv").write_text("prompt\n007\nNA\n")
    assert read_prompts("a.csv", tmp_path) == ("007", "NA")


def test_a_template_is_filled_row_by_row():
    rows = {"text": ["a {b}", "c"], "n": [1, 2], "unused": [None, None]}
    assert fill_template("{{{n}}} {text}: {text}?", rows) == ("{1} a {b}: a {b}?", "{2} c: c?")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "holds no prompts"),
        ("a.txt", b"good\n\xff\xfe\n", "a.txt is not UTF-8 (line 2)"),
        ("a.csv", b"prompt\n\xff\n", "a.csv is not UTF-8 (line 2)"),
        ("a.csv", f"promt\n{SECRET}\n".encode(), "has no column 'prompt'. It has promt. Did you mean 'promt'?"),
        ("a.csv", f'prompt\n"{SECRET}\n'.encode(), "a.csv cannot be read as .csv"),
        ("a.csv", b'prompt\nx\n""\n', "holds 1 prompts that are empty, first in rows [1]"),
        ("a.jsonl", f'{{"prompt": "{SECRET}'.encode(), "holds no JSON in line 1"),
        ("a.jsonl", f'{{"text": "{SECRET}"}}'.encode(), "must hold an object with 'prompt' in each line. Line 1"),
        ("a.jsonl", b'{"prompt": 3}', "holds 1 prompts that are missing or no text, first in rows [0]"),
        ("a.jsonl", b"[" * 200_000, "holds no JSON in line 1"),
        ("a.txt", SECRET.encode() + b"a" * MOST, "of more than 1,000,000 characters, first in rows [0]"),
        ("a.parquet", SECRET.encode(), "a.parquet cannot be read as .parquet"),
        ("a.doc", b"x", "must be a file ending in .txt, .jsonl, .csv or .parquet. Got a.doc"),
    ],
)
def test_files_that_hold_no_prompts(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Mistakes) as found:
        read_prompts(name, tmp_path)
    assert said in str(found.value)
    assert "hunter2" not in str(found.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(Mistakes, match=r"names none.txt, which is not there"):
        read_prompts("none.txt", tmp_path)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("Which?", "is a template without a field in braces"),
        ("{}", "must hold plain names in braces"),
        ("{text.__class__}", "must hold plain names in braces"),
        ("{text!r}", "must hold plain names in braces"),
        ("{text:>9}", "must hold plain names in braces"),
        ("{text", "is no template"),
        ("{txt}", "names the field 'txt', which the data lacks. It has text and gap. Did you mean 'text'?"),
        ("{gap}", "uses 'gap', which is missing in 3 rows, first [0, 1, 2]"),
    ],
)
def test_templates_that_cannot_be_filled(template, said):
    with pytest.raises(Mistakes) as found:
        fill_template(template, {"text": [SECRET] * 3, "gap": [None, float("nan"), " "]})
    assert said in str(found.value)
    assert "hunter2" not in str(found.value)
