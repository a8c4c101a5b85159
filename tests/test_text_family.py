"""A whole family of students of texts, small: what its tables, folders and report say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from export.verify import verify
from family.build import build
from family.spec import read_spec
from family.text.text_source import SEPARATOR

ROOT = Path(__file__).parent.parent
BASE = """
name: tiny
task: text
data: {path: d.jsonl, split: {val: 0.3, test: 0.3}DATA}
teacher: TEACHER
students: {space: SPACE, dims: DIMS}
budgets:
  small: {target: cpu, size_kb: 40}
  best: {target: cpu}
distill: {learning_rate: 0.01, steps: 60, control_seeds: 2, loss: LOSS}
search: {trials: 3, minutes: null}
"""
TEACHER = """
import torch
class Words(torch.nn.Module):
    def embed(self, texts):
        return torch.tensor([[t.count(c) + 0.1 * i for i, c in enumerate("abcde")] for t in texts])
    def forward(self, texts):
        return 2 * self.embed(texts)[:, :2] if KIND else self.embed(texts)
def teacher():
    return Words()
"""


def write(folder: Path, labels: str, **words: str) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(240):
        kind = i % 2
        text = " ".join(map(str, rng.choice([["aha", "ab", "an"], ["bib", "be", "bob"]][kind], 3 + i % 5)))
        row: dict = {"text": f"{text} {i}"}
        if labels == "classes":
            row["label"] = "xy"[kind] if i < 200 else None
        elif labels == "pairs":
            row = {"one": row["text"], "two": "and more", "label": [["x", "long"], ["y"]][kind] if i < 200 else None}
        rows.append(row)
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "t.py").write_text(TEACHER.replace("KIND", str(labels == "classes")))
    text = BASE
    for key, value in words.items():
        text = text.replace(key, value)
    (folder / "budgets.yaml").write_text(text)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(folder / "cache"))
    outcome = build(read_spec(folder / "budgets.yaml"), folder / "run", False, lambda line: None)
    assert outcome.exit_code == 0
    return dict(outcome.family)


def check_folders(folder: Path, family: dict, score: bool = True) -> None:
    """Every folder passes its own check, and its test score is found again from texts alone."""
    for entry in family["budgets"].values():
        student = folder / "run" / entry["student"]
        verify(student)
        assert (student / "tokenizer.json").is_file()
    if score:
        command = [sys.executable, str(ROOT / "examples" / "recompute.py"), str(folder / "run")]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_classes(tmp_path, monkeypatch):
    dims = "{width: [8, 16], depth: [0, 1], vocabulary: {choices: [270, 300]}}"
    write(tmp_path, "classes", DATA="", TEACHER="t.py:teacher", SPACE="static", DIMS=dims, LOSS="kd")
    family = run(tmp_path, monkeypatch)
    check_folders(tmp_path, family)
    assert set(family["tfidf"]) == {"labels", "teacher"}
    assert "wins" in family["budgets"]["small"]["tfidf"]
    records = pd.read_parquet(tmp_path / "run" / "records.parquet")
    students = records[records["role"] == "student"]
    assert np.allclose(students["latency_ms"], students["file_ms"] + students["tokenizer_ms"])
    models = set(pd.read_parquet(tmp_path / "run" / "predictions.parquet")["model"])
    assert {"tfidf:labels", "tfidf:teacher", "teacher"} <= models
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "What counting words does" in page
    assert "An app gives a text." in page
    card = (tmp_path / "run" / "students" / "small" / "MODEL_CARD.md").read_text()
    assert "TF-IDF with a linear model:" in card


@pytest.mark.slow
def test_vectors(tmp_path, monkeypatch):
    dims = "{width: 16, depth: 1, heads: 2, feed: 1, vocabulary: {choices: [270, 300]}}"
    words = {"TEACHER": "t.py:teacher", "SPACE": "encoder", "DIMS": dims, "LOSS": "cosine"}
    write(tmp_path, "none", DATA="", **words)
    spec = tmp_path / "budgets.yaml"
    spec.write_text(spec.read_text() + "score: cosine\n")
    family = run(tmp_path, monkeypatch)
    check_folders(tmp_path, family)
    assert family["score"]["name"] == "cosine"
    assert family["teacher"]["test"]["value"] == pytest.approx(1)
    assert family["budgets"]["best"]["test"]["value"] > 0.8


@pytest.mark.slow
def test_pairs_with_several_labels_and_stored_outputs(tmp_path, monkeypatch):
    words = {"TEACHER": "{path: t.npz, gives: logits}", "SPACE": "static", "DIMS": "{width: 8, vocabulary: 270}"}
    write(tmp_path, "pairs", DATA=", text: [one, two]", LOSS="kd", **words)
    logits = [[4.0 * (i % 2 == 0) - 2, 4.0 * (i % 2 == 0) - 2, 4.0 * (i % 2) - 2] for i in range(240)]
    np.savez(tmp_path / "t.npz", outputs=np.array(logits, np.float32))
    family = run(tmp_path, monkeypatch)
    check_folders(tmp_path, family, score=False)
    assert family["classes"] == ["long", "x", "y"]
    manifest = json.loads((tmp_path / "run" / "students" / "best" / "manifest.json").read_text())
    assert manifest["preprocessing"]["separator"] == SEPARATOR
