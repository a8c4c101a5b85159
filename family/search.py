"""The search: Optuna asks, candidates that fit no budget are pruned untrained, the others are trained and told."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from benchmark import Meter
from family import spaces
from family.beats import Lookout, Pulse
from family.candidates import (
    budgets_kept,
    candidate_id,
    drawn_without_limits,
    say_cost,
    told_cost,
    violation,
    why_unfit,
    without_samples,
)
from family.carry import carry_over, note_study
from family.cluster import place_workers
from family.crew import Crew, Measure, hand_over, left_by_process, left_by_silence, never_left, trials_to_run
from family.deaths import Unmeasurable, try_measuring
from family.engines import Judge, calibrate, open_judge, to_calibrate
from family.helpers import Ahead, train_nothing
from family.job import Job
from family.predicting import CostFilter, open_filter, recall_filter
from family.run_folder import content_id, write_beside
from family.sampling import even_draws, start_draws
from family.storages import Patient
from family.students import training_id
from family.studies import (
    JOURNAL,
    asked_for,
    find_study,
    keep_costs,
    open_measuring,
    open_same_judge,
    publish,
    storage_of,
    study_id,
)
from family.types import Training
from family.workers import NAME, Alive, count_workers, start_workers, worker_name

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Searched:
    """All candidates that were trained, and what the search took."""

    trials: list[dict[str, Any]]
    summary: dict[str, Any]
    calibration: list[tuple[float, float]]  # (estimate, val score) of a small and a middle student
    exact: bool = True  # vals are those of trained students, and no estimates


def search(job: Job, recipe: Training, benches: Mapping[str, Meter], train_ahead: Ahead = train_nothing) -> Searched:
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
    publish(study, job, recipe, judge, list(benches))
    measure = partial(try_measuring, job, benches=benches)
    here, name = count_workers(job.spec.search.workers) - 1, study.study_name
    with start_workers(job, name, here) as alive, place_workers(job, name):
        run_turns(study, job, judge, gather_crew(study, job, list(benches), measure, alive, costs))
    last = gather_crew(study, job, list(benches), measure, alone, costs)  # what the last workers left
    run_turns(study, job, judge, last)
    study.set_user_attr("over", True)
    keep_costs(study, job, list(benches))
    train_ahead([(params, recipe) for params in to_calibrate(job, judge)])  # not sooner: candidates were timed
    return summarise(study, judge, costs, calibrate(job, recipe, judge))


def join_search(job: Job, study: str | None = None, wait_s: float = 0.0) -> int:
    """What a further worker does in a search that the main command has begun; how many candidates it judged.

    `study`: its name, where that is known; waits for it up to `wait_s` seconds. Raises RunFailed where there is none.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    joined = find_study(job, ByNumber(job), study, wait_s)
    if joined.over:
        job.show("this search is over")
        return 0
    job = replace(job, spec=asked_for(job.spec, joined.facts))
    with contextlib.ExitStack() as stack:
        measure = stack.enter_context(open_measuring(job, joined))
        judge = open_same_judge(job, joined)
        costs = recall_filter(job, joined.facts["targets"])
        crew = gather_crew(joined.study, job, joined.facts["targets"], measure, None, costs)
        return run_turns(joined.study, job, judge, crew)


def run_turns(study: optuna.Study, job: Job, judge: Judge, crew: Crew) -> int:
    """All of this worker's trials; how many it judged."""
    told = 0
    with crew.pulse.beating() if crew.pulse else contextlib.nullcontext():
        for trial in trials_to_run(study, job, crew, judge.exact):
            with crew.pulse.of(trial._trial_id) if crew.pulse else contextlib.nullcontext():
                told += run_trial(study, trial, job, judge, crew)
    return told


def gather_crew(
    study: optuna.Study,
    job: Job,
    targets: Sequence[str],
    measure: Measure | None,
    alive: Alive | None,
    costs: CostFilter | None,
) -> Crew:
    """This worker's part; `alive`: who of the main command's processes lives, for that command alone."""
    storage = study._storage
    if not isinstance(storage, Patient):
        is_left = partial(left_by_process, alive) if alive else never_left
        return Crew(worker_name(), targets, measure, is_left, Lookout(), costs=costs)
    name = worker_name(job) if alive else worker_name(job, os.environ.get(NAME, "worker"))
    lookout = Lookout(lambda: storage.back)
    pulse = Pulse(study, guest=name if measure is None else None)
    is_left = partial(left_by_silence, job, name, lookout, alive)
    return Crew(name, targets, measure, is_left, lookout, pulse, alive is not None, costs)


def alone() -> frozenset[str]:
    """Who lives of the main command's processes when its workers have ended."""
    return frozenset({worker_name()})


def open_study(job: Job, recipe: Training, engine: str, targets: list[str]) -> optuna.Study:
    """The study of this space, recipe, engine, set of budgets and host; an earlier process's is taken up. What studies
    of other budgets know is carried into a new one (`carry.py`)."""
    direction = StudyDirection.MAXIMIZE if job.task.score.higher_is_better else StudyDirection.MINIMIZE
    return optuna.create_study(
        storage=storage_of(job),
        study_name=study_id(job, recipe, engine, targets),
        directions=[direction] + [StudyDirection.MINIMIZE] * len(targets),
        load_if_exists=True,
        sampler=ByNumber(job),
    )


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
        self.seen = TPESampler(multivariate=True)  # goes on where it stopped, instead of over all trials again

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        one = sampler(self.job, trial.number)
        return (self.seen if isinstance(one, TPESampler) else one).infer_relative_search_space(study, trial)

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


def count_preparation(study: optuna.Study, job: Job, seconds: float) -> None:
    """What the engine took to get ready counts as the search's, for at most half of the minutes: some candidates are
    judged in any case. Once: a resumed run's engine is ready."""
    if "seconds" not in study.user_attrs:
        most = (job.spec.search.minutes or math.inf) * 60 / 2
        study.set_user_attr("seconds", min(seconds, most))


def run_trial(study: optuna.Study, trial: Trial, job: Job, judge: Judge, crew: Crew) -> bool:
    """Prune the candidate where it is predicted to break every budget by far, or measured to fit none; fail one that
    what measures dies of; else judge it and tell. Whether it was judged here: it may be left to a guest, or another
    worker may have told it meanwhile."""
    try:
        trial.set_user_attr("worker", crew.name)
        candidate = trial.user_attrs.get("candidate")
        if candidate is None:
            free = drawn_without_limits(job, trial.number)
            candidate = (None if free else predict_candidate(trial, job, crew)) or measure_candidate(trial, job, crew)
            if candidate["violation"] > 0 and not free:
                study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
                return False
            if hand_over(study, trial, crew):
                return False
        judge_candidate(study, trial, candidate, job, judge, crew.targets)
    except Unmeasurable as problem:
        trial.set_user_attr("unmeasurable", str(problem))
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        job.show(f"warning: trial {trial.number}: {describe(trial.params)}  is left out; {problem}")
        return False
    except UpdateFinishedTrialError:
        job.show(f"trial {trial.number}: another worker has told it")
        return False
    return True


def predict_candidate(trial: Trial, job: Job, crew: Crew) -> dict[str, Any] | None:
    """What is told of a candidate that breaks every budget even at its predicted best; None of all others."""
    if crew.costs is None:
        return None
    params = spaces.suggest(trial, job.space)
    over, at_best = crew.costs.judge(job, params)
    return keep_candidate(trial, job, params, over, {"predicted": True}) if at_best > 0 else None


def measure_candidate(trial: Trial, job: Job, crew: Crew) -> dict[str, Any]:
    """What is known of it before training, kept beside the trial: costs without their samples, violation, …"""
    assert crew.measure is not None
    params = spaces.suggest(trial, job.space)
    measured = crew.measure(params)
    costs = without_samples(measured["costs"])
    over = violation(job, costs)
    found = {"costs": costs, "fits": budgets_kept(job, costs), "host": job.host}
    found |= {name: measured[name] for name in ("export_s", "measure_s")}
    found |= {"untold": why} if (why := why_unfit(job, costs)) else {}
    return keep_candidate(trial, job, params, over, found)


def keep_candidate(trial: Trial, job: Job, params: Params, over: float, found: Mapping[str, Any]) -> dict[str, Any]:
    if "budgets" not in trial.constraints:  # a trial that is taken up may have been told already
        trial.set_constraint("budgets", over)
    candidate = {"id": candidate_id(job, params), "params": dict(params), "violation": over, **found}
    trial.set_user_attr("candidate", candidate)
    return candidate


def judge_candidate(
    study: optuna.Study, trial: Trial, candidate: Mapping[str, Any], job: Job, judge: Judge, targets: Sequence[str]
) -> None:
    params, begin = candidate["params"], time.monotonic()
    score = judge.score(params)
    trial.set_user_attr("judge_s", time.monotonic() - begin)
    if math.isnan(score):
        job.show(f"trial {trial.number}: {describe(params)}  diverged")
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        return
    costs_told = [told_cost(job, candidate["costs"], name) for name in targets]
    study.tell(trial, [score, *costs_told], skip_if_finished=True)
    told = ", ".join(say_cost(job, candidate["costs"], name) for name in targets)
    val = "val" if judge.exact else "val about"
    job.show(f"trial {trial.number}: {describe(params)}  {val} {score:.4f}, {told}")


def describe(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in params.items())


def summarise(
    study: optuna.Study, judge: Judge, costs: CostFilter | None, calibration: list[tuple[float, float]]
) -> Searched:
    """Every candidate with what became of it, and the search's own figures."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    rows = [row_of(t, t.user_attrs.get("candidate", {})) for t in trials]
    count = {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "fail")}
    summary = {"engine": judge.name, **judge.facts, "asked": len(rows), "trials": count["complete"]}
    unmeasurable = sum(row["unmeasurable"] is not None for row in rows)
    summary |= {"pruned": count["pruned"], "diverged": count["fail"] - unmeasurable}
    summary |= {"unmeasurable": unmeasurable} if unmeasurable else {}
    known = sum("known" in t.user_attrs for t in trials if t.state == TrialState.COMPLETE)
    summary |= {"known_from_before": known} if known else {}
    summary["infeasible_share"] = count["pruned"] / max(len(rows), 1)
    if costs is not None:
        summary |= {"predicted": sum(row["predicted"] for row in rows), "predicted_from": len(costs.students)}
        summary["prediction"] = dict(costs.said)
    return Searched(rows, summary, calibration, judge.exact)


def row_of(trial: FrozenTrial, candidate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "id": candidate.get("id"),
        "params": candidate.get("params", trial.params),
        "violation": candidate.get("violation"),
        "val": trial.values[0] if trial.values else None,
        "export_s": candidate.get("export_s"),
        "measure_s": candidate.get("measure_s"),
        "predicted": candidate.get("predicted", False),
        "untold": candidate.get("untold"),
        **{name: trial.user_attrs.get(name) for name in ("judge_s", "worker", "unmeasurable")},
    }
