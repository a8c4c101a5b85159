"""The search: Optuna asks, candidates that fit no budget are pruned untrained, the others are trained and told."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from benchmark import Bench, host_fingerprint
from family import spaces
from family.candidates import budgets_kept, candidate_id, limits_and_figures, measure_untrained, violation
from family.job import Job, limits_of
from family.progress import Stage
from family.run_folder import content_id
from family.students import train_candidate
from family.types import Training

POOL = 256  # random draws from which the start-up draws are picked evenly in log cost
ASKS_PER_TRIAL = 20  # an endless run of infeasible asks ends here


@dataclass(frozen=True)
class Searched:
    """All candidates that were trained, and what the search took."""

    trials: list[dict[str, Any]]
    summary: dict[str, Any]


def search(job: Job, recipe: Training, benches: Mapping[str, Bench]) -> Searched:
    """Run trials until `search.trials` are trained, or `search.minutes` are over. Resumes where it stopped."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(job, recipe, list(benches))
    enqueue_start(study, job)
    for trial in trials_to_run(study, job):
        run_trial(study, trial, job, recipe, benches)
    return summarise(study)


def open_study(job: Job, recipe: Training, targets: list[str]) -> optuna.Study:
    """The study of this space, recipe, set of budgets and host; what an earlier process left running is taken up."""
    journal = job.folder / "study.log"
    trim_torn_line(journal)
    journal.with_name("study.log.lock").unlink(missing_ok=True)  # ours alone: the run folder is held
    storage = JournalStorage(JournalFileBackend(str(journal)))
    budgets = {name: [b.target, limits_of(b)] for name, b in job.spec.budgets.items()}
    direction = StudyDirection.MAXIMIZE if job.task.score.higher_is_better else StudyDirection.MINIMIZE
    return optuna.create_study(
        storage=storage,
        study_name=content_id(
            job.student_id,
            recipe.__dict__,
            budgets,
            targets,
            job.task.fingerprint,
            job.task.score.name,
            host_fingerprint(),
        ),
        directions=[direction] + [StudyDirection.MINIMIZE] * len(targets),
        load_if_exists=True,
    )


def trim_torn_line(journal: Path) -> None:
    """Cut a last line that a killed process left half written."""
    if journal.exists() and not (written := journal.read_bytes()).endswith(b"\n"):
        journal.write_bytes(written[: written.rfind(b"\n") + 1])


def sampler(job: Job, number: int) -> BaseSampler:
    """TPE seeded by the trial's number, so that a resumed search asks what an unbroken one would have asked.

    The draws of budgets without limits are random over the whole space: TPE follows the one constraint, and
    beside a tight budget it would hardly ever look at what only those budgets can use.
    """
    seed = job.spec.seed * 100_003 + number
    startup = max(8, job.spec.search.trials // 4)
    if number >= startup and drawn_without_limits(job, number):
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=False)


def enqueue_start(study: optuna.Study, job: Job) -> None:
    """Queue the start-up draws, even in log cost from the smallest student up; those not queued yet."""
    count, queued = max(8, job.spec.search.trials // 4), len(study.get_trials(deepcopy=False))
    if queued >= count:
        return
    for params in even_draws(job, count)[queued:]:
        study.enqueue_trial(dict(params))


def even_draws(job: Job, count: int) -> list[Mapping[str, Any]]:
    """`count` draws from a random pool, evenly spaced in the log of their multiply-accumulates."""
    rng = np.random.default_rng(job.spec.seed)
    pool = [spaces.smallest(job.space), spaces.largest(job.space)]
    pool += [spaces.sample(job.space, rng) for _ in range(POOL)]
    costs = np.log([cost_proxy(job, params) for params in pool])
    picked: list[int] = []
    for wish in np.linspace(costs.min(), costs.max(), min(count, len(pool))):
        left = [i for i in range(len(pool)) if i not in picked]
        picked.append(min(left, key=lambda i: abs(costs[i] - wish)))
    return [pool[i] for i in picked]


def cost_proxy(job: Job, params: Mapping[str, Any]) -> float:
    module = spaces.build_student(job.space, params, job.task, job.spec.seed)
    inputs = job.task.inputs("val", np.arange(1), 0)
    return spaces.count_macs(module, inputs) + spaces.count_parameters(module) + 1.0


def trials_to_run(study: optuna.Study, job: Job) -> Any:
    """First what an earlier process left running, then new asks, until enough candidates are trained or the
    minutes are over; those of earlier processes count, so that a search that was over stays so."""
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.sampler = sampler(job, frozen.number)
        yield Trial(study, frozen._trial_id)
    begin, before, first = time.monotonic(), study.user_attrs.get("seconds", 0.0), trained(study)
    most, minutes = job.spec.search.trials * ASKS_PER_TRIAL, job.spec.search.minutes
    while trained(study) < job.spec.search.trials and len(study.get_trials(deepcopy=False)) < most:
        if minutes is not None and study.user_attrs.get("seconds", 0.0) > minutes * 60:
            job.show(f"search: stopped after {minutes:g} minutes")
            return
        done = trained(study)
        pace = (time.monotonic() - begin) / (done - first) if done > first else None
        job.watch(stage_of(study, job, pace))
        study.sampler = sampler(job, len(study.get_trials(deepcopy=False)))
        yield study.ask()
        study.set_user_attr("seconds", before + time.monotonic() - begin)


def stage_of(study: optuna.Study, job: Job, pace: float | None) -> Stage:
    """How far the search is; `pace`: seconds a trained candidate takes, None where that is not known yet."""
    done, wanted, minutes = trained(study), job.spec.search.trials, job.spec.search.minutes
    left = None if pace is None else (wanted - done) * pace
    if left is not None and minutes is not None:
        left = min(left, max(0.0, minutes * 60 - study.user_attrs.get("seconds", 0.0)))
    better = max if job.task.score.higher_is_better else min
    best: dict[str, float] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        for name in trial.user_attrs.get("fits", ()):
            best[name] = better(best.get(name, trial.values[0]), trial.values[0])
    return Stage("search", done, wanted, left, {name: best[name] for name in job.spec.budgets if name in best})


def trained(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def run_trial(study: optuna.Study, trial: Trial, job: Job, recipe: Training, benches: Mapping[str, Bench]) -> None:
    """Measure the candidate untrained; prune it where it fits no budget, else train it and tell."""
    params = spaces.suggest(trial, job.space)
    measured = measure_untrained(job, params, benches)
    costs = measured["costs"]
    over = violation(job, costs)
    if "budgets" not in trial.constraints:  # a trial that is taken up may have been told already
        trial.set_constraint("budgets", over)
    trial.set_user_attr("violation", over)
    trial.set_user_attr("id", candidate_id(job, params))
    trial.set_user_attr("fits", budgets_kept(job, costs))
    for name in ("export_s", "measure_s"):
        trial.set_user_attr(name, measured[name])
    if over > 0 and not drawn_without_limits(job, trial.number):
        study.tell(trial, state=TrialState.PRUNED)
        return
    trained = train_candidate(job, params, recipe)
    score = trained["val"]
    trial.set_user_attr("train_s", trained["seconds"])
    if math.isnan(score):
        job.show(f"trial {trial.number}: {describe(params)}  diverged")
        study.tell(trial, state=TrialState.FAIL)
        return
    costs_told = [told_cost(job, costs, name) for name in benches]
    study.tell(trial, [score, *costs_told])
    told = ", ".join(f"{job.spec.main_cost(n)} {c:.3g} on {n}" for n, c in zip(benches, costs_told, strict=True))
    job.show(f"trial {trial.number}: {describe(params)}  val {score:.4f}, {told}")


def drawn_without_limits(job: Job, number: int) -> bool:
    """Budgets without limits get every n-th draw, n being the number of budgets."""
    free = [not (set(limits_of(b)) - {"score"}) for b in job.spec.budgets.values()]
    return free[number % len(free)]


def told_cost(job: Job, costs: Mapping[str, Any], target: str) -> float:
    """The target's main cost at the cheapest precision that keeps some budget there; of all where none does."""
    cost = job.spec.main_cost(target)
    kept = [
        figures
        for limits, figures in limits_and_figures(job, costs, target)
        if all(figures[quantity]["value"] <= limit for quantity, limit in limits.items())
    ]
    return float(min(figures[cost]["value"] for figures in kept or costs[target].values()))


def describe(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in params.items())


def summarise(study: optuna.Study) -> Searched:
    """Every candidate with what became of it, and the search's own figures."""
    trials = study.get_trials(deepcopy=False)
    rows = [
        {
            "number": t.number,
            "state": t.state.name.lower(),
            "id": t.user_attrs.get("id"),
            "params": t.params,
            "violation": t.user_attrs.get("violation"),
            "val": t.values[0] if t.values else None,
            **{name: t.user_attrs.get(name) for name in ("export_s", "measure_s", "train_s")},
        }
        for t in trials
        if t.state.is_finished()
    ]
    count = {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "fail")}
    summary = {"engine": "tpe", "asked": len(rows), "trials": count["complete"]}
    summary |= {"pruned": count["pruned"], "diverged": count["fail"]}
    summary["infeasible_share"] = count["pruned"] / max(len(rows), 1)
    return Searched(rows, summary)
