"""Every loss, and labels alone, on one middle student: test score over three seeds on two data sets.

`python -P tests/perf/losses.py`, under three minutes. Digits with 200 labels; diamonds where
`examples/diamonds/prepare.py` has been run, else scikit-learn's breast cancer data with a small forest as
teacher. Each loss gets its own learning rate, chosen on validation data by runs of seed 0.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from benchmark import host
from family import spaces
from family.build import cache_folder
from family.job import Job, open_job
from family.losses import losses_for
from family.spec import read_spec
from family.train import predict, train
from family.types import Training

ROOT = Path(__file__).parents[2]
RATES, SEEDS, STEPS = (3e-3, 1e-2, 3e-2), 3, 300
DIGITS = """
data: {path: digits, keep_labels: 200}
teacher: digits
students: {space: mlp, dims: {width: [8, 32], depth: [1, 2]}}
budgets: {best: {target: cpu}}
"""
CANCER = """
data: {path: cancer.npz, label: label}
teacher: {path: teacher.npz, gives: probabilities}
students: {space: mlp, dims: {width: [8, 16], depth: [1, 2]}}
budgets: {best: {target: cpu}}
"""


def write_cancer(folder: Path) -> Path:
    """Breast cancer with a forest fitted on one half as stored outputs."""
    x, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(200, random_state=0).fit(x[::2], y[::2])
    np.savez(folder / "cancer.npz", numbers=x.astype(np.float32), label=y)
    np.savez(folder / "teacher.npz", outputs=forest.predict_proba(x).astype(np.float32))
    (folder / "budgets.yaml").write_text(CANCER)
    return folder / "budgets.yaml"


def find_specs(folder: Path) -> dict[str, Path]:
    (folder / "digits.yaml").write_text(DIGITS)
    diamonds = ROOT / "examples" / "diamonds"
    prepared = (diamonds / "data" / "teacher.npz").exists()
    second = ("diamonds", diamonds / "budgets.yaml") if prepared else ("breast cancer", write_cancer(folder))
    return {"digits": folder / "digits.yaml", second[0]: second[1]}


def try_loss(job: Job, name: str) -> tuple[float, list[float], float]:
    """The rate, test scores by seed, and seconds of one training."""
    store, task = job.soft_targets(), job.task
    base = Training(name, RATES[0], STEPS, seed=0, views=store.views)

    def run(training: Training) -> tuple[float, float]:
        module = spaces.build_student(job.space, spaces.middle(job.space), task, training.seed)
        trained = train(module, task, store, training)
        return trained.val_score, task.score.fn(task.labels("test"), predict(module, task, "test"))

    sign = 1 if task.score.higher_is_better else -1
    rate = max(RATES, key=lambda r: sign * run(replace(base, learning_rate=r))[0])
    start = time.perf_counter()
    scores = [run(replace(base, learning_rate=rate, seed=1 + seed))[1] for seed in range(SEEDS)]
    return rate, scores, (time.perf_counter() - start) / SEEDS


def main() -> None:
    print(f"{host()['cpu']}; {STEPS} steps of 64, {SEEDS} seeds")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, path in find_specs(folder).items():
            run = folder / label
            job = open_job(read_spec(path), run, cache_folder(run), lambda _: None)
            score = job.task.score
            teacher = score.fn(job.task.labels("test"), job.teacher_outputs("test"))
            rows = job.task.rows("train"), job.task.rows("transfer"), job.task.rows("test")
            print(f"\n{label}: {score.name}, {rows[0]} labelled + {rows[1]} transfer rows, {rows[2]} test rows")
            print(f"{'loss':14}{'rate':>8}{'mean':>9}{'sd':>8}{'s':>7}")
            for loss in losses_for(job.task.kind):
                rate, scores, seconds = try_loss(job, loss)
                print(
                    f"{loss:14}{rate:8g}{np.mean(scores):9.4f}{np.std(scores, ddof=1):8.4f}{seconds:7.1f}", flush=True
                )
            print(f"{'teacher':14}{'':8}{teacher:9.4f}")


if __name__ == "__main__":
    main()
