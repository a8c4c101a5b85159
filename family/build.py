"""The main job, told from the file to the family."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from family.builtin_teacher import is_trained
from family.candidates import open_benches
from family.checks import check_runtimes
from family.controls import train_controls
from family.deaths import explain_death
from family.errors import mistake
from family.finals import choose_students, could_win, finalist_rows, finish, measure_finalists, pick_finalists
from family.forecast import forecast, say_forecast
from family.guards import guard_students
from family.helpers import Ahead, open_helpers
from family.job import TEACHERS, Job, Show, open_job
from family.progress import Stage, Watch, watch_nothing
from family.recipe import find_recipe
from family.records import write_family
from family.run_folder import explain_disk_trouble, hold_run, write_json
from family.search import search
from family.spec import Spec
from family.stand_in import compare_untrained
from family.storages import check_url, hide_password
from family.summary import summary_table
from family.tables import write_search
from family.teacher_cost import measure_teacher
from family.teachers import teacher_score
from family.text.text_teacher import say_text_teacher
from reports import draw_report


@dataclass(frozen=True)
class Outcome:
    """What a run ends with. exit_code: 0 every budget has a student, 3 some is missed or skipped. `family`: what
    family.json holds; of a dry run the forecast."""

    exit_code: int
    family: Mapping[str, Any]
    run: Path
    table: str


def build(spec: Spec, run: Path | None, dry_run: bool, show: Show, watch: Watch = watch_nothing) -> Outcome:
    """Build the family of `spec` in `run`; resumes what an earlier process left there.

    `show` is told lines to keep, `watch` what is running.
    """
    check_machines(spec)
    folder = (run or Path("runs") / spec.name).absolute()
    with hold_run(folder), explain_disk_trouble(folder), explain_death():
        freeze_input(spec, folder)
        job = open_job(spec, folder, cache_folder(folder), show, watch, may_train=not dry_run)
        if dry_run and not teacher_is_there(job):
            show("note: the built-in teacher is trained by the first run, not by this dry run; it is not scored")
        else:
            score_teacher(job)
        check_runtimes(job)
        if dry_run:
            told = forecast(job)
            return Outcome(0, told, folder, say_forecast(told))
        if not job.measured_targets():
            return all_skipped(job)
        with open_helpers(job) as train_ahead:
            return build_family(job, train_ahead)


def build_family(job: Job, train_ahead: Ahead) -> Outcome:
    """Recipe, search, finals, choice, guards, controls, records, report."""
    recipe = find_recipe(job, train_ahead)
    with open_benches(job) as benches:
        searched = search(job, recipe.student, benches, train_ahead)
        finalists = pick_finalists(job, searched, recipe.student, benches, train_ahead)
        finalists = finish(job, finalists, recipe.student)
        finalists = could_win(job, finalists, recipe.student, benches)
        measured = measure_finalists(job, finalists, recipe.student, benches)
        teacher_latency = measure_teacher(job, benches)
        untrained = compare_untrained(job, finalists, recipe.student, measured, benches)
        rows = finalist_rows(job, finalists, recipe.student, measured)
        choices = choose_students(job, rows, finalists, recipe.student)
        guards = guard_students(job, choices, finalists, recipe.student, benches)
    chosen = {c.id: finalists[c.id] for c in choices.values() if c.status == "kept" and c.id is not None}
    train_controls(job, chosen, recipe, train_ahead)
    job.watch(Stage("reading test and writing the report"))
    write_search(job, searched)
    family = write_family(job, recipe, searched, rows, choices, finalists, teacher_latency, untrained, guards)
    page = draw_report(job.folder)
    table = summary_table(family) + f"\n\nreport: {page}"
    complete = all(entry["status"] == "kept" for entry in family["budgets"].values())
    return Outcome(0 if complete else 3, family, job.folder, table)


def check_machines(spec: Spec) -> None:
    """Raises Mistakes where the search's storage or cluster cannot be used, before any work."""
    if spec.search.storage is not None:
        check_url(spec.search.storage)
    elif spec.search.engine_cluster is not None:
        needs = "needs search.storage, which every node of the cluster can reach: postgresql://user@host/database."
        raise mistake("search.engine_cluster", needs)


def teacher_is_there(job: Job) -> bool:
    """Whether it can be asked without training it first, which only the built-in one may need."""
    builtin = any(teacher.path == "digits" for teacher in job.spec.teacher)
    return not builtin or is_trained(job.task, job.cache / TEACHERS)


def score_teacher(job: Job) -> None:
    """Say how good the teacher is on validation data, also on augmented views; near chance, the run stops here."""
    job.watch(Stage("asking the teacher about val"))
    outputs = job.teacher_outputs("val")
    if outputs is None:
        job.show(say_text_teacher(job.teacher))
        return
    found = teacher_score(job.teacher, job.task, outputs)
    said = f"teacher: val {job.task.score.name} {found.value:.4f} ({found.low:.4f} to {found.high:.4f})"
    augmented = job.augmented_score()
    job.show(said if augmented is None else f"{said}, {augmented:.4f} on augmented views of the same rows")


def all_skipped(job: Job) -> Outcome:
    """No target of any budget can be measured here: nothing is trained."""
    budgets = {
        name: {"status": "skipped", "target": budget.target, "reason": job.skipped[budget.target]}
        for name, budget in job.spec.budgets.items()
    }
    table = "\n".join(f"{name}: skipped, {entry['reason']}" for name, entry in budgets.items())
    return Outcome(3, {"format": 1, "name": job.spec.name, "budgets": budgets}, job.folder, table)


def freeze_input(spec: Spec, folder: Path) -> None:
    """Keep the run's own copy of its input, without a password."""
    kept = spec.model_dump(mode="json")
    if spec.search.storage is not None:
        kept["search"]["storage"] = hide_password(spec.search.storage)
    write_json(folder / "spec.json", kept)


def cache_folder(folder: Path) -> Path:
    """Where soft targets, teachers and resized data are kept for later runs too.

    STUDENT_FAMILY_CACHE, else the user's cache folder; the run folder where neither can be written.
    """
    home = os.environ.get("STUDENT_FAMILY_CACHE")
    if home:
        if not Path(home).is_absolute():
            raise mistake("STUDENT_FAMILY_CACHE", f"must be an absolute path. Got {home!r}.")
        return Path(home)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "student-family"
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError:
        return folder / "cache"
    return base if os.access(base, os.W_OK) else folder / "cache"
