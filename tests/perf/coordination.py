"""What sharing a search costs: trials a second and milliseconds per ask and tell, with training that takes no time.

`python -P tests/perf/coordination.py [seconds] [workers,…]`, about half an hour on two cores. The study holds 10,000
trials already (two parameters, costs and constraint as the search writes them); then 1, 8 and 64 workers run
`family.crew` and `family.search` for some seconds each: on a journal file, on PostgreSQL, and on PostgreSQL placed by
Ray. Only measuring and training are left out, so what remains is coordination: ask, sample, write, tell. All workers,
the server and Ray share this machine. Needs a PostgreSQL server, and pip install 'student-family[postgres,ray]'.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import IntDistribution
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
search: {trials: 20000, minutes: null, engine: tpe}
"""
STUDY = "perf"


@dataclass(frozen=True)
class Cell:
    """Of one worker in the measured seconds: trials told, and seconds of each ask, each sampling, each rest."""

    told: int
    ask: list[float]
    sample: list[float]
    rest: list[float]


def open_perf_job(folder: Path, storage: str | None) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "budgets.yaml").write_text(SPEC)
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


def run_worker(folder: Path, storage: str | None, number: int, signs: Path, seconds: float) -> Cell:
    """Opens everything, says that it is ready, waits for the others, works for `seconds`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job = open_perf_job(folder / f"worker-{number}" if storage else folder, storage)
    os.environ["STUDENT_FAMILY_WORKER"] = f"worker {number}"
    study = open_perf_study(job)
    study.get_trials(deepcopy=False)
    crew = gather_crew(study, job, ["cpu"], measure_nothing, None)
    judge = Judge("tpe", lambda params: 1 - 1 / params["width"], {}, 4)
    sample: list[float] = []
    time_sampling(study.sampler, sample)
    (signs / f"ready-{number}").touch()
    while not (signs / "go").exists():
        time.sleep(0.02)
    ask, rest, told = [], [], 0
    with crew.pulse.beating() if crew.pulse else open(os.devnull) as pulse:  # noqa: PTH123
        turns, end = trials_to_run(study, job, crew), time.monotonic() + seconds
        while True:
            begin = time.monotonic()
            trial = next(turns)
            asked = time.monotonic()
            if crew.pulse:
                with pulse.of(trial._trial_id):
                    run_trial(study, trial, job, judge, crew)
            else:
                run_trial(study, trial, job, judge, crew)
            done = time.monotonic()
            if done > end:
                return Cell(told, ask, sample, rest)
            told += 1
            ask.append(asked - begin)
            rest.append(done - asked)


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


def run_forked(folder: Path, storage: str | None, count: int, seconds: float) -> list[Cell]:
    """Workers as processes of this machine. Forked, so that 64 of them need not load torch 64 times."""
    fork = multiprocessing.get_context("fork")
    folder.mkdir(parents=True, exist_ok=True)
    signs, results = Path(tempfile.mkdtemp(dir=folder)), fork.SimpleQueue()

    def work(number: int) -> None:
        try:
            results.put(run_worker(folder, storage, number, signs, seconds))
        except BaseException as problem:
            results.put(problem)
            raise

    processes = [fork.Process(target=work, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    wait_until_ready(signs, count)
    return gather(results.get, processes, count)


def gather(get: Callable[[], Any], processes: list[Any], count: int) -> list[Cell]:
    cells = [get() for _ in range(count)]
    for process in processes:
        process.join()
    failed = [cell for cell in cells if not isinstance(cell, Cell)]
    if failed:
        raise failed[0]
    return cells


def wait_until_ready(signs: Path, count: int) -> None:
    while len(list(signs.glob("ready-*"))) < count:
        time.sleep(0.05)
    (signs / "go").touch()


def run_on_ray(folder: Path, storage: str | None, count: int, seconds: float) -> list[Cell]:
    """One Ray task a worker, all on this machine."""
    import ray

    ray.init(num_cpus=count, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        signs = Path(tempfile.mkdtemp(dir=folder))
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        task = ray.remote(num_cpus=1, max_retries=0)(run_worker)
        tasks = [task.remote(folder, storage, number, signs, seconds) for number in range(count)]
        wait_until_ready(signs, count)
        return list(ray.get(tasks))
    finally:
        ray.shutdown()


Run = Callable[[Path, str | None, int, float], list[Cell]]


def show(kind: str, count: int, cells: list[Cell], seconds: float) -> None:
    told = sum(cell.told for cell in cells)

    def median(name: str) -> str:
        values = [value for cell in cells for value in getattr(cell, name)]
        return f"{1000 * float(np.median(values)):.0f}" if values else "over the box"

    print(
        f"| {kind} | {count} | {told / seconds:.1f} | {median('ask')} | {median('sample')} | {median('rest')} |",
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
        print("| workers on | workers | trials/s | ask, ms | of the rest sampling, ms | rest, ms |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for number, count in enumerate(counts):
            place = folder / f"journal-{count}"
            shutil.copytree(folder / "filled", place)
            show("journal file", count, run_forked(place, None, count, seconds), seconds)
            for offset, (kind, run) in enumerate(
                (("PostgreSQL", run_forked), ("PostgreSQL, placed by Ray", run_on_ray))
            ):
                with copy_database(server, 2 * number + offset) as url:
                    show(kind, count, run(folder / f"{offset}-{count}", url, count, seconds), seconds)


if __name__ == "__main__":
    main()
