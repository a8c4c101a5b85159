"""What earlier searches of a run folder know, carried into one of other budgets, targets or precisions.

A changed budget is another study, for every constraint changes with it. Its scores need not be found again: the
candidates of the earlier studies are gone over in the order they were asked. Those whose score is known are told with
the costs and the constraint of the new budgets; those that were pruned and fit now are queued, until `search.trials`
are known or queued; only what is still missing is asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmark import Meter
from family.candidates import (
    budgets_kept,
    candidate_id,
    drawn_without_limits,
    told_cost,
    violation,
    without_samples,
)
from family.deaths import Unmeasurable, try_measuring
from family.job import Job, cost_limits
from family.progress import Stage
from family.run_folder import write_json

STUDIES = "studies.json"
WILL_COUNT = (TrialState.COMPLETE, TrialState.WAITING)
TOOK = ("judge_s", "worker")


@dataclass(frozen=True)
class Known:
    """A candidate that an earlier study asked for. `score`: None where it was pruned, NaN where it diverged."""

    origin: str
    trial: FrozenTrial
    params: Mapping[str, Any]
    score: float | None


def note_study(job: Job, study: optuna.Study, judged_by: str) -> None:
    """Write down that this run has this study, what its scores depend on, and whether it served a budget without
    limits."""
    noted = noted_studies(job)
    if study.study_name not in noted:
        about = {"judged_by": judged_by, "limitless": is_limitless(job)}
        write_json(job.folder / STUDIES, {**noted, study.study_name: about})


def is_limitless(job: Job) -> bool:
    """Whether some budget has no limit on costs: it takes any candidate, and gets a share of the draws."""
    return any(not cost_limits(budget) for budget in job.spec.budgets.values())


def noted_studies(job: Job) -> dict[str, dict[str, Any]]:
    """`{name: {judged_by, limitless}}`, the oldest first."""
    path = job.folder / STUDIES
    return dict(json.loads(path.read_text())) if path.exists() else {}


def carry_over(study: optuna.Study, job: Job, judged_by: str, benches: Mapping[str, Meter]) -> None:
    """Tell a study that has asked for nothing yet what earlier ones know; an interrupted carrying goes on.

    The study's `beyond` is by how much what is known and queued exceeds `search.trials`: all of it counts.
    """
    if "beyond" in study.user_attrs or any("origin" not in t.user_attrs for t in study.get_trials(deepcopy=False)):
        return
    noted = {n: about for n, about in noted_studies(job).items() if about["judged_by"] == judged_by}
    known = list(ask_earlier(study, job, [name for name in noted if name != study.study_name]))
    new_share = is_limitless(job) and not any(about["limitless"] for about in noted.values())
    for done, one in enumerate(known):
        job.watch(Stage("going over what earlier searches know", done, len(known)))
        carry(study, job, one, benches, new_share)
    states = [t.state for t in study.get_trials(deepcopy=False)]
    told, queued = states.count(TrialState.COMPLETE), states.count(TrialState.WAITING)
    study.set_user_attr("beyond", max(0, told + queued - job.spec.search.trials))
    if known:
        job.show(f"search: {told} candidates known from before keep the budgets of now, {queued} more are to be judged")


def ask_earlier(study: optuna.Study, job: Job, names: list[str]) -> Iterator[Known]:
    """Every candidate that studies `names` asked for themselves, in their order, with its score in any of them."""
    storage = study._storage
    there = {s.study_name for s in storage.get_all_studies()}
    trials = [
        (name, trial)
        for name in names
        if name in there
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        if trial.state.is_finished() and "candidate" in trial.user_attrs
    ]
    scores = {t.user_attrs["candidate"]["id"]: t.values[0] for _, t in trials if t.state == TrialState.COMPLETE}
    scores |= {t.user_attrs["candidate"]["id"]: math.nan for _, t in trials if t.state == TrialState.FAIL}
    for name, trial in trials:
        candidate = trial.user_attrs["candidate"]
        if "origin" not in trial.user_attrs and not candidate.get("predicted"):
            origin, params = f"{name}/{trial.number}", candidate["params"]
            yield Known(origin, trial, params, scores.get(candidate_id(job, params)))


def carry(study: optuna.Study, job: Job, known: Known, benches: Mapping[str, Meter], new_share: bool) -> None:
    """One candidate: told where its score is known or it fits nothing; queued where a limit takes it now that did not,
    or by a `new_share` of draws for budgets without limits."""
    there = study.get_trials(deepcopy=False)
    if known.origin in {t.user_attrs["origin"] for t in there}:
        return
    try:
        costs = try_measuring(job, known.params, benches)["costs"]
    except Unmeasurable as problem:
        job.show(f"warning: a student of an earlier search is left out; {problem}")
        return
    over = violation(job, costs)
    limited = any(cost_limits(budget) for budget in job.spec.budgets.values())
    wanted = (limited and over <= 0) or (new_share and drawn_without_limits(job, len(there)))
    if known.score is not None or (over > 0 and not wanted):
        tell(study, job, known, costs, list(benches))
    elif wanted and sum(t.state in WILL_COUNT for t in there) < job.spec.search.trials:
        study.enqueue_trial(known.trial.params, user_attrs={"origin": known.origin})


def tell(study: optuna.Study, job: Job, known: Known, costs: Mapping[str, Any], targets: list[str]) -> None:
    """Add a candidate whose score is known, or that fits nothing, as the study's own would stand there."""
    over = violation(job, costs)
    state = state_of(known.score, over <= 0 or is_limitless(job))
    candidate = known.trial.user_attrs["candidate"] | {
        "id": candidate_id(job, known.params),
        "violation": over,
        "costs": without_samples(costs),
        "fits": budgets_kept(job, costs),
    }
    told: dict[str, Any] = {"origin": known.origin, "known": True, "candidate": candidate}
    told |= {name: known.trial.user_attrs[name] for name in TOOK if name in known.trial.user_attrs}
    values = [known.score or 0.0, *(told_cost(job, costs, name) for name in targets)]
    study.add_trial(
        create_trial(
            state=state,
            values=values if state == TrialState.COMPLETE else None,
            params=known.trial.params,
            distributions=known.trial.distributions,
            user_attrs=told,
            constraints={"budgets": over},
        )
    )


def state_of(score: float | None, fits: bool) -> TrialState:
    """What becomes of a candidate whose score is known, or that fits nothing."""
    if score is None or not fits:
        return TrialState.PRUNED
    return TrialState.FAIL if math.isnan(score) else TrialState.COMPLETE
