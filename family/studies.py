"""The study of a search: where it lives, what it is called, and what the main command tells its workers there."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from family import spaces
from family.candidates import (
    EXTRA,
    is_of_part,
    is_static,
    measuring_place,
    open_benches,
    opset,
    parts_of,
)
from family.crew import Measure
from family.deaths import try_measuring
from family.engines import ENGINES, Judge
from family.errors import RunFailed
from family.job import Job, limits_of
from family.measurers import others_of
from family.run_folder import content_id, recall, remember
from family.spec import Spec
from family.storages import hide_password, open_storage
from family.students import training_id
from family.types import Training

JOURNAL = "study.log"
ALONE = ("tpe", "halving")  # engines that train every candidate by itself: any host may
LOOK_S = 1.0  # between two looks for a study that is not there yet

Params = Mapping[str, Any]


def storage_of(job: Job) -> BaseStorage:
    """The shared one that the file names, else a journal in the run folder."""
    if job.spec.search.storage is not None:
        return open_storage(job.spec.search.storage)
    return JournalStorage(JournalFileBackend(str(job.folder / JOURNAL)))


def study_id(job: Job, recipe: Training, engine: str, targets: Sequence[str]) -> str:
    """Stands for everything that a trial's values, constraint and costs depend on: what the input says, by which
    workers elsewhere find it, and what the main command found out on its host."""
    others = [other for name in targets for other in others_of(job, name)]
    return f"{input_id(job)}-{content_id(training_id(job, recipe), engine, list(targets), job.host, *others)}"


def input_id(job: Job) -> str:
    """Stands for what the same files say on any host."""
    budgets = {name: [b.target, limits_of(b), b.cheapest_by] for name, b in job.spec.budgets.items()}
    targets = {name: [target.id, job.spec.main_cost(name)] for name, target in job.targets.items()}
    taught = [job.task.fingerprint, job.task.score.name, job.teacher.fingerprint]
    return content_id(job.student_id, taught, budgets, targets, job.precisions, opset(job), *job.fed_by)


@dataclass(frozen=True)
class Joined:
    """A study that the main command has begun. `facts`: host, recipe, engine, targets, trials, minutes, probe."""

    study: optuna.Study
    facts: Mapping[str, Any]
    over: bool

    @property
    def recipe(self) -> Training:
        return Training(**self.facts["recipe"])


def publish(study: optuna.Study, job: Job, recipe: Training, judge: Judge, targets: Sequence[str]) -> None:
    """Tell workers elsewhere what the main command found out; from here on they join."""
    facts: dict[str, Any] = {
        "host": job.host,
        "begun": time.time(),
        "recipe": asdict(recipe),
        "engine": judge.name,
        "targets": list(targets),
    }
    facts |= {"trials": job.spec.search.trials, "minutes": job.spec.search.minutes, "probe": probe(job, judge)}
    study.set_user_attr("over", False)
    study.set_user_attr("facts", facts)


def probe(job: Job, judge: Judge) -> float | None:
    """What shared weights say of the middle student, for workers to compare theirs; None where there are none."""
    if judge.name in ALONE or job.spec.search.storage is None:
        return None
    score = judge.score(spaces.middle(job.space))
    return score if math.isfinite(score) else None


def find_study(job: Job, sampler: BaseSampler, name: str | None, wait_s: float) -> Joined:
    """The study called `name`, else the one of this input (of several, that of this host, or the latest); waits for
    it, and says so. Raises RunFailed after `wait_s` seconds.
    """
    storage, begin, said = storage_of(job), time.monotonic(), False
    while True:
        names = [each for each in optuna.get_all_study_names(storage) if is_of(job, each, name)]
        ready = [one for each in names if (one := look_at(storage, each, sampler)) is not None]
        if ready:
            return max(ready, key=lambda one: (not one.over, one.facts["host"] == job.host, one.facts["begun"]))
        place = hide_password(job.spec.search.storage or str(job.folder / JOURNAL))
        if time.monotonic() - begin >= wait_s:
            raise RunFailed(
                f"{place} holds no search of this input after {wait_s:g} s. Start the main command on the host that is "
                "to be measured, with the same file, data, teacher and storage."
            )
        if not said:
            job.show(f"waiting up to {wait_s:g} s for the main command to begin its search in {place}")
            said = True
        time.sleep(LOOK_S)


def is_of(job: Job, study: str, name: str | None) -> bool:
    return study == name if name else study.startswith(f"{input_id(job)}-")


def look_at(storage: BaseStorage, name: str, sampler: BaseSampler) -> Joined | None:
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    told = study.user_attrs
    return Joined(study, told["facts"], bool(told.get("over"))) if "facts" in told else None


def asked_for(spec: Spec, facts: Mapping[str, Any]) -> Spec:
    """As many trials and minutes, and the engine, as the main command has."""
    search = spec.search.model_copy(update={name: facts[name] for name in ("trials", "minutes", "engine")})
    return spec.model_copy(update={"search": search})


@contextlib.contextmanager
def open_measuring(job: Job, joined: Joined) -> Iterator[Measure | None]:
    """How this worker measures a candidate; None where its host must not: figures of unlike hosts never mix."""
    targets = joined.facts["targets"]
    if is_static(job):
        yield partial(try_measuring, job, benches=dict.fromkeys(targets))
    elif joined.facts["host"] == job.host and set(targets) <= set(job.measured_targets()):
        with open_benches(job) as benches:
            yield partial(try_measuring, job, benches={name: benches[name] for name in targets})
    else:
        job.show(f"this host ({job.host}) is not the one that is measured ({joined.facts['host']}): it trains only")
        yield None


def open_same_judge(job: Job, joined: Joined) -> Judge:
    """The engine of the main command. Raises RunFailed where its shared weights come out otherwise on this host."""
    judge, expected = ENGINES[joined.facts["engine"]](job, joined.recipe), joined.facts["probe"]
    if expected is not None and not math.isclose(judge.score(spaces.middle(job.space)), expected, abs_tol=1e-6):
        raise RunFailed(
            "The shared weights that rank this search come out otherwise on this host: its scores would not compare. "
            "Use a host like the main command's, or search.engine halving or tpe, where any host may train."
        )
    return judge


def keep_costs(study: optuna.Study, job: Job, targets: Sequence[str]) -> None:
    """Put what other hosts of this kind measured into this run folder, so that it is not measured again."""
    for trial in study.get_trials(deepcopy=False):
        candidate = trial.user_attrs.get("candidate", {})
        if "costs" not in candidate or not (candidate["host"] == job.host or is_static(job)):
            continue
        keep_cost(job, candidate, targets)


def keep_cost(job: Job, candidate: Mapping[str, Any], targets: Sequence[str]) -> None:
    """By target and part, as `measure_part` would have kept them."""
    for target, part in parts_of(job, targets):
        place = measuring_place(job, candidate["params"], target, part)
        if recall(*place) is None:
            told = candidate["costs"][target]
            figures = {p: {q: f for q, f in own.items() if is_of_part(q, part)} for p, own in told.items()}
            took = {name: 0.0 if part in EXTRA else candidate[name] for name in ("export_s", "measure_s")}
            remember(*place, partial(dict, {"figures": figures, **took}))
