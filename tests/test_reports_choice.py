"""The frontier and the rules by which a budget gets its student."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import SCORES, choose, frontier

ACCURACY, MAE = SCORES["accuracy"], SCORES["mae"]
GRID = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(points=st.lists(GRID, max_size=25), higher=st.booleans())
def test_a_frontier_holds_every_row_that_nothing_beats_and_no_other(points, higher):
    rows = pd.DataFrame(points, columns=["cost", "score"], dtype=float)
    kept = frontier(rows, "cost", "score", higher)

    def is_beaten(a, b):
        as_good = b["score"] >= a["score"] if higher else b["score"] <= a["score"]
        differs = (a["cost"], a["score"]) != (b["cost"], b["score"])
        return b["cost"] <= a["cost"] and as_good and differs

    listed = rows.to_dict("records")
    expected = [i for i, a in enumerate(listed) if not any(is_beaten(a, b) for b in listed)]
    assert sorted(kept.index) == expected
    assert kept["cost"].is_monotonic_increasing


def test_a_frontier_leaves_out_what_is_not_known():
    rows = pd.DataFrame({"cost": [1, np.nan], "score": [0.5, 0.9]})
    assert list(frontier(rows, "cost", "score", True).index) == [0]


def test_a_frontier_of_what_nobody_told_is_empty():
    rows = pd.DataFrame({"score": [0.5, 0.9]})
    assert len(frontier(rows, "cost", "score", True)) == 0
    assert len(frontier(rows, "score", "cost", True)) == 0
    assert len(frontier(rows.assign(cost=np.nan), "cost", "score", True)) == 0
    assert len(frontier(rows.assign(cost=[None, None]), "cost", "score", True)) == 0


def make(rows, wrong, count=400):
    """Rows (id, latency, size) whose accuracy is that of the first `wrong` rows being wrong."""
    truth, outputs, table = np.zeros(count, int), {}, []
    for (id, latency, size), errors in zip(rows, wrong, strict=True):
        right = np.arange(count) >= errors
        outputs[(id, "fp32")] = np.stack([right, ~right], axis=1).astype(float)
        table.append(
            {
                "id": id,
                "precision": "fp32",
                "val": right.mean(),
                "latency_ms": latency,
                "latency_ms_low": latency * 0.95,
                "latency_ms_high": latency * 1.05,
                "latency_ms_provenance": "measured:host",
                "size_kb": size,
                "size_kb_low": size,
                "size_kb_high": size,
                "size_kb_provenance": "static",
            }
        )
    return pd.DataFrame(table), truth, outputs


ROWS = [("small", 0.1, 10.0), ("middle", 0.5, 50.0), ("large", 0.97, 200.0), ("huge", 2.0, 900.0)]
WRONG = [80, 22, 20, 4]


def pick(limits, cost="latency_ms", rows=ROWS, wrong=WRONG, **more):
    table, truth, outputs = make(rows, wrong)
    return choose(limits, cost, table, truth, outputs, ACCURACY, **more)


def test_the_bad_end_must_keep_the_limit():
    assert pick({"latency_ms": 1.0}, rows=ROWS[2:], wrong=WRONG[2:]).status == "missed"
    kept = pick({"latency_ms": 1.02}, rows=ROWS[2:], wrong=WRONG[2:])
    assert (kept.status, kept.id) == ("kept", "large")


def test_among_level_scores_the_cheapest_wins_and_the_record_says_what_was_measured():
    choice = pick({"latency_ms": 1.1})
    assert (choice.status, choice.id, choice.precision) == ("kept", "middle", "fp32")
    assert choice.limits["latency_ms"] == {
        "limit": 1.1,
        "measured": 0.5,
        "low": pytest.approx(0.475),
        "high": pytest.approx(0.525),
        "provenance": "measured:host",
    }
    assert choice.relax == {}
    assert choice.nearest is None


def test_without_limits_the_best_wins():
    assert pick({}).id == "huge"
    assert pick({}, cost=None, rows=ROWS[:3], wrong=WRONG[:3]).id == "middle"


def test_the_main_cost_decides_among_level_ones():
    rows = [("light", 0.9, 10.0), ("quick", 0.1, 90.0)]
    assert pick({}, rows=rows, wrong=[20, 20]).id == "quick"
    assert pick({}, cost="size_kb", rows=rows, wrong=[20, 20]).id == "light"
    assert pick({}, cost=None, rows=rows, wrong=[20, 20]).id == "light"


def test_a_runner_up_with_room_is_preferred():
    rows = [("a", 0.5, 50.0), ("b", 0.9, 60.0), ("c", 0.2, 5.0)]
    choice = pick({"latency_ms": 1.0}, rows=rows, wrong=[20, 21, 90])
    assert choice.id == "a"
    assert choice.runner_up == {"id": "c", "precision": "fp32"}
    assert pick({"latency_ms": 1.0}, rows=rows[:2], wrong=[20, 21]).runner_up == {
        "id": "b",
        "precision": "fp32",
    }


def test_a_score_limit_takes_the_cheapest_that_surely_keeps_it():
    # 22 of 400 wrong: 94.5 % with a low end of 91.8 %.
    assert pick({"score": 0.91}).id == "middle"
    assert pick({"score": 0.93}).id == "huge"
    assert pick({"score": 0.93}).limits["score"]["provenance"] == "val"


def test_a_score_limit_of_an_error_counts_its_upper_end():
    truth = np.zeros((100, 1))
    outputs = {(n, "fp32"): np.random.default_rng(0).normal(size=(100, 1)) * s for n, s in (("a", 0.1), ("b", 1.0))}
    table = pd.DataFrame({"id": ["a", "b"], "precision": "fp32", "val": [0.08, 0.8], "size_kb": [90.0, 10.0]})
    assert choose({"score": 0.2}, None, table, truth, outputs, MAE).id == "a"
    assert choose({"score": 2.0}, None, table, truth, outputs, MAE).id == "b"
    alone = np.zeros(len(truth))  # one group, whose interval is unknown
    assert choose({"score": 2.0}, None, table, truth, outputs, MAE, groups=alone).id == "b"
    missed = choose({"score": 0.01}, None, table, truth, outputs, MAE)
    assert missed.relax["score"] == missed.limits["score"]["high"] > 0.08


def test_what_nothing_keeps_is_missed_with_the_nearest_and_what_to_relax():
    choice = pick({"latency_ms": 0.09, "size_kb": 9})
    assert (choice.status, choice.id, choice.nearest) == (
        "missed",
        None,
        {"id": "small", "precision": "fp32"},
    )
    assert choice.relax == {"latency_ms": pytest.approx(0.105), "size_kb": 10.0}
    assert pick({"latency_ms": 0.2, "size_kb": 9}).relax == {"size_kb": 10.0}


def test_relaxing_as_told_lets_the_nearest_in():
    limits = {"latency_ms": 0.09, "size_kb": 9}
    choice = pick(limits)
    assert pick(limits | choice.relax).id == choice.nearest["id"]


def test_what_was_not_measured_keeps_no_limit():
    choice = pick({"memory_mb": 5})
    assert (choice.status, choice.nearest, choice.relax) == ("missed", None, {})
    table, truth, outputs = make(ROWS, WRONG)
    assert choose({"size_kb": 1}, None, table.iloc[:0], truth, outputs, ACCURACY).status == "missed"


def test_the_order_of_rows_changes_nothing():
    rows = [("a", 0.5, 50.0), ("b", 0.5, 50.0), ("c", 0.5, 50.0)]
    first = pick({}, rows=rows, wrong=[20, 20, 20])
    assert first == pick({}, rows=rows[::-1], wrong=[20, 20, 20])
    assert first.id == "a"
