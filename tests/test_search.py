"""The search on digits with made-up costs and scores: nothing is exported, measured or trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from benchmark import resolve_target
from family import spaces
from family.candidates import violation
from family.job import Job
from family.sampling import even_draws
from family.search import mend_journal, open_study, sampler, search
from family.spec import read_spec
from family.tasks import DataOptions, DataTask, open_task
from family.types import Training

RECIPE = Training("kd", 0.01, 10, 0)
SPEC = """
data: digits
teacher: digits
students: {space: mlp, dims: {width: [8, 256], depth: [1, 3]}}
budgets: BUDGETS
search: {trials: TRIALS, minutes: null, engine: tpe}
"""
FAR_APART = "{tiny: {target: cpu, latency_ms: 0.02}, large: {target: cpu, size_kb: 300}}"
SIZES = "{tiny: {target: cpu, size_kb: 5}, large: {target: cpu, size_kb: 300}}"
# A trial killed after it was measured has its constraint already; Optuna says so when it is taken up.
Costs = dict[str, dict[str, dict[str, dict[str, float]]]]


class Nobody:
    """A teacher that is not asked."""

    fingerprint = "nobody"


class Killed(BaseException):
    """Stands for a process that ends here."""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> DataTask:
    folder = tmp_path_factory.mktemp("digits")
    return open_task(DataOptions("digits", folder), folder)


def open_job(folder: Path, task: DataTask, budgets: str = SIZES, trials: int = 24) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "budgets.yaml").write_text(SPEC.replace("BUDGETS", budgets).replace("TRIALS", str(trials)))
    spec = read_spec(folder / "budgets.yaml")
    space = spaces.open_space(spec.students.space, spec.students.dims, folder, task)
    targets = {"cpu": resolve_target("cpu")}
    return Job(spec, folder, folder, task, Nobody(), space, targets, {}, "cpu", lambda _: None)  # type: ignore[arg-type]


def weights(params: dict) -> float:
    width, depth = params["width"], params["depth"]
    return 64 * width + (depth - 1) * width**2 + 10 * width


def say_costs(params: dict) -> Costs:
    """Four bytes a weight, and a latency that grows with them."""
    figures = {"size_kb": weights(params) * 4 / 1000, "latency_ms": 0.005 + weights(params) / 1e6}
    return {"cpu": {"fp32": {name: {"value": value} for name, value in figures.items()}}}


class Fakes:
    """What the search asked for, in order; larger students score better."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.measured: list[dict] = []
        self.designed: list[dict] = []  # to predict others from
        self.trained: list[dict] = []
        self.die_at: int | None = None
        patch.setattr("family.sampling.cost_proxy", lambda job, params: weights(dict(params)))
        patch.setattr("family.search.try_measuring", self.measure)
        patch.setattr("family.carry.try_measuring", self.measure)
        patch.setattr("family.predicting.try_measuring", self.measure_design)
        patch.setattr("family.engines.train_candidate", self.train)

    def measure(self, job: Job, params: dict, benches: dict) -> dict:
        self.measured.append(dict(params))
        return {"costs": say_costs(params), "export_s": 0.1, "measure_s": 0.4}

    def measure_design(self, job: Job, params: dict, benches: dict) -> dict:
        self.designed.append(dict(params))
        return {"costs": say_costs(params)}

    def train(self, job: Job, params: dict, recipe: Training) -> dict:
        if self.die_at == len(self.trained):
            raise Killed
        self.trained.append(dict(params))
        return {"val": 1 - 100 / (100 + weights(params)), "seconds": 2.0}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


def run(job: Job) -> list[dict]:
    """The trials, without the time that judging took."""
    trials = search(job, RECIPE, {"cpu": None}).trials  # type: ignore[dict-item]
    return [{name: value for name, value in trial.items() if name != "judge_s"} for trial in trials]


def size(params: dict) -> float:
    return say_costs(params)["cpu"]["fp32"]["size_kb"]["value"]


def late_sizes(folder: Path, task: DataTask, budgets: str) -> np.ndarray:
    """Sizes of the last 20 that were trained, of each of three searches."""
    sizes = []
    for seed in range(3):
        job = open_job(folder / str(seed), task, budgets, trials=40)
        job = replace(job, spec=job.spec.model_copy(update={"seed": seed}))
        done = [t for t in run(job) if t["state"] == "complete"]
        sizes += [size(t["params"]) for t in done[-20:]]
    return np.array(sizes)


def test_budgets_far_apart_are_both_served_by_the_later_draws(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    """Of 60 later draws a tenth at least lies under the tiny budget, and where only the large one allows it."""
    late = late_sizes(tmp_path, task, SIZES)
    assert len(late) == 60
    assert (late <= 5).sum() >= 6
    assert (late > 5).sum() >= 6
    assert (late > 50).sum() >= 3  # and not only just above the tiny one


def test_budgets_on_different_quantities_are_both_served(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    late = late_sizes(tmp_path, task, FAR_APART)
    assert (late <= 60).sum() >= 6  # 0.02 ms are 15,000 weights, 60 kB
    assert (late > 60).sum() >= 3


def test_violation_by_hand(tmp_path: Path, task: DataTask) -> None:
    budgets = "{a: {target: cpu, size_kb: 10, latency_ms: 1}, b: {target: cpu, size_kb: 40}}"
    job = open_job(tmp_path, task, budgets)

    def costs(*figures: tuple[float, float]) -> Costs:
        names = ("fp32", "int8")[: len(figures)]
        return {
            "cpu": {
                n: {"size_kb": {"value": s}, "latency_ms": {"value": ms}}
                for n, (s, ms) in zip(names, figures, strict=True)
            }
        }

    assert violation(job, costs((5, 0.8))) == pytest.approx(-0.875)  # b: 5/40 - 1; a: max(-0.5, -0.2)
    assert violation(job, costs((60, 0.5))) == pytest.approx(0.5)  # a is over by 5, b by a half
    assert violation(job, costs((60, 0.5), (48, 9))) == pytest.approx(0.2)  # the better precision counts
    assert violation(job, costs((11, 3))) == pytest.approx(-0.725)


def test_violation_without_limits_is_none(tmp_path: Path, task: DataTask) -> None:
    job = open_job(tmp_path, task, "{best: {target: cpu}, good: {target: cpu, score: 0.9}}")
    assert violation(job, say_costs({"width": 256, "depth": 3})) == 0.0


def test_an_infeasible_candidate_costs_no_training_step(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    trials = run(open_job(tmp_path, task, "{tiny: {target: cpu, size_kb: 8}}"))
    over = [t for t in trials if size(t["params"]) > 8]
    assert over
    assert {t["state"] for t in over} == {"pruned"}
    assert all(size(params) <= 8 for params in fakes.trained)
    assert len(fakes.trained) == 24
    assert len(fakes.measured) == sum(not t["predicted"] for t in trials)


def test_a_budget_without_limits_is_served_beside_a_tight_one(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    trials = run(open_job(tmp_path, task, "{tiny: {target: cpu, size_kb: 5}, best: {target: cpu}}"))
    sizes = np.array([size(t["params"]) for t in trials if t["state"] == "complete"])
    assert (sizes <= 5).sum() >= 4
    assert (sizes > 5).sum() >= 4
    assert (sizes > 100).sum() >= 1


def test_the_same_trial_number_asks_the_same(tmp_path: Path, task: DataTask) -> None:
    job = open_job(tmp_path, task)
    space = {"width": optuna.distributions.IntDistribution(8, 256, log=True)}

    def ask(number: int) -> int:
        study = optuna.create_study(sampler=sampler(job, number))
        return study.ask(space).params["width"]

    assert ask(5) == ask(5)
    assert len({ask(number) for number in range(8)}) > 3


@pytest.mark.parametrize("dies_at", [0, 10])
def test_a_search_killed_between_or_within_trials_asks_what_an_unbroken_one_asks(
    tmp_path: Path, task: DataTask, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    Fakes(monkeypatch)
    whole = run(open_job(tmp_path / "whole", task, trials=12))
    broken = open_job(tmp_path / "broken", task, trials=12)
    Fakes(monkeypatch).die_at = dies_at
    with pytest.raises(Killed):
        run(broken)
    Fakes(monkeypatch)
    assert run(broken) == whole


def test_a_running_trial_is_taken_up_with_its_own_parameters(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    job = open_job(tmp_path, task, trials=10)
    fakes.die_at = 2
    with pytest.raises(Killed):
        run(job)
    (left,) = open_study(job, RECIPE, "tpe", ["cpu"]).get_trials(states=(TrialState.RUNNING,))
    fakes.die_at = None
    trials = run(job)
    taken_up = next(t for t in trials if t["number"] == left.number)
    assert taken_up["params"] == left.params
    assert not open_study(job, RECIPE, "tpe", ["cpu"]).get_trials(states=(TrialState.RUNNING,))
    assert sum(t["state"] == "complete" for t in trials) == 10


def test_a_finished_search_asks_nothing_more(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    job = open_job(tmp_path, task, trials=9)
    first = run(job)
    asked = len(fakes.measured)
    assert run(job) == first
    assert len(fakes.measured) == asked


def test_start_up_draws_that_were_not_queued_yet_are_queued(
    tmp_path: Path, task: DataTask, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(open_job(tmp_path / "whole", task, trials=10))
    job, enqueue, left = open_job(tmp_path / "broken", task, trials=10), optuna.Study.enqueue_trial, [3]

    def enqueue_three(study: optuna.Study, params: dict) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        enqueue(study, params)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", enqueue_three)
    with pytest.raises(Killed):
        run(job)
    monkeypatch.setattr(optuna.Study, "enqueue_trial", enqueue)
    assert run(job) == whole


def test_minutes_that_are_over_stay_over(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    job = open_job(tmp_path, task, trials=10)
    search_settings = job.spec.search.model_copy(update={"minutes": 1e-6})
    job = replace(job, spec=job.spec.model_copy(update={"search": search_settings}))
    first = run(job)
    assert 0 < len(first) < 10
    assert run(job) == first
    longer = job.spec.search.model_copy(update={"minutes": 10})
    assert len(run(replace(job, spec=job.spec.model_copy(update={"search": longer})))) >= 10


def test_torn_lines_of_the_journal_are_cut(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    for written, whole in (
        (b'{"op": 1}\n{"op": 2}\n{"op":', b'{"op": 1}\n{"op": 2}\n'),
        (b'{"op": 1}\n{"op": 2}\n', b'{"op": 1}\n{"op": 2}\n'),
        (b'{"op":', b""),
        (b'{"op": 1}\n{"op":{"op": 2}\n{"op": 3}\n', b'{"op": 1}\n{"op": 3}\n'),  # two processes, one killed
        (b'{"op": 1}', b""),
    ):
        journal.write_bytes(written)
        (tmp_path / "study.log.lock").touch()
        mend_journal(journal)
        assert journal.read_bytes() == whole
        assert not (tmp_path / "study.log.lock").exists()
    mend_journal(tmp_path / "none.log")
    assert not (tmp_path / "none.log").exists()


@pytest.mark.parametrize("seed", [0, 1234, 2**31 - 1])
def test_any_seed_searches(tmp_path: Path, task: DataTask, fakes: Fakes, seed: int) -> None:
    job = open_job(tmp_path, task, "{tiny: {target: cpu, size_kb: 5}, best: {target: cpu}}", trials=12)
    trials = run(replace(job, spec=job.spec.model_copy(update={"seed": seed})))
    assert sum(t["state"] == "complete" for t in trials) == 12


def test_few_trials_see_large_students_too(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    job = open_job(tmp_path, task, "{best: {target: cpu}}", trials=3)
    sizes = sorted(size(t["params"]) for t in run(job))
    assert len(sizes) == 3
    assert sizes[-1] > 50 * sizes[0]


def test_other_precisions_are_another_study(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    job = open_job(tmp_path, task, trials=8)
    run(job)
    export = job.spec.export.model_copy(update={"precisions": ["fp32"]})
    asked = len(fakes.measured)
    run(replace(job, spec=job.spec.model_copy(update={"export": export})))
    assert len(fakes.measured) >= asked + 8


def test_a_search_goes_on_from_a_torn_journal(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    whole = run(open_job(tmp_path / "whole", task, trials=10))
    job = open_job(tmp_path / "torn", task, trials=10)
    fakes.trained.clear()
    fakes.die_at = 5
    with pytest.raises(Killed):
        run(job)
    with (job.folder / "study.log").open("ab") as journal:
        journal.write(b'{"op_code": 4, "worker')
    fakes.die_at = None
    assert run(job) == whole


def test_start_up_draws_are_even_in_log_cost(tmp_path: Path, task: DataTask) -> None:
    job = open_job(tmp_path, task)
    draws = even_draws(job, 8)
    costs = np.log([weights(dict(params)) for params in draws])
    gaps = np.diff(costs)
    assert draws[0] == spaces.smallest(job.space)
    assert draws[-1] == spaces.largest(job.space)
    assert (gaps > 0).all()
    assert gaps.max() < 1.6 * gaps.mean()
    assert gaps.min() > 0.4 * gaps.mean()
