"""A further control of texts: TF-IDF with a linear model, from labels and from the teacher's answers.

It counts words and pairs of words, and takes seconds to fit. Where it beats a student, that is said.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from family.job import Job
from family.progress import Stage
from family.run_folder import remember, write_beside
from family.soft_targets import teacher_classes
from family.tasks.text_task import TextTask
from family.types import VALUES, Kind, Split
from reports import difference, score_interval

VERSION = 2
TERMS = 100_000  # the most frequent words and pairs of words
ROWS = 50_000  # texts that are learnt from at most
STRENGTHS = {"classes": (1.0, 8.0, 64.0, 512.0), "values": (0.03, 0.3, 3.0)}  # C, or alpha; the best on val is taken
SURE = 10.0  # logit of a class that every text learnt from has
TIMED = 50  # texts of test, one at a time
Answer = Callable[[csr_matrix], np.ndarray]
TAUGHT = ("labels", "teacher")


def fit_tfidf(job: Job) -> dict[str, dict[str, Any]]:
    """`{labels, teacher: {rows, strength, terms, size_kb, ms, val, test}}`; nothing where the data are no texts. Reads
    test. Fitted once, outputs kept beside."""
    if not isinstance(job.task, TextTask):
        return {}
    return {taught: dict(remember(*tfidf_place(job, taught), partial(fit_one, job, taught))) for taught in TAUGHT}


def tfidf_place(job: Job, taught: str) -> tuple[Path, list[Any]]:
    inputs = [job.task.fingerprint, job.task.score.name, job.teacher.fingerprint, VERSION]
    return job.folder / "tfidf" / f"{taught}.json", inputs


def tfidf_outputs(job: Job, taught: str, split: Split) -> np.ndarray:
    """(rows, outputs) of val or test, as a student's."""
    return np.asarray(np.load(tfidf_place(job, taught)[0].with_name(f"{taught}-{split}.npy")))


def fit_one(job: Job, taught: str) -> dict[str, Any]:
    task = job.task
    assert isinstance(task, TextTask)
    job.watch(Stage(f"fitting TF-IDF with a linear model on {'labels' if taught == 'labels' else 'the answers'}"))
    texts, wanted = list_lessons(job, task, taught)
    counter = open_counter(texts)
    seen = counter.fit_transform(texts)
    scored: tuple[Split, ...] = ("val", "test")
    sides = {split: task.sentences(split, np.arange(task.rows(split))) for split in scored}
    counted = {split: counter.transform(own) for split, own in sides.items()}
    val, better = task.labels("val"), 1 if task.score.higher_is_better else -1
    tried = {}
    for strength in STRENGTHS["values" if task.kind in VALUES else "classes"]:
        answer, weights = fit_linear(seen, wanted, task.kind, strength, int(task.body.outputs[0].shape[1]))
        tried[strength] = (task.score.fn(val, answer(counted["val"])), answer, weights)
    strength = max(tried, key=lambda one: better * tried[one][0])
    _, answer, weights = tried[strength]
    scores: dict[str, Any] = {}
    for split, own in counted.items():
        outputs = answer(own).astype(np.float32)
        keep(tfidf_place(job, taught)[0].with_name(f"{taught}-{split}.npy"), outputs)
        scores[split] = vars(score_interval(task.score, task.labels(split), outputs, task.groups(split)))
    size = 4 * weights + sum(len(term.encode()) for term in counter.vocabulary_)
    return {
        "rows": len(texts),
        "strength": strength,
        "terms": len(counter.vocabulary_),
        "size_kb": size / 1000,
        "ms": time_one(lambda text: answer(counter.transform([text])), sides["test"][:TIMED]),
        **scores,
    }


def open_counter(texts: Sequence[str]) -> TfidfVectorizer:
    """Counts words; where the texts hold none, as of emoji alone, what stands between spaces."""
    pattern = r"\b\w+\b" if any(re.search(r"\w", text) for text in texts) else r"\S+"
    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=TERMS, token_pattern=pattern)


def list_lessons(job: Job, task: TextTask, taught: str) -> tuple[list[str], np.ndarray]:
    """Texts, and what is learnt of them: labels of train, or what the teacher says of train and transfer, its likeliest
    class or its values."""
    splits: tuple[Split, ...] = ("train",) if taught == "labels" else ("train", "transfer")
    texts, answers = [], []
    for split in splits:
        rows = np.arange(task.rows(split))
        if not len(rows):
            continue
        texts += task.sentences(split, rows)
        answers.append(task.labels(split) if taught == "labels" else hear_teacher(job, split, rows))
    wanted = np.concatenate(answers)
    drawn = np.sort(np.random.default_rng(0).permutation(len(texts))[:ROWS])
    return [texts[i] for i in drawn], wanted[drawn]


def hear_teacher(job: Job, split: Split, rows: np.ndarray) -> np.ndarray:
    """(rows,) its likeliest classes; (rows, k) of labels 0 and 1, or its values."""
    if job.task.kind == "classification":
        return teacher_classes(job.soft_targets(), split, rows)
    said = job.soft_targets().batch(split, rows, np.zeros(len(rows), np.int64)).logits
    assert said is not None
    return np.asarray((said > 0).float().numpy() if job.task.kind == "multilabel" else said.numpy())


def fit_linear(seen: csr_matrix, wanted: np.ndarray, kind: Kind, strength: float, outputs: int) -> tuple[Answer, int]:
    """What answers counted texts, (n, outputs) logits or values, and how many weights it has."""
    if kind in VALUES:
        ridge = Ridge(alpha=strength).fit(seen, wanted)
        return lambda x: np.asarray(ridge.predict(x)).reshape(x.shape[0], -1), int(np.size(ridge.coef_))
    if kind == "multilabel":
        parts = [fit_classes(seen, column, strength) for column in wanted.T]
        several = lambda x: np.stack([decide(*part, x, 2)[:, 1] for part in parts], 1)  # noqa: E731
        return several, sum(np.size(model.coef_) for model, _ in parts if model is not None)
    model, only = fit_classes(seen, wanted, strength)
    return lambda x: decide(model, only, x, outputs), 0 if model is None else int(np.size(model.coef_))


def fit_classes(seen: csr_matrix, wanted: np.ndarray, strength: float) -> tuple[Any, int]:
    """A logistic regression, or None and the only class that there is."""
    if len(np.unique(wanted)) < 2:
        return None, int(wanted[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=300).fit(seen, wanted.astype(np.int64)), -1


def decide(model: Any, only: int, x: csr_matrix, outputs: int) -> np.ndarray:
    """Logits (n, outputs); classes that were never seen have one that cannot win."""
    if model is None:
        return np.tile(np.where(np.arange(outputs) == only, SURE, -SURE), (x.shape[0], 1))
    told = model.decision_function(x)
    told = np.stack([-told / 2, told / 2], 1) if told.ndim == 1 else told
    logits = np.full((x.shape[0], outputs), told.min() - SURE)
    logits[:, model.classes_] = told
    return logits


def time_one(answer: Callable[[str], object], texts: Sequence[str]) -> float:
    """Median milliseconds of one text, of this thread's own time."""
    taken = []
    for text in texts:
        start = time.thread_time()
        answer(text)
        taken.append((time.thread_time() - start) * 1000)
    return float(np.median(taken))


def keep(path: Path, outputs: np.ndarray) -> None:
    def save(beside: Path) -> None:
        with beside.open("wb") as handle:
            np.save(handle, outputs)

    write_beside(path, save)


def hold_against(job: Job, student: np.ndarray, found: Mapping[str, Any]) -> dict[str, Any]:
    """`{taught: difference}` on test, positive where the student (its outputs there) is better, and `wins`: the TF-IDF
    that is shown to be better, the best of them, or None."""
    truth, groups = job.task.labels("test"), job.task.groups("test")
    gaps = {
        taught: difference(job.task.score, truth, [student], [tfidf_outputs(job, taught, "test")], groups)
        for taught in found
    }
    lost = {taught: gap.value for taught, gap in gaps.items() if gap.high < 0}
    told = {taught: {"value": gap.value, "low": gap.low, "high": gap.high} for taught, gap in gaps.items()}
    return {**told, "wins": min(lost, key=lambda one: lost[one]) if lost else None}
