"""Whether verdicts, kept budgets and the search mean what they say. Minutes: `pytest -m slow` runs them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.samplers import RandomSampler

from benchmark import PRESETS, Bench
from benchmark.models import hash_model
from family import spaces
from family.build import build
from family.candidates import limits_and_figures, measure_untrained
from family.job import Job, open_job
from family.search import search
from family.soft_targets import open_store
from family.spec import read_spec
from family.students import export_trained, outputs_of, train_candidate
from family.train import predict, train
from family.types import Training
from reports import difference, verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SMALL = """
name: small
seed: SEED
data: {path: digits, keep_labels: 200}
teacher: digits
students: {space: mlp, dims: {width: [8, 48], depth: [1, 2]}}
budgets:
BUDGETS
distill: {loss: kd, learning_rate: 0.01, steps: 120, views: 4, control_seeds: 2}
search: {trials: TRIALS, minutes: null}
"""
BEST = "  best: {target: cpu}"
CONTROL = Training("labels", 0.01, 120, seed=0, views=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def read(folder: Path, budgets: str = BEST, seed: int = 0, trials: int = 8):
    folder.mkdir(parents=True, exist_ok=True)
    text = SMALL.replace("BUDGETS", budgets).replace("SEED", str(seed)).replace("TRIALS", str(trials))
    (folder / "budgets.yaml").write_text(text)
    return read_spec(folder / "budgets.yaml")


@pytest.fixture(scope="module")
def job(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    return open_job(read(folder), folder / "run", cache, lambda _: None)


def outputs_on_test(job: Job, store, training: Training, seeds: range) -> list[np.ndarray]:
    """The middle student's test outputs, one training a seed."""
    found = []
    for seed in seeds:
        module = spaces.build_student(job.space, spaces.middle(job.space), job.task, seed)
        found.append(predict(train(module, job.task, store, replace(training, seed=seed)).module, job.task, "test"))
    return found


@pytest.fixture(scope="module")
def controls(job: Job) -> list[np.ndarray]:
    return outputs_on_test(job, job.soft_targets(), CONTROL, range(40))


def judge(job: Job, ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    found = difference(job.task.score, job.task.labels("test"), ours, theirs)
    return verdict(found, found.p)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_control_against_control_gives_a_verdict_in_at_most_1_of_20(
    job: Job, controls: list[np.ndarray], seeds: int
) -> None:
    """Both sides are trained alike; 2,000 draws of disjoint seeds from 40 trainings.

    With one seed a verdict speaks of these two models alone, so how models vary is no mistake of it: there the
    limit is not held, and only the figure is shown.
    """
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(2000):
        picked = rng.permutation(len(controls))[: 2 * seeds]
        ours, theirs = ([controls[i] for i in half] for half in np.split(picked, 2))
        told += judge(job, ours, theirs) in ("distillation helped", "labels alone were better")
    print(f"\ncontrol against control, {seeds} seeds: a verdict in {told / 20:.1f} % of 2,000")
    if seeds > 1:
        assert told / 2000 <= 0.05


def test_a_good_teacher_is_found_to_help(job: Job) -> None:
    """Both sides with 300 steps, the least that a run takes by itself: three disjoint sets of three seeds."""
    told = []
    for seeds in (range(3), range(3, 6), range(6, 9)):
        ours = train_kd(job, job.soft_targets(), seeds, steps=300)
        told.append(judge(job, ours, outputs_on_test(job, job.soft_targets(), replace(CONTROL, steps=300), seeds)))
    print(f"\ngood teacher: {told}")
    assert told == ["distillation helped"] * 3


def train_kd(job: Job, store, seeds: range, steps: int = 120) -> list[np.ndarray]:
    return outputs_on_test(job, store, replace(CONTROL, loss="kd", steps=steps), seeds)


class RandomTeacher:
    """Logits that have nothing to do with the rows."""

    views, notes, cost = None, (), {}

    def __init__(self, seed: int):
        self.seed, self.fingerprint = seed, f"random-{seed}"

    def outputs(self, split: str, rows: np.ndarray, view: int) -> np.ndarray:
        drawn = [np.random.default_rng([self.seed, len(split), view, int(r)]).normal(0, 3, 10) for r in rows]
        return np.array(drawn, np.float32)


def test_a_teacher_of_random_logits_is_not_found_to_help(job: Job, controls: list[np.ndarray], tmp_path: Path) -> None:
    told = []
    for i in range(3):
        store = open_store(RandomTeacher(i), job.task, 4, tmp_path)
        told.append(judge(job, train_kd(job, store, range(3 * i, 3 * i + 3)), controls[3 * i : 3 * i + 3]))
    print(f"\nrandom teacher: {told}")
    assert "distillation helped" not in told


def kept_latencies(run: Path) -> Iterator[tuple[Path, float]]:
    """File and limit of every kept latency budget."""
    for entry in json.loads((run / "family.json").read_text())["budgets"].values():
        if entry["status"] == "kept" and "latency_ms" in entry["limits"]:
            yield run / entry["student"] / "model.onnx", entry["limits"]["latency_ms"]["limit"]


def test_kept_latency_budgets_stay_kept_when_measured_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 limits set between the costs of the smallest and the largest student, measured 5 times more each."""
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(cache))
    build(read(tmp_path), tmp_path / "first", False, lambda _: None)
    rungs = json.loads((tmp_path / "first" / "measuring" / "ladder-cpu.json").read_text())["result"]
    costs = [rung["ms"] for rung in rungs]
    limits = np.geomspace(min(costs) * 1.05, max(costs) * 1.05, 12)
    budgets = "\n".join(f"  b{i}: {{target: cpu, latency_ms: {limit:.6f}}}" for i, limit in enumerate(limits))
    run = tmp_path / "run"
    build(read(tmp_path, budgets, trials=12), run, False, lambda _: None)
    kept = list(kept_latencies(run))
    stay, rounds = 0, 5
    ladder = json.loads((run / "measuring" / "ladder-cpu.json").read_text())["result"]
    for _ in range(rounds):
        references = sorted(run.glob("candidates/*/untrained/*/model.onnx"))
        with Bench(
            PRESETS["cpu"], pick_references(references, ladder), next(run.glob("measuring/feeds-*.npz")), ladder=ladder
        ) as bench:
            stay += sum(bench.paired(path, 0.5).value <= limit for path, limit in kept)
    print(f"\n{len(kept)} of 12 latency budgets kept; {stay} of {rounds * len(kept)} measurements anew keep them")
    assert len(kept) >= 5
    assert stay >= 0.95 * rounds * len(kept)


def pick_references(paths: list[Path], ladder: list[dict]) -> list[Path]:
    """Those files that the ladder was measured with, found by content."""
    wanted = {rung["sha256"] for rung in ladder}
    return list({digest: path for path in paths if (digest := hash_model(path)) in wanted}.values())


SIZES = "  tiny: {target: cpu, size_kb: 5}\n  small: {target: cpu, size_kb: 9}\n  large: {target: cpu, size_kb: 20}"
RECIPE = Training("kd", 0.01, 120, seed=0, views=4)


class SizeOnly:
    """A bench that measures nothing: size needs none."""

    def paired(self, path: Path, seconds: float) -> None:
        raise AssertionError("a size budget was timed")


def search_sizes(folder: Path, cache: Path, seed: int) -> tuple[Job, list[np.ndarray]]:
    """The best on val under each size budget, by its outputs on test."""
    job = open_job(read(folder, SIZES, seed, trials=12), folder / "run", cache, lambda _: None)
    job.folder.mkdir(parents=True)
    found = search(job, replace(RECIPE, seed=seed), {"cpu": SizeOnly()})  # type: ignore[dict-item]
    done = [t for t in found.trials if t["state"] == "complete"]
    return job, [best_under(job, done, budget, replace(RECIPE, seed=seed)) for budget in job.spec.budgets.values()]


def best_under(job: Job, done: list[dict], budget, recipe: Training) -> np.ndarray:
    one = replace(job, spec=job.spec.model_copy(update={"budgets": {"one": budget}}))
    fitting = []
    for trial in done:
        costs = measure_untrained(job, trial["params"], {"cpu": None})["costs"]  # type: ignore[dict-item]
        pairs = zip(costs["cpu"], limits_and_figures(one, costs), strict=True)
        fitting += [
            (trial["val"], p, trial["params"])
            for p, (lim, f) in pairs
            if all(f[q]["value"] <= v for q, v in lim.items())
        ]
    _, precision, params = max(fitting, key=lambda entry: entry[0])
    train_candidate(job, params, recipe)
    export_trained(job, params, recipe)
    return outputs_of(job, params, recipe, precision, "test")


def test_the_search_is_not_worse_than_random_search_of_equal_compute(cache: Path, tmp_path: Path) -> None:
    """As many candidates trained by both, three size budgets, three seeds; test rows drawn together across them."""
    ours, theirs, truths, ids = [], [], [], []
    for seed in range(3):
        job, found = search_sizes(tmp_path / f"tpe-{seed}", cache, seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "family.search.sampler",
                lambda job, number, name="": RandomSampler(seed=job.spec.seed * 1009 + number + len(name)),
            )
            patch.setattr("family.search.enqueue_start", lambda study, job, costs: None)
            _, drawn = search_sizes(tmp_path / f"random-{seed}", cache, seed)
        ours, theirs = [*ours, *found], [*theirs, *drawn]
        truths += [job.task.labels("test")] * len(found)
        ids += [job.task.row_ids("test")] * len(found)
    parts = [np.concatenate(each) for each in (truths, ours, theirs, ids)]
    gain = difference(job.task.score, parts[0], [parts[1]], [parts[2]], parts[3])
    means = [job.task.score.fn(parts[0], outputs) for outputs in parts[1:3]]
    print(
        f"\nsearch {means[0]:.4f}, random {means[1]:.4f}, difference {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
    )
    assert gain.low >= -0.01
