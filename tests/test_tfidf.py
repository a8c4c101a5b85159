"""Counting words as a control: what it learns, against scikit-learn's own pipeline, and what is said of it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from family.tasks import DataOptions, open_task
from family.text.tfidf import decide, fit_linear, fit_tfidf, hold_against, open_counter, tfidf_outputs
from family.types import SoftBatch
from reports.plain import say_plain
from reports.run_tables import Run


def make_job(folder, **options):
    """As much of a job as the control asks for; the teacher knows every word, and labels are wrong in a fifth of rows."""
    import torch

    rng = np.random.default_rng(0)
    rows, told = [], []
    for i in range(240):
        kind = i % 2
        words = [*rng.choice(["the", "of", "a", "and"], 4), *rng.choice([["oak", "elm"], ["ant", "bee"]][kind], 1)]
        rows.append({"text": " ".join(map(str, words)), "label": "pa"[kind if rng.random() > 0.2 else 1 - kind]})
        told.append([0.0, 0.0])
        told[-1]["ap".index("pa"[kind])] = 3.0
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = open_task(DataOptions("d.jsonl", folder, task="text", vocabularies=(300,), **options), folder / "c")
    logits = torch.tensor(told)
    store = SimpleNamespace(batch=lambda split, at, views: SoftBatch(logits=logits[task.row_ids(split)[at]]))
    teacher = SimpleNamespace(fingerprint="t")
    return SimpleNamespace(
        task=task, folder=folder, teacher=teacher, soft_targets=lambda: store, watch=lambda stage: None
    )


def test_it_is_fitted_on_labels_and_on_the_teachers_answers(tmp_path):
    job = make_job(tmp_path)
    found = fit_tfidf(job)
    assert set(found) == {"labels", "teacher"}
    texts = [job.task.sentences(split, np.arange(job.task.rows(split))) for split in ("train", "test")]
    pipe = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b"),
        LogisticRegression(C=found["labels"]["strength"], max_iter=300),
    ).fit(texts[0], job.task.labels("train"))
    assert found["labels"]["test"]["value"] == pytest.approx(pipe.score(texts[1], job.task.labels("test")))
    assert found["labels"]["terms"] == len(pipe[0].vocabulary_)
    clean = tfidf_outputs(job, "teacher", "test").argmax(1)
    assert [["ant", "bee", "oak", "elm"].index(t.split()[-1]) // 2 for t in texts[1]] == clean.tolist()
    assert found["teacher"]["ms"] > 0
    assert fit_tfidf(job) == found  # kept


def test_where_it_wins_is_told(tmp_path):
    job = make_job(tmp_path)
    found = fit_tfidf(job)
    best = tfidf_outputs(job, "teacher", "test")
    assert hold_against(job, best, found)["wins"] is None
    assert hold_against(job, -best, found)["wins"] in ("labels", "teacher")
    assert hold_against(job, -best, found)["teacher"]["high"] < 0


def test_texts_without_words_are_counted_by_what_stands_between_spaces():
    counter = open_counter(["😀 🐝", "🐝", "!!"])
    assert counter.fit_transform(["😀 🐝", "🐝", "!!"]).shape == (3, 4)
    assert set(open_counter(["an oak!", "!!"]).fit(["an oak!", "!!"]).vocabulary_) == {"an", "oak", "an oak"}


def test_other_data_have_none(tmp_path):
    assert fit_tfidf(SimpleNamespace(task=object())) == {}


def test_several_labels_and_vectors():
    rng = np.random.default_rng(0)
    x = csr_matrix(rng.random((60, 5)))
    labels = (x.toarray()[:, :3] > 0.5).astype(np.float32)
    labels[:, 2] = 1  # that all have
    answer, weights = fit_linear(x, labels, "multilabel", 1000.0, 3)
    assert weights == 10
    assert ((answer(x) > 0) == (labels > 0.5)).mean() > 0.95
    vectors = x.toarray() @ rng.standard_normal((5, 4))
    answer, weights = fit_linear(x, vectors, "embedding", 1e-6, 4)
    np.testing.assert_allclose(answer(x), vectors, atol=1e-3)


def test_a_class_that_was_never_seen_cannot_win():
    x = csr_matrix(np.eye(4))
    answer, _ = fit_linear(x, np.array([0, 2, 0, 2]), "classification", 1.0, 4)
    said = answer(x)
    assert said.shape == (4, 4)
    assert set(said.argmax(1)) <= {0, 2}
    assert decide(None, 1, x, 3).argmax(1).tolist() == [1] * 4


def test_the_report_says_who_wins_and_no_more_than_was_shown():
    interval = {"value": 0.8, "low": 0.78, "high": 0.82}
    found = {"test": interval, "val": interval, "rows": 10, "size_kb": 2000.0, "ms": 0.5}
    gaps = {"worse": (-0.1, -0.2, -0.05), "level": (0.01, -0.01, 0.03), "better": (0.1, 0.05, 0.2)}
    budgets = {
        name: {
            "status": "kept",
            "tfidf": {"labels": dict(zip(("value", "low", "high"), gap, strict=True)), "wins": None},
        }
        for name, gap in gaps.items()
    }
    budgets["worse"]["tfidf"]["wins"] = "labels"
    family = {"score": {"name": "accuracy"}, "budgets": budgets, "tfidf": {"labels": found}}
    run = Run(family, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), {})
    said = {name: say_plain(run, name) for name in budgets}
    assert said["worse"].startswith("TF-IDF wins here: on labels it reaches 80.0 % (78.0–82.0) on test, with 2.00 MB")
    assert said["level"] == "no difference from TF-IDF on labels is shown."
    assert said["better"] == "better than TF-IDF, on labels and on the teacher's answers."


def test_a_gap_without_an_interval_is_no_gain():
    unknown = {"value": 0.3, "low": None, "high": None}
    run = SimpleNamespace(budgets={"small": {"tfidf": {"labels": unknown, "wins": None}}}, family={}, score="accuracy")
    assert say_plain(run, "small") == "no difference from TF-IDF on labels is shown."
