"""What a device's profile does not reach is said with its reason, in the search, the dry run and the tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from benchmark import Measurement, measurement_to_dict
from family.candidates import say_cost, told_cost, violation, why_unfit
from family.entries import find_untold
from family.finals import flat_figures, is_cheaper
from family.forecast import fit_budgets, say_forecast
from family.job import Job, open_job
from family.predicting import told_of_all
from family.search import Searched
from family.spec import read_spec
from family.summary import say_way_out
from family.tables import cost_names, write_search
from family.untold import UNKNOWN, told_alone

FILE = """
data: digits
teacher: digits
students: {space: mlp, dims: {width: [16, 48], depth: [1, 2]}}
budgets: {watch: {target: cpu, latency_ms: 1}}
export: {precisions: [fp32, int8]}
"""
WHY = "it is beyond what profile 12ab was calibrated on: fmla 9, calibrated from 1 to 5"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("untold")
    (folder / "budgets.yaml").write_text(FILE)
    spec = read_spec(folder / "budgets.yaml")
    return open_job(spec, folder / "run", folder / "cache", lambda _: None, may_train=False)


def figure(quantity: str, value: float, why: str = "") -> dict[str, object]:
    return measurement_to_dict(Measurement(quantity, value, value, value, (), "cpu", "estimated", why, "here"))


def costs(**latency: float) -> dict[str, object]:
    """By precision; NaN is beyond the profile."""
    return {
        "cpu": {
            p: {"size_kb": figure("size_kb", 9.0), "latency_ms": figure("latency_ms", ms, WHY)}
            for p, ms in latency.items()
        }
    }


BEYOND = costs(fp32=np.nan, int8=np.nan)


def test_a_trial_says_why_and_shows_no_number_for_it(job: Job) -> None:
    assert told_cost(job, BEYOND, "cpu") == UNKNOWN  # the search must be told something
    assert say_cost(job, BEYOND, "cpu") == f"on cpu its latency_ms is untold: {WHY}"
    assert say_cost(job, costs(fp32=np.nan, int8=0.5), "cpu") == "latency_ms 0.5 on cpu"


def test_what_no_precision_tells_fits_nothing_and_has_a_reason(job: Job) -> None:
    assert violation(job, BEYOND) > 0
    assert why_unfit(job, BEYOND) == f"its latency_ms is untold: {WHY}"
    assert why_unfit(job, costs(fp32=np.nan, int8=2.0)) is None


def test_the_dry_run_says_untold_and_warns_with_the_reason(job: Job) -> None:
    fits = {
        "smallest": fit_budgets(job, costs(fp32=np.nan, int8=1.4)),
        "middle": fit_budgets(job, BEYOND),
        "largest": fit_budgets(job, BEYOND),
    }
    assert fits["middle"] == {"watch": {"status": "untold", "why": f"its latency_ms is untold: {WHY}"}}
    time = {"minutes": 1, "minutes_at_most": 1, "trainings": 1, "steps": 1, "step_ms": 1, "engine": "tpe"}
    students = {size: {"params": {"width": 16}, "budgets": own} for size, own in fits.items()}
    said = say_forecast({"students": students, "forecast": time})
    assert "smallest student (width 16): watch over by 40%" in said
    assert "middle student (width 16): watch untold" in said
    assert f"none of these fits watch; the nearest is over by 40%; its latency_ms is untold: {WHY}" in said
    assert "times the limit" not in said


def test_the_table_of_trials_has_the_reason_in_place_of_a_violation(job: Job) -> None:
    row = {"number": 0, "state": "pruned", "params": {}, "violation": 1e9, "untold": "its latency_ms is untold"}
    write_search(job, Searched([row, row | {"number": 1, "violation": 0.5, "untold": None}], {}, []))
    kept = pd.read_parquet(job.folder / "trials.parquet")
    assert kept["violation"].isna().tolist() == [True, False]
    assert kept["untold"].fillna("").tolist() == ["its latency_ms is untold", ""]


def test_a_budget_that_is_missed_for_it_says_so(job: Job) -> None:
    rows = pd.DataFrame([flat_figures(BEYOND["cpu"][p]) for p in ("fp32", "int8")])
    assert rows["latency_ms_untold"].tolist() == [WHY, WHY]
    why = find_untold(rows, ["size_kb", "latency_ms", "score"])
    assert why == f"its latency_ms is untold: {WHY}"
    entry = {"status": "missed", "relax": {}, "untold": why}
    assert say_way_out(entry) == f"no student could be measured against its limits; {why}"
    told = pd.DataFrame([flat_figures(costs(fp32=0.5)["cpu"]["fp32"]), flat_figures(BEYOND["cpu"]["int8"])])
    assert find_untold(told, ["latency_ms"]) is None


def test_no_step_after_takes_what_is_untold_for_a_figure() -> None:
    told, beyond = costs(fp32=0.5)["cpu"]["fp32"], BEYOND["cpu"]["fp32"]
    flat = flat_figures(beyond)
    assert np.isnan(flat["latency_ms"])
    assert cost_names(flat) == ["size_kb"]
    assert told_of_all([costs(fp32=0.5), BEYOND], "cpu", "fp32") == {"size_kb"}
    assert not is_cheaper(beyond, told)
    assert list(told_alone(json.loads(json.dumps(beyond)))) == ["size_kb"]
