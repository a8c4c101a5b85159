"""Who runs which trial: the turns of one worker among those that share a study.

A worker asks, measures, judges and tells. Where the study lives in a database (`search.storage`), workers of other
hosts join: one of the same host fingerprint does all of that; a guest, of another, never measures what a clock
decides, and trains what has been measured: such trials wait, with their costs beside them, and whoever makes one
running first has it (Optuna's compare-and-set).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from family.beats import Lookout, Pulse
from family.job import Job
from family.predicting import CostFilter
from family.progress import Stage
from family.workers import Alive, folder_name, worker_name

ASKS_PER_TRIAL = 20  # an endless run of infeasible asks ends here
AHEAD = 2  # measured candidates that wait for each guest: one more while it trains
CROWD = 1000  # workers that ask at one moment are fewer: with more room than that none is surplus
WATCH_S = 0.5  # going over all trials for the progress line takes as long as writing one
PAUSE_S = 0.2  # between two looks at a study on which others run all that is wanted
PAUSE_SHARED_S = 1.0

Measure = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Crew:
    """One worker's part. `measure`: None for a guest. `pulse`: None where one process sees all others.
    `is_left`: whether nobody works on a running trial. `leads`: it ends when the others' trials are told, too.
    `costs`: what tells whom no budget will take, unmeasured."""

    name: str
    targets: Sequence[str]
    measure: Measure | None
    is_left: Callable[[FrozenTrial], bool]
    lookout: Lookout
    pulse: Pulse | None = None
    leads: bool = False
    costs: CostFilter | None = None


@dataclass(frozen=True)
class Standing:
    """A study's trials as they stand at one moment."""

    trials: Sequence[FrozenTrial]

    def of(self, state: TrialState) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state == state]

    @property
    def asked(self) -> int:
        return len(self.trials) - len(self.of(TrialState.WAITING))


def look(study: optuna.Study) -> Standing:
    return Standing(study.get_trials(deepcopy=False))


def is_measured(trial: FrozenTrial) -> bool:
    return "candidate" in trial.user_attrs


def trials_to_run(study: optuna.Study, job: Job, crew: Crew, exact: bool) -> Iterator[Trial]:
    """This worker's turns until enough candidates are judged or the minutes are over (those of earlier processes
    count, so that a search that was over stays so). What others left running is taken up first."""
    begin, before = time.monotonic(), study.user_attrs.get("seconds", 0.0)
    wanted, pause = trials_wanted(study, job), PAUSE_SHARED_S if crew.pulse else PAUSE_S
    first, watched = None, -WATCH_S
    while True:
        now = look(study)
        done, running = len(now.of(TrialState.COMPLETE)), now.of(TrialState.RUNNING)
        first = done if first is None else first
        left = [t for t in running if crew.is_left(t) and (crew.measure or is_measured(t))]
        if left:
            yield Trial(study, left[0]._trial_id)
            continue
        if (over := why_over(study, job, now, done)) is not None:
            if crew.leads and running:
                time.sleep(pause)  # others are about to tell, or their silence will
                continue
            if over:
                job.show(over)
            return
        room = wanted - done - len(running)
        trial = take(study, now, room, crew)
        if trial is None or (room <= CROWD and put_back_surplus(study, trial, wanted)):
            time.sleep(pause)
            continue
        if time.monotonic() - watched > WATCH_S:
            watched = time.monotonic()
            pace = (watched - begin) / (done - first) if done > first else None
            job.watch(stage_of(study, job, now, pace, exact))
        yield trial
        study.set_user_attr("seconds", before + time.monotonic() - begin)


def why_over(study: optuna.Study, job: Job, now: Standing, done: int) -> str | None:
    """None while the search goes on; else what is to be said of its end."""
    minutes, wanted = job.spec.search.minutes, trials_wanted(study, job)
    if done >= wanted or now.asked >= wanted * ASKS_PER_TRIAL:
        return ""
    if minutes is not None and study.user_attrs.get("seconds", 0.0) > minutes * 60:
        return f"search: stopped after {minutes:g} minutes"
    return None


def take(study: optuna.Study, now: Standing, room: int, crew: Crew) -> Trial | None:
    """The next trial for this worker, made running; None where others run all that is still wanted (`room`: how many
    more). Queued ones go first; what was measured for guests is left to them, unless that is all that is wanted."""
    if room <= 0:
        return None
    if crew.pulse is None:
        return study.ask()
    queued = now.of(TrialState.WAITING)
    measured, bare = [t for t in queued if is_measured(t)], [t for t in queued if not is_measured(t)]
    if crew.measure is None:
        return claim(study, measured)
    help_out = len(measured) >= room or not crew.lookout.count_guests(study.user_attrs)
    trial = claim(study, [*bare, *(measured if help_out else ())])
    if trial is None:
        study._thread_local.cached_all_trials = None  # as study.ask does: the sampler sees what was told since
        trial = Trial(study, study._storage.create_new_trial(study._study_id))
    return trial


def claim(study: optuna.Study, queued: Sequence[FrozenTrial]) -> Trial | None:
    """The first of them that nobody else made running before."""
    for trial in queued:
        if study._storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
            study._thread_local.cached_all_trials = None
            return Trial(study, trial._trial_id)
    return None


def put_back_surplus(study: optuna.Study, trial: Trial, wanted: int) -> bool:
    """Queue a trial again where those with lower numbers are enough: several asked for the last ones at once."""
    now = look(study)
    before = [t for t in now.of(TrialState.RUNNING) if t.number < trial.number]
    if len(now.of(TrialState.COMPLETE)) + len(before) < wanted:
        return False
    study._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
    return True


def hand_over(study: optuna.Study, trial: Trial, crew: Crew) -> bool:
    """Let a measured trial wait for a guest, where some are short of them."""
    if crew.pulse is None or crew.measure is None:
        return False
    guests = crew.lookout.count_guests(study.user_attrs)
    if not guests:
        return False
    now = look(study)
    ready = sum(is_measured(t) for t in now.of(TrialState.WAITING))
    if ready >= AHEAD * guests:
        return False
    study._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
    return True


def left_by_process(alive: Alive, trial: FrozenTrial) -> bool:
    """Whether a running trial is nobody's: of a dead worker, or of an earlier process of this name (this one is
    between two trials). One without a name has just been asked for, if others are there to ask."""
    worker, living = trial.user_attrs.get("worker"), alive()
    if worker is None:
        old = trial.datetime_start is not None and (datetime.now() - trial.datetime_start).total_seconds() > 60
        return old or living == {worker_name()}
    return worker not in living or worker == worker_name()


def left_by_silence(job: Job, name: str, lookout: Lookout, alive: Alive | None, trial: FrozenTrial) -> bool:
    """The same where workers are on several hosts: of this run folder, by its processes; of others, by their pulse."""
    worker = str(trial.user_attrs.get("worker", ""))
    if worker == name:
        return True
    silent = lookout.is_abandoned(trial)
    if alive is not None and worker.endswith(folder_name(job)):
        return worker not in {worker_name(job, role) for role in alive()}
    return silent


def never_left(trial: FrozenTrial) -> bool:
    """For workers that leave it to the process that started them."""
    return False


def trials_wanted(study: optuna.Study, job: Job) -> int:
    """How many are to be judged in all; with more than that known from before, those too."""
    return job.spec.search.trials + int(study.user_attrs.get("beyond", 0))


def say_infeasible(now: Standing) -> str:
    """How many of the asks no budget allows, and how many of these were only predicted."""
    pruned = now.of(TrialState.PRUNED)
    told = sum(t.user_attrs.get("candidate", {}).get("predicted", False) for t in pruned)
    asked = len(pruned) + len(now.of(TrialState.COMPLETE))
    return f"{len(pruned)} of {asked} asked fit no budget ({told} by prediction)" if pruned else ""


def stage_of(study: optuna.Study, job: Job, now: Standing, pace: float | None, exact: bool) -> Stage:
    """How far the search is; `pace`: seconds a trained candidate takes, None where that is not known yet; `exact`:
    its scores are those of trained students."""
    complete, wanted, minutes = now.of(TrialState.COMPLETE), trials_wanted(study, job), job.spec.search.minutes
    left = None if pace is None else (wanted - len(complete)) * pace
    if left is not None and minutes is not None:
        left = min(left, max(0.0, minutes * 60 - study.user_attrs.get("seconds", 0.0)))
    better = max if job.task.score.higher_is_better else min
    best: dict[str, float] = {}
    for trial in complete:
        for name in trial.user_attrs.get("candidate", {}).get("fits", ()):
            best[name] = better(best.get(name, trial.values[0]), trial.values[0])
    shown = {name: best[name] for name in job.spec.budgets if name in best}
    return Stage("search", len(complete), wanted, left, shown, about=not exact, note=say_infeasible(now))
