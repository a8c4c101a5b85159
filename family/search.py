"""The search: Optuna asks, candidates that fit no budget are pruned untrained, the others are trained and told."""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from benchmark import Bench, host_fingerprint
from family import spaces
from family.candidates import (
    budgets_kept,
    candidate_id,
    drawn_without_limits,
    measure_untrained,
    opset,
    told_cost,
    violation,
)
from family.carry import carry_over, note_study
from family.engines import Judge, calibrate, open_judge
from family.job import Job, limits_of
from family.predicting import CostFilter, open_filter
from family.progress import Stage
from family.run_folder import content_id, write_beside
from family.sampling import even_draws, start_draws
from family.students import training_id
from family.types import Training
from family.workers import Alive, count_workers, start_workers, worker_name

Params = Mapping[str, Any]
JOURNAL = "study.log"
ASKS_PER_TRIAL = 20  # an endless run of infeasible asks ends here


@dataclass(frozen=True)
class Searched:
    """All candidates that were trained, and what the search took."""

    trials: list[dict[str, Any]]
    summary: dict[str, Any]
    calibration: list[tuple[float, float]]  # (estimate, val score) of students that are trained anyway
    exact: bool = True  # vals are those of trained students, and no estimates


def search(job: Job, recipe: Training, benches: Mapping[str, Bench]) -> Searched:
    """Run trials until `search.trials` are judged, or `search.minutes` are over. Resumes where it stopped."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    begin = time.monotonic()
    judge = open_judge(job, recipe)
    prepared = time.monotonic() - begin
    mend_journal(job.folder / JOURNAL)
    costs = open_filter(job, benches)
    if costs is not None:
        job.show(f"search: {costs.say()}")
    study = open_study(job, recipe, judge.name, list(benches))
    count_preparation(study, job, prepared)
    judged_by = content_id(job.student_id, training_id(job, recipe), judge.name)
    carry_over(study, job, judged_by, benches)
    note_study(job, study, judged_by)
    enqueue_start(study, job, costs)
    with start_workers(job, count_workers(job.spec.search.workers) - 1) as alive:
        for trial in trials_to_run(study, job, alive, judge.exact):
            run_trial(study, trial, job, judge, benches, costs)
    last = trials_to_run(study, job, lambda: frozenset({worker_name()}), judge.exact)
    for trial in last:  # what the last workers left
        run_trial(study, trial, job, judge, benches, costs)
    return summarise(study, judge, costs, calibrate(job, recipe, judge))


def join_search(job: Job, recipe: Training, benches: Mapping[str, Bench]) -> None:
    """What a further worker does in a search that another process has begun."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    judge = open_judge(job, recipe)
    costs = open_filter(job, benches)
    study = open_study(job, recipe, judge.name, list(benches))
    for trial in trials_to_run(study, job, None, judge.exact):
        run_trial(study, trial, job, judge, benches, costs)


def open_study(job: Job, recipe: Training, engine: str, targets: list[str]) -> optuna.Study:
    """The study of this space, recipe, engine, set of budgets and host; an earlier process's is taken up. What studies
    of other budgets know is carried into a new one (`carry.py`)."""
    storage = JournalStorage(JournalFileBackend(str(job.folder / JOURNAL)))
    direction = StudyDirection.MAXIMIZE if job.task.score.higher_is_better else StudyDirection.MINIMIZE
    return optuna.create_study(
        storage=storage,
        study_name=study_id(job, recipe, engine, targets),
        directions=[direction] + [StudyDirection.MINIMIZE] * len(targets),
        load_if_exists=True,
        sampler=ByNumber(job),
    )


def study_id(job: Job, recipe: Training, engine: str, targets: list[str]) -> str:
    """Stands for everything that a trial's values, constraint and costs depend on."""
    budgets = {name: [b.target, limits_of(b), b.cheapest_by] for name, b in job.spec.budgets.items()}
    measured = {name: [str(job.targets[name]), job.spec.main_cost(name)] for name in targets}
    trained = [job.student_id, training_id(job, recipe), engine]
    return content_id(trained, budgets, measured, job.precisions, opset(job), host_fingerprint())


def mend_journal(journal: Path) -> None:
    """Undo what a killed process left: a lock, and lines half written. The run folder is held, so both are ours."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    written = journal.read_bytes()
    whole = b"".join(line for line in written.splitlines(keepends=True) if is_whole(line))
    if whole != written:
        write_beside(journal, lambda beside: beside.write_bytes(whole))


def is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")


class ByNumber(BaseSampler):
    """Every trial by a sampler of its own, seeded by the trial's number, so that a resumed search asks what an
    unbroken one would have asked, and several workers never ask the same."""

    def __init__(self, job: Job):
        self.job = job

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return sampler(self.job, trial.number).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return sampler(self.job, trial.number).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        one = sampler(self.job, trial.number, param_name)
        return one.sample_independent(study, trial, param_name, param_distribution)


def sampler(job: Job, number: int, name: str = "") -> BaseSampler:
    """TPE; the draws of budgets without limits are random over the whole space: TPE follows the one constraint, and
    beside a tight budget it would hardly ever look at what only those budgets can use. `name`: of a dimension that is
    drawn alone, so that two of them do not get the same share."""
    seed = (job.spec.seed * 100_003 + number + (zlib.crc32(name.encode()) if name else 0)) % 2**32
    startup = max(8, job.spec.search.trials // 4)
    if number >= startup and drawn_without_limits(job, number):
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)


def enqueue_start(study: optuna.Study, job: Job, costs: CostFilter | None) -> None:
    """Queue the start-up draws, even in log cost, those not queued yet. However soon the search stops, large students
    were among them."""
    trials, queued = job.spec.search.trials, len(study.get_trials(deepcopy=False))
    count = min(max(8, trials // 4), trials)
    if queued >= count:
        return
    for params in draw_start(job, count, costs)[queued:]:
        study.enqueue_trial(dict(params))


def draw_start(job: Job, count: int, costs: CostFilter | None) -> list[Params]:
    """Start-up draws within what budgets allow, as far as costs can be predicted; the share of budgets without limits
    is drawn from the whole space."""
    if costs is None:
        return far_apart(even_draws(job, count))
    free = [drawn_without_limits(job, number) for number in range(count)]
    within = start_draws(job, count - sum(free), partial(costs.may_fit, job), costs.students) if not all(free) else []
    anywhere = even_draws(job, sum(free)) if any(free) else []
    lists = {False: iter(far_apart(within)), True: iter(far_apart(anywhere))}
    drawn: list[Params] = []
    for one in free:
        params = next(lists[one], None)
        if params is None:
            break
        drawn.append(params)
    return drawn


def far_apart(draws: Sequence[Params]) -> list[Params]:
    """Every draw once, the first and every further one far from those before: by their places' bits reversed
    (van der Corput)."""
    return [draws[i] for i in sorted(range(len(draws)), key=lambda i: int(f"{i:016b}"[::-1], 2))]


def trials_to_run(study: optuna.Study, job: Job, alive: Alive | None, exact: bool) -> Iterator[Trial]:
    """New asks until enough candidates are judged or the minutes are over (those of earlier processes count, so that
    a search that was over stays so). Who knows which workers are `alive` first takes up what others left running."""
    begin, before, first = time.monotonic(), study.user_attrs.get("seconds", 0.0), judged(study)
    wanted, minutes = trials_wanted(study, job), job.spec.search.minutes
    most = wanted * ASKS_PER_TRIAL
    while True:
        living = alive() if alive else frozenset()
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        left = [t for t in running if alive and is_left(t, living)]
        done = judged(study)
        if left:
            yield Trial(study, left[0]._trial_id)
            continue
        if done >= wanted or len(study.get_trials(deepcopy=False)) - waiting(study) >= most:
            return
        if minutes is not None and study.user_attrs.get("seconds", 0.0) > minutes * 60:
            job.show(f"search: stopped after {minutes:g} minutes")
            return
        if done + len(running) >= wanted:
            time.sleep(0.2)  # others run what is still wanted; some of it may be pruned
            continue
        pace = (time.monotonic() - begin) / (done - first) if done > first else None
        job.watch(stage_of(study, job, pace, exact))
        yield study.ask()
        study.set_user_attr("seconds", before + time.monotonic() - begin)


def count_preparation(study: optuna.Study, job: Job, seconds: float) -> None:
    """What the engine took to get ready counts as the search's, for at most half of the minutes: some candidates are
    judged in any case. Once: a resumed run's engine is ready."""
    if "seconds" not in study.user_attrs:
        most = (job.spec.search.minutes or math.inf) * 60 / 2
        study.set_user_attr("seconds", min(seconds, most))


def is_left(trial: FrozenTrial, alive: frozenset[str]) -> bool:
    """Whether a running trial is nobody's: of a dead worker, or of an earlier process of this name (this one is
    between two trials). One without a name has just been asked for, if others are there to ask."""
    worker = trial.user_attrs.get("worker")
    if worker is None:
        old = trial.datetime_start is not None and (datetime.now() - trial.datetime_start).total_seconds() > 60
        return old or alive == {worker_name()}
    return worker not in alive or worker == worker_name()


def trials_wanted(study: optuna.Study, job: Job) -> int:
    """How many are to be judged in all; with more than that known from before, those too."""
    return job.spec.search.trials + int(study.user_attrs.get("beyond", 0))


def waiting(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def stage_of(study: optuna.Study, job: Job, pace: float | None, exact: bool) -> Stage:
    """How far the search is; `pace`: seconds a trained candidate takes, None where that is not known yet; `exact`:
    its scores are those of trained students."""
    done, wanted, minutes = judged(study), trials_wanted(study, job), job.spec.search.minutes
    left = None if pace is None else (wanted - done) * pace
    if left is not None and minutes is not None:
        left = min(left, max(0.0, minutes * 60 - study.user_attrs.get("seconds", 0.0)))
    better = max if job.task.score.higher_is_better else min
    best: dict[str, float] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        for name in trial.user_attrs.get("fits", ()):
            best[name] = better(best.get(name, trial.values[0]), trial.values[0])
    shown = {name: best[name] for name in job.spec.budgets if name in best}
    return Stage("search", done, wanted, left, shown, about=not exact, note=say_infeasible(study))


def say_infeasible(study: optuna.Study) -> str:
    """How many of the asks no budget allows, and how many of these were only predicted."""
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    told = sum(t.user_attrs.get("predicted", False) for t in pruned)
    asked = len(pruned) + judged(study)
    return f"{len(pruned)} of {asked} asked fit no budget ({told} by prediction)" if pruned else ""


def judged(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def run_trial(
    study: optuna.Study,
    trial: Trial,
    job: Job,
    judge: Judge,
    benches: Mapping[str, Bench],
    predicted: CostFilter | None,
) -> None:
    """Prune the candidate where it is predicted to break every budget by far, or measured to fit none; else judge it
    and tell."""
    trial.set_user_attr("worker", worker_name())
    params = spaces.suggest(trial, job.space)
    trial.set_user_attr("id", candidate_id(job, params))
    trial.set_user_attr("params", params)
    free = drawn_without_limits(job, trial.number)
    if predicted is not None and not free:
        over, at_best = predicted.judge(job, params)
        if at_best > 0:
            trial.set_user_attr("predicted", True)
            prune(study, trial, over)
            return
    measured = measure_untrained(job, params, benches)
    costs = measured["costs"]
    over = violation(job, costs)
    trial.set_user_attr("fits", budgets_kept(job, costs))
    for name in ("export_s", "measure_s"):
        trial.set_user_attr(name, measured[name])
    if over > 0 and not free:
        prune(study, trial, over)
        return
    tell_violation(trial, over)
    begin = time.monotonic()
    score = judge.score(params)
    trial.set_user_attr("judge_s", time.monotonic() - begin)
    if math.isnan(score):
        job.show(f"trial {trial.number}: {describe(params)}  diverged")
        study.tell(trial, state=TrialState.FAIL)
        return
    costs_told = [told_cost(job, costs, name) for name in benches]
    study.tell(trial, [score, *costs_told])
    told = ", ".join(f"{job.spec.main_cost(n)} {c:.3g} on {n}" for n, c in zip(benches, costs_told, strict=True))
    val = "val" if judge.exact else "val about"
    job.show(f"trial {trial.number}: {describe(params)}  {val} {score:.4f}, {told}")


def prune(study: optuna.Study, trial: Trial, over: float) -> None:
    tell_violation(trial, over)
    study.tell(trial, state=TrialState.PRUNED)


def tell_violation(trial: Trial, over: float) -> None:
    if "budgets" not in trial.constraints:  # a trial that is taken up may have been told already
        trial.set_constraint("budgets", over)
    trial.set_user_attr("violation", over)


def describe(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in params.items())


def summarise(
    study: optuna.Study, judge: Judge, costs: CostFilter | None, calibration: list[tuple[float, float]]
) -> Searched:
    """Every candidate with what became of it, and the search's own figures."""
    trials = study.get_trials(deepcopy=False)
    rows = [
        {
            "number": t.number,
            "state": t.state.name.lower(),
            "id": t.user_attrs.get("id"),
            "params": t.user_attrs.get("params", t.params),
            "violation": t.user_attrs.get("violation"),
            "val": t.values[0] if t.values else None,
            **{name: t.user_attrs.get(name) for name in ("export_s", "measure_s", "judge_s", "worker")},
            "predicted": t.user_attrs.get("predicted", False),
        }
        for t in trials
        if t.state.is_finished()
    ]
    count = {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "fail")}
    summary = {"engine": judge.name, **judge.facts, "asked": len(rows), "trials": count["complete"]}
    summary |= {"pruned": count["pruned"], "diverged": count["fail"]}
    known = sum("known" in t.user_attrs for t in trials if t.state == TrialState.COMPLETE)
    summary |= {"known_from_before": known} if known else {}
    summary["infeasible_share"] = count["pruned"] / max(len(rows), 1)
    if costs is not None:
        summary |= {"predicted": sum(row["predicted"] for row in rows), "predicted_from": len(costs.students)}
        summary["prediction"] = dict(costs.said)
    return Searched(rows, summary, calibration, judge.exact)
