"""Controls: the chosen trained again beside the same students from labels alone; then test is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from family.helpers import Ahead, train_nothing
from family.job import Job
from family.progress import Stage
from family.recipe import Recipe
from family.run_folder import write_json
from family.students import outputs_of, train_candidate, why_unfaithful
from family.types import Training
from reports import difference, holm, verdict

FRESH = 1000  # the first of the paired seeds: none of them chose anything
FEWEST = 2  # pairs that a verdict needs where more than one was asked for
NO_VERDICT = "no verdict"


def paired_trainings(job: Job, recipe: Recipe) -> list[tuple[Training, Training]]:
    """(student, control) per fresh seed, of equal views and seed.

    Each has the learning rate, the steps (where none are given) and the start that were best for it on val, of the
    same choices and as many trials. Shared weights are those of the fresh seed, which chose nothing either.
    """
    seeds = [job.spec.seed + FRESH + i for i in range(job.spec.distill.control_seeds)]
    return [(replace(recipe.student, seed=s), replace(recipe.control, seed=s)) for s in seeds]


def train_controls(
    job: Job, chosen: Mapping[str, Mapping[str, Any]], recipe: Recipe, train_ahead: Ahead = train_nothing
) -> None:
    """Train and export every distinct chosen student and its control on every fresh seed."""
    pairs = paired_trainings(job, recipe)
    train_ahead([(params, training) for params in chosen.values() for pair in pairs for training in pair], ship=True)
    for done, (identity, params) in enumerate(chosen.items()):
        for pair, (student, control) in enumerate(pairs):
            seeds = job.spec.distill.control_seeds
            job.watch(Stage("training the chosen beside their controls", done * seeds + pair, len(chosen) * seeds))
            for training in (student, control):
                train_candidate(job, params, training)
                why_unfaithful(job, params, training)
        left_out = pairs_left_out(job, params, recipe)
        for seed, why in left_out.items():
            job.show(f"warning: seed {seed} of student {identity} is left out of its comparison; {why}")
        job.show(f"controls of {identity}: {job.spec.distill.control_seeds - len(left_out)} paired seeds trained")


def pairs_left_out(job: Job, params: Mapping[str, Any], recipe: Recipe) -> dict[int, str]:
    """Seeds of which the student's or the control's files are not what was trained, and why."""
    found = {}
    for student, control in paired_trainings(job, recipe):
        for who, training in (("the student", student), ("the control", control)):
            why = why_unfaithful(job, params, training)
            if why is not None:
                found[student.seed] = f"of {who} {why}"
    return found


def faithful_pairs(job: Job, params: Mapping[str, Any], recipe: Recipe) -> list[tuple[Training, Training]]:
    """The pairs that can be compared as they would ship."""
    left_out = pairs_left_out(job, params, recipe)
    return [pair for pair in paired_trainings(job, recipe) if pair[0].seed not in left_out]


def read_test(job: Job, who: str) -> int:
    """Write down that test is read, and by whom; the number of readings so far."""
    path = job.folder / "test-reads.json"
    reads = json.loads(path.read_text()) if path.exists() else []
    if who not in reads:
        write_json(path, [*reads, who])
        reads.append(who)
    return len(reads)


def compare(job: Job, params: Mapping[str, Any], precision: str, recipe: Recipe) -> dict[str, Any]:
    """Student against control on test, over rows and paired seeds, both as they would ship. `left_out`: seeds whose
    files are not what was trained, and why; where no pair is left, `difference` and scores are None."""
    pairs, left_out = faithful_pairs(job, params, recipe), pairs_left_out(job, params, recipe)
    if not pairs:
        nothing = dict.fromkeys(("difference", "control", "control_val", "student"))
        return {**nothing, "seeds": [], "left_out": left_out}
    ours = [outputs_of(job, params, student, precision, "test") for student, _ in pairs]
    theirs = [outputs_of(job, params, control, precision, "test") for _, control in pairs]
    truth, groups = job.task.labels("test"), job.task.groups("test")
    found = difference(job.task.score, truth, ours, theirs, groups)
    control = float(np.mean([job.task.score.fn(truth, outputs) for outputs in theirs]))
    student = float(np.mean([job.task.score.fn(truth, outputs) for outputs in ours]))
    on_val = [outputs_of(job, params, control, precision, "val") for _, control in pairs]
    val = float(np.mean([job.task.score.fn(job.task.labels("val"), outputs) for outputs in on_val]))
    scores = {"control": control, "control_val": val, "student": student}
    return {"difference": found, **scores, "seeds": [s.seed for s, _ in pairs], "left_out": left_out}


def judge(
    job: Job, compared: Mapping[tuple[str, str], Mapping[str, Any]], recipe: Recipe
) -> dict[tuple[str, str], str]:
    """The verdict on every distinct student, p-values adjusted by Holm over all of them; none where fewer than FEWEST
    pairs are left of those asked for."""
    if recipe.student.loss == "labels":
        return dict.fromkeys(compared, "labels alone chosen")
    needed = min(FEWEST, job.spec.distill.control_seeds)
    known = {key: found["difference"] for key, found in compared.items() if len(found["seeds"]) >= needed}
    adjusted = holm([found.p for found in known.values()])
    verdicts = {key: verdict(found, p) for (key, found), p in zip(known.items(), adjusted, strict=True)}
    return {key: verdicts.get(key, NO_VERDICT) for key in compared}
