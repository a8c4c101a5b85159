"""What sharing a search costs: trials a second and milliseconds per ask and tell, with training that takes no time.

`python -P tests/perf/coordination.py [seconds [workers,…]]`, about a quarter of an hour on two cores. The study holds
10,000 trials already, as the search leaves them; then 1, 8 and 64 workers take turns as the search does (`family.crew`,
`family.search.run_trial`) for some seconds: on a journal file, on PostgreSQL, and on PostgreSQL placed by Ray. Only
measuring and training are left out: what remains is ask, sample, write, tell. Each cell is run with TPE, which looks at
all trials, and with random draws, as at the start of a search, which shows what the storage alone takes.

Workers, server and Ray share this machine. To be affordable, workers are forked from a process that has read the
study; 64 on Ray are 8 tasks of 8 workers. Needs a PostgreSQL server, and pip install 'student-family[postgres,ray]'.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import IntDistribution
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial

sys.path.insert(0, str(Path(__file__).parent.parent))
from servers import Postgres, find_program, start_postgres

from benchmark import host
from family.build import cache_folder
from family.crew import trials_to_run
from family.engines import Judge
from family.job import Job, open_job
from family.search import ByNumber, gather_crew, run_trial
from family.spec import read_spec
from family.studies import storage_of

TRIALS = 10_000
SECONDS = 15.0
SPEC = """
data: digits
teacher: digits
students: {space: mlp, dims: {width: [8, 512], depth: [1, 4]}}
budgets: {best: {target: cpu, size_kb: 100000}}
search: {trials: TRIALS, minutes: null, engine: tpe}
"""
STUDY = "perf"
WANTED = {"TPE": 20_000, "random": 100_000}  # a quarter of them is drawn at random
TASKS = 8


Told = tuple[int, list[float], list[float], list[float]]  # trials told; seconds of each ask, sampling, and the rest


def open_perf_job(folder: Path, storage: str | None, draws: str = "TPE") -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "budgets.yaml").write_text(SPEC.replace("TRIALS", str(WANTED[draws])))
    spec = read_spec(folder / "budgets.yaml")
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"storage": storage})})
    return open_job(spec, folder, cache_folder(folder), lambda _: None)


def measure_nothing(params: Any) -> dict[str, Any]:
    kb = params["width"] * 64 * 4 / 1000 + params["depth"]
    figure = {"quantity": "size_kb", "value": kb, "low": kb, "high": kb, "target": "cpu", "provenance": "static"}
    costs = {"cpu": {precision: {"size_kb": figure} for precision in ("fp32", "int8")}}
    return {"costs": costs, "export_s": 0.0, "measure_s": 0.0}


def finished_trial(rng: np.random.Generator, number: int) -> FrozenTrial:
    """As the search leaves it."""
    dims = {"width": IntDistribution(8, 512, log=True), "depth": IntDistribution(1, 4)}
    params = {"width": int(np.exp(rng.uniform(np.log(8), np.log(512)))), "depth": int(rng.integers(1, 5))}
    measured = measure_nothing(params)
    kb = measured["costs"]["cpu"]["fp32"]["size_kb"]["value"]
    candidate = {"id": f"{number:012}", "params": params, "violation": -0.5, "fits": ["best"], "host": "h", **measured}
    attrs = {"worker": "main", "candidate": candidate, "judge_s": 0.0, "beat": 1}
    return optuna.create_trial(
        values=[1 - 1 / params["width"], kb],
        params=params,
        distributions=dims,
        user_attrs=attrs,
        system_attrs={"constraints:budgets": -0.5},
    )


def fill(study: optuna.Study, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        study.add_trial(finished_trial(rng, number))


def fill_database(server: Postgres, study: optuna.Study) -> None:
    """One trial through Optuna, the others as copies of its rows with other parameters: one by one takes minutes."""
    fill(study, 1)
    copies = f"from generate_series(1, {TRIALS - 1}) n, "
    columns = "study_id, state, datetime_start, datetime_complete"
    of_new = "from trials t cross join {0} o where o.trial_id = (select min(trial_id) from trials) and t.number > 0"
    drawn = "case param_name when 'width' then floor(8 * 64 ^ random()) else floor(1 + 4 * random()) end"
    query(server, f"insert into trials (number, {columns}) select n, {columns} {copies} trials")
    for table, names in (
        ("trial_params", f"param_name, {drawn}, distribution_json"),
        ("trial_values", "objective, 1 / random(), value_type"),
        ("trial_user_attributes", "key, value_json"),
        ("trial_system_attributes", "key, value_json"),
    ):
        into = names.replace(drawn, "param_value").replace("1 / random()", "value")
        query(server, f"insert into {table} (trial_id, {into}) select t.trial_id, {names} {of_new.format(table)}")
    query(server, "analyze")


def query(server: Postgres, text: str, database: str = "postgres") -> None:
    environment = {**os.environ, "PGPASSWORD": "secret"}
    psql = [find_program("psql"), "-q", "-h", "127.0.0.1", "-p", str(server.port), "-U", "family", database, "-c", text]
    subprocess.run(psql, check=True, env=environment)


def open_perf_study(job: Job) -> optuna.Study:
    directions = ["maximize", "minimize"]
    return optuna.create_study(
        study_name=STUDY, storage=storage_of(job), directions=directions, load_if_exists=True, sampler=ByNumber(job)
    )


@dataclass(frozen=True)
class Place:
    """Where the workers of a cell run, and how they draw."""

    folder: Path
    storage: str | None
    draws: str
    signs: Path
    seconds: float


def open_place(place: Place) -> tuple[Job, optuna.Study]:
    """With all trials read."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job = open_perf_job(place.folder, place.storage, place.draws)
    study = open_perf_study(job)
    study.get_trials(deepcopy=False)
    return job, study


def run_forked(place: Place, numbers: Sequence[int]) -> list[Told]:
    """Workers as processes forked from this one, which has read the study: 64 need not load torch 64 times."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    job, study = open_place(place)

    def work(number: int) -> None:
        try:
            separate(study)
            results.put(run_worker(job, study, place, number))
        except BaseException as problem:  # who waits for its figures must hear of any end, sys.exit included
            results.put(problem)
            raise

    processes = [fork.Process(target=work, args=(number,)) for number in numbers]
    for process in processes:
        process.start()
    return gather(results.get, processes)


def separate(study: optuna.Study) -> None:
    """A forked process must not use its parent's connections, nor its name in the journal."""
    storage = study._storage
    if isinstance(storage, JournalStorage):
        storage._worker_id_prefix = storage._replay_result._worker_id_prefix = f"{uuid.uuid4()}-"
    else:
        storage.storage._backend.engine.dispose(close=False)


def run_worker(job: Job, study: optuna.Study, place: Place, number: int) -> Told:
    """Says that it is ready, waits for the others, takes turns for some seconds."""
    os.environ["STUDENT_FAMILY_WORKER"] = f"worker {number}"
    crew = gather_crew(study, job, ["cpu"], measure_nothing, None)
    judge = Judge("tpe", lambda params: 1 - 1 / params["width"], {}, 4)
    ask, sample, rest = [], [], []
    time_sampling(study.sampler, sample)
    (place.signs / f"ready-{number}").touch()
    while not (place.signs / "go").exists():
        time.sleep(0.02)
    with crew.pulse.beating() if crew.pulse else contextlib.nullcontext():
        turns, end = trials_to_run(study, job, crew), time.monotonic() + place.seconds
        while True:
            begin = time.monotonic()
            trial = next(turns)
            asked = time.monotonic()
            with crew.pulse.of(trial._trial_id) if crew.pulse else contextlib.nullcontext():
                run_trial(study, trial, job, judge, crew)
            done = time.monotonic()
            ask.append(asked - begin)
            rest.append(done - asked)
            if done > end:
                return len(ask) - 1, ask, sample, rest


def time_sampling(sampler: Any, into: list[float]) -> None:
    """Seconds that each relative sampling takes: the work of TPE over all trials."""
    inner = sampler.sample_relative

    def timed(*given: Any) -> Any:
        begin = time.monotonic()
        try:
            return inner(*given)
        finally:
            into.append(time.monotonic() - begin)

    sampler.sample_relative = timed


def gather(get: Callable[[], Any], processes: Sequence[Any]) -> list[Told]:
    cells = [get() for _ in processes]
    for process in processes:
        process.join()
    failed = [cell for cell in cells if isinstance(cell, BaseException)]
    if failed:
        raise failed[0]
    return cells


def run_here(place: Place, count: int) -> list[Told]:
    with begin_together(place, count):
        return run_forked(place, range(count))


def run_on_ray(place: Place, count: int) -> list[Told]:
    """One Ray task a worker, or for a group of workers."""
    import ray

    tasks = min(count, TASKS)
    ray.init(num_cpus=tasks, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        task = ray.remote(num_cpus=1, max_retries=0)(run_forked)
        with begin_together(place, count):
            groups = ray.get([task.remote(place, range(n, count, tasks)) for n in range(tasks)])
            return [told for group in groups for told in group]
    finally:
        ray.shutdown()


@contextmanager
def begin_together(place: Place, count: int) -> Iterator[None]:
    """Says go when all are ready."""
    place.signs.mkdir(parents=True)

    def wait() -> None:
        while len(list(place.signs.glob("ready-*"))) < count:
            time.sleep(0.05)
        (place.signs / "go").touch()

    threading.Thread(target=wait, daemon=True).start()
    yield


def show(kind: str, count: int, draws: str, cells: list[Told], seconds: float) -> None:
    told = sum(cell[0] for cell in cells)

    def median(part: int) -> str:
        values = [value for cell in cells for value in cell[part]]
        return f"{1000 * float(np.median(values)):.0f}" if values else "none"

    sample = median(2) if draws == "TPE" else "0"
    print(
        f"| {draws} | {kind} | {count} | {told / seconds:.1f} | {median(1)} | {median(3)} | {sample} |",
        flush=True,
    )


@contextmanager
def copy_database(server: Postgres, number: int) -> Iterator[str]:
    """A database like the filled one, made by the server's own copy."""
    name = f"cell_{number}"
    query(server, f"create database {name} template postgres", "template1")
    yield f"{server.url.rpartition('/')[0]}/{name}"


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    counts = [int(n) for n in sys.argv[2].split(",")] if len(sys.argv) > 2 else [1, 8, 64]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    facts = host()
    print(f"{facts['cpu']}, {facts['cores']} cores; optuna {optuna.__version__}; {seconds:g} s a cell")
    with tempfile.TemporaryDirectory() as name, start_postgres() as server:
        folder = Path(name)
        journal = open_perf_job(folder / "filled", None)
        begin = time.monotonic()
        fill(open_perf_study(journal), TRIALS)
        middle = time.monotonic()
        study = open_perf_study(open_perf_job(folder / "database", server.url))
        fill_database(server, study)
        study._storage.storage._backend.engine.dispose()  # a database with connections is not copied
        print(f"filled: journal {middle - begin:.0f} s, PostgreSQL {time.monotonic() - middle:.0f} s\n")
        print("| draws | workers on | workers | trials/s | ask, ms | measure to tell, ms | of which sampling |")
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
        cell = 0
        for draws in WANTED:
            for count in counts:
                cell += 1
                home = folder / f"cell-{cell}"
                shutil.copytree(folder / "filled", home)
                here = Place(home, None, draws, home / "signs", seconds)
                show("journal file", count, draws, run_here(here, count), seconds)
                for kind, run in (("PostgreSQL", run_here), ("PostgreSQL, placed by Ray", run_on_ray)):
                    cell += 1
                    with copy_database(server, cell) as url:
                        there = Place(folder / f"cell-{cell}", url, draws, folder / f"signs-{cell}", seconds)
                        show(kind, count, draws, run(there, count), seconds)


if __name__ == "__main__":
    main()
