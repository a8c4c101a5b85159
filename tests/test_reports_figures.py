"""Figures and tables of a report: labels that stay apart, limits, controls, and what is said beside them."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from reports import tried
from reports.frontier_plot import draw_frontier, list_panels
from reports.labels import choose_box, surround
from reports.offers import say_front
from reports.page import describe_budget
from reports.plots import choose_ticks, draw_trials, say_judge
from reports.precisions import say_precision, show_int8
from reports.run_tables import Run, take_controls
from reports.sections import SECTIONS
from reports.tried import show_tried
from reports.words import say_budget

FRAME = (0.0, 0.0, 400.0, 300.0)


def overlap(a, b, air=0.01):
    return min(a[2], b[2]) - max(a[0], b[0]) > air and min(a[3], b[3]) - max(a[1], b[1]) > air


def make_run(rows, budgets, score="accuracy", **rest):
    """A run of records and budgets alone; every row on cpu."""
    known = {"role": "student", "target": "cpu", "precision": "fp32", "params": "{}", "test": np.nan, "finalist": True}
    tables = {"predictions": pd.DataFrame(), "trials": pd.DataFrame(), "environment": {}}
    tables |= {k: rest.pop(k) for k in tuple(tables) if k in rest}
    family = {"name": "made up", "score": {"name": score, "higher_is_better": score != "rmse"}, "budgets": budgets}
    return Run(family | rest, pd.DataFrame([known | row for row in rows]), **tables)


def row(id, val, **costs):
    return {"id": id, "val": val, "val_low": val - 0.03, "val_high": val + 0.03, "size_kb": 10.0} | costs


def keep(id, precision="fp32", **limits):
    told = {q: {"limit": limit, "measured": 0.5 * limit} for q, limit in limits.items()}
    return {"status": "kept", "target": "cpu", "id": id, "precision": precision, "limits": told}


def crowd(students):
    """As many budgets as students, all nearly in one place, each with limits of its own."""
    rows = [row(f"s{i}", 0.9 + 0.0005 * i, latency_ms=0.1 + 0.0004 * i, size_kb=20 + 0.1 * i) for i in range(students)]
    budgets = {
        f"budget number {i}": keep(f"s{i}", latency_ms=0.11 + 0.001 * i, size_kb=22 + 0.2 * i) for i in range(students)
    }
    return make_run(rows, budgets | {"good": keep("s0", score=0.9)}, teacher={"val": {"value": 0.905}})


@pytest.mark.parametrize("students", [2, 9])
def test_no_two_labels_of_a_crowded_frontier_overlap(students):
    figure = draw_frontier(crowd(students), "cpu")
    for axes in figure.axes:
        notes = [t for t in axes.texts if t.get_text()]
        boxes = [t.get_window_extent().extents for t in notes]
        assert len(boxes) >= 2 * students
        assert not [
            (a.get_text(), b.get_text())
            for (a, x), (b, y) in itertools.combinations(zip(notes, boxes, strict=True), 2)
            if overlap(x, y)
        ]
        left, bottom, right, top = axes.get_window_extent().extents
        assert all(b[0] > left - 2 and b[2] < right + 2 and b[1] > bottom - 2 and b[3] < top + 2 for b in boxes)


def test_a_label_avoids_marks_and_stays_near_what_it_names():
    mark = (193.0, 143.0, 207.0, 157.0)
    line = (200.0, 149.0, 400.0, 151.0)
    box = choose_box(surround(200, 150, 60, 12, FRAME), [], [mark, line], FRAME)
    assert not overlap(box, mark)
    assert not overlap(box, line)
    assert abs((box[0] + box[2]) / 2 - 200) < 60
    assert abs((box[1] + box[3]) / 2 - 150) < 30


def test_labels_in_a_corner_stay_inside():
    for x, y in [(0, 0), (400, 0), (0, 300), (400, 300)]:
        left, bottom, right, top = choose_box(surround(x, y, 90, 14, FRAME), [], [], FRAME)
        assert left >= 0
        assert bottom >= 0
        assert right <= 400
        assert top <= 300


def test_there_is_a_panel_per_limited_cost_and_each_limit_is_told():
    rows = [row("a", 0.9, latency_ms=0.1, size_kb=20.0), row("b", 0.8, latency_ms=0.05, size_kb=9.0)]
    run = make_run(
        rows, {"small": keep("b", size_kb=12), "fast": keep("a", latency_ms=0.15), "slow": keep("a", latency_ms=9)}
    )
    assert list_panels(run, "cpu") == ["latency_ms", "size_kb"]
    latency, size = draw_frontier(run, "cpu").axes
    told = {t.get_text() for t in latency.texts}
    assert {"fast ≤ 0.15 ms", "slow ≤ 9 ms →"} <= told
    assert latency.get_xlim()[1] < 1
    assert "small ≤ 12 kB" in {t.get_text() for t in size.texts}


def test_controls_are_drawn_where_only_predictions_know_their_score():
    truth = np.array([0, 1, 0, 1])
    right, half = np.eye(2)[truth], np.eye(2)[[0, 0, 0, 0]]
    said = [
        {"split": "val", "row": i, "model": "control:a", "precision": "fp32", "seed": s, "truth": t, "output": list(o)}
        for s, outputs in ((1, right), (2, half))
        for i, (t, o) in enumerate(zip(truth, outputs, strict=True))
    ]
    rows = [row("a", 0.9, latency_ms=0.1), {"id": "a", "role": "control", "val": np.nan, "latency_ms": 0.1}]
    run = make_run(rows, {"x": keep("a")}, predictions=pd.DataFrame(said))
    control = take_controls(run, "cpu").iloc[0]
    assert control["val"] == pytest.approx(0.75)
    assert control["val_low"] < 0.75 < control["val_high"]
    legend = {t.get_text() for t in draw_frontier(run, "cpu").legends[0].get_texts()}
    assert "control: labels alone" in legend
    bare = make_run(rows, {"x": keep("a")})
    assert "control: labels alone" not in {t.get_text() for t in draw_frontier(bare, "cpu").legends[0].get_texts()}


def test_latency_with_and_without_front_is_told():
    rows = [
        row("a", 0.9, latency_ms=0.1, latency_without_front_ms=0.04),
        row("b", 0.8, latency_ms=0.05, latency_without_front_ms=0.045),
    ]
    run = make_run(rows, {"x": keep("a")})
    said = say_front(run, "cpu")
    assert "between 10 % and 60 % of the latency of the 2 files" in said
    assert "x 0.0400 ms instead of 0.100 ms." in said
    table = SECTIONS["targets"](run).blocks[0].frame
    assert table["Latency without front, ms"].tolist() == ["0.0450", "0.0400"]
    assert say_front(make_run([row("a", 0.9, latency_ms=0.1)], {}), "cpu") is None


def test_where_int8_lost_is_said_for_each_precision_and_each_choice():
    rows = [
        row("a", 0.90, latency_ms=0.10, size_kb=40.0),
        row("a", 0.89, latency_ms=0.12, size_kb=20.0, precision="int8"),
        row("a", 0.91, latency_ms=0.09, size_kb=10.0, precision="int8-dynamic"),
    ]
    run = make_run(rows, {"x": keep("a"), "y": keep("a", "int8-dynamic")})
    assert say_precision(run, "x") == (
        "x ships fp32. int8 against fp32: validation 1.0 points lower, 1.20 × the latency, 0.50 × the file size; "
        "int8 lost on score and latency."
    )
    assert "y ships int8-dynamic" in say_precision(run, "y")
    assert say_precision(run, "y").endswith("int8-dynamic lost on nothing.")
    table = show_int8(run).blocks[-1].frame
    assert table["Precision"].tolist() == ["int8", "int8-dynamic"]
    assert table["Lost on"].tolist() == ["score, latency", ""]


def test_what_a_file_takes_compressed_stands_beside_its_size():
    table = SECTIONS["targets"](make_run([row("a", 0.9, size_kb=1240.0, download_kb=41.2, memory_mb=9.0)], {})).blocks[
        0
    ]
    assert list(table.frame.columns)[-3:] == ["File size, kB", "File size compressed, kB", "Memory, MB"]
    assert table.frame["File size compressed, kB"].tolist() == ["41.2"]


def test_noisy_figures_are_marked_and_intervals_that_add_nothing_left_out():
    rows = [row("a", 0.9, memory_mb=11.4, memory_mb_low=11.39, memory_mb_high=11.41, latency_ms=0.1)]
    rows[0] |= {"latency_ms_low": 0.05, "latency_ms_high": 0.2, "latency_ms_noisy": True}
    table = SECTIONS["targets"](make_run(rows, {})).blocks[0]
    assert table.frame["Memory, MB"].tolist() == ["11.4"]
    assert table.frame["Latency, ms"].tolist() == ["0.100 ~ (0.0500–0.200)"]
    assert "Noisy" in table.caption


def test_a_verdict_that_holm_took_away_is_explained():
    gap = {"value": 0.032, "low": 0.007, "high": 0.056, "seeds": 3}
    control = {"verdict": "no difference shown", "difference": gap, "detectable": 0.033}
    budgets = {"x": keep("a") | {"control": control}, "y": keep("b")}
    said = say_budget(make_run([row("a", 0.9), row("b", 0.8)], budgets), "x")
    assert "+3.2 was seen (+0.7 to +5.6), too little once all 2 students are compared" in said
    gap["low"] = -0.01
    assert "was seen" not in say_budget(make_run([row("a", 0.9), row("b", 0.8)], budgets), "x")


def test_a_budget_without_limits_is_told_its_main_cost_and_its_twin():
    rows = [row("a", 0.9, latency_ms=0.123)]
    run = make_run(rows, {"fast": keep("a", latency_ms=1), "best": keep("a") | {"test": {"value": 0.9}}})
    assert say_budget(run, "best").startswith("90.0 % accuracy, 0.123 ms, 10.0 kB")
    assert describe_budget(run, "best")["same"] == "fast"
    assert describe_budget(run, "fast")["same"] is None


@pytest.mark.parametrize("seed", range(20))
def test_every_range_has_plain_ticks(seed):
    rng = np.random.default_rng(seed)
    low = 10 ** rng.uniform(-4, 4)
    high = low * 10 ** rng.uniform(0.03, 4)
    ticks = choose_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(ticks)
    assert all(low <= t <= high for t in ticks)


def test_trials_that_know_only_violations_have_a_figure():
    trials = pd.DataFrame({"state": ["complete", "pruned"], "violation": [-0.9, 0.5], "val": [0.8, np.nan]})
    run = make_run([row("a", 0.9, latency_ms=0.1)], {"x": keep("a", latency_ms=1)}, trials=trials)
    axes = draw_trials(run, "latency_ms").axes[0]
    assert axes.collections[0].get_offsets()[0][0] == pytest.approx(10)
    assert axes.lines[0].get_xdata()[0] == pytest.approx(150)
    assert draw_trials(make_run([], {}), "latency_ms") is None


def test_the_bake_off_and_the_learning_rates_are_readable():
    bakeoff = [
        {"loss": "kd", "val": 0.9, "seconds": 1.98745, "gain": 0.0, "gain_low": -0.01, "gain_high": 0.01, "won": True},
        {"loss": "mse", "val": 0.8, "seconds": 2.1, "gain": -0.1, "gain_low": -0.2, "gain_high": -0.05, "won": False},
    ]
    rates = {"student": [{"learning_rate": 0.01, "student": "small", "val": 0.5}]}
    run = make_run([row("a", 0.9)], {}, bakeoff=bakeoff, learning_rates=rates)
    bake, rate, *_ = show_tried(run).blocks
    assert bake.frame["Loss"].tolist() == ["kd ✓", "mse"]
    assert bake.frame["Seconds"].tolist() == ["1.99", "2.1"]
    assert bake.frame["Over the default, points"].tolist() == ["0.0 (−1.0 to +1.0)", "−10.0 (−20.0 to −5.0)"]
    assert json.loads(rate.frame.to_json(orient="records", force_ascii=False)) == [
        {"Learning rate": "0.01", "Distilled, small": "50.0 %"}
    ]


def test_the_report_shows_the_lengths():
    tried = {"student": "small", "steps": 600, "val": 0.9, "gain": -0.01, "gain_low": -0.03, "gain_high": 0.01}
    lengths = {"student": [tried | {"won": True}], "control": [tried | {"won": False, "steps": 300}]}
    table = next(b for b in show_tried(make_run([], {}, lengths=lengths)).blocks if getattr(b, "name", "") == "lengths")
    assert table.frame["Steps"].tolist() == ["600 ✓", "300"]
    assert table.frame["Trained"].tolist() == ["distilled", "labels alone"]
    assert table.frame["Over the fewest steps, points"].tolist() == ["−1.0 (−3.0 to +1.0)"] * 2


@pytest.mark.parametrize(("engine", "said"), [("supernet", "estimated (supernet)"), ("tpe", "validation data")])
def test_estimates_of_the_search_are_not_called_validation_scores(engine: str, said: str) -> None:
    assert say_judge(SimpleNamespace(family={"search": {"engine": engine}})) == said  # type: ignore[arg-type]


def test_what_the_search_took_is_told_once_a_candidate() -> None:
    trials = pd.DataFrame(
        {"id": ["a", "a", "b"], "state": ["complete", "complete", "pruned"], "export_s": [1.0, 1.0, 2.0]}
        | {"measure_s": [3.0, 3.0, 4.0], "judge_s": [5.0, 5.0, np.nan]}
    )
    said = tried._say_search(SimpleNamespace(trials=trials))  # type: ignore[arg-type]
    assert said == (
        "The search asked for 3 candidates: 2 complete, 1 pruned untrained. 33 % of them fit no budget. "
        "It took 3 s for exporting them untrained, 7 s for measuring them, 5 s for judging what fits."
    )


def test_the_report_shows_where_students_begin():
    tries = [
        {"inherits": inherits, "steps": 300, "student": size, "val": val}
        for inherits, vals in ((300, (0.9, 0.97)), (0, (0.7, 0.96)))
        for size, val in zip(("smallest", "middle"), vals, strict=True)
    ]
    told = {"starts": {"student": tries, "control": tries}, "recipe": {"student": {"inherits": 300}, "control": {}}}
    table = next(b for b in show_tried(make_run([], {}, **told)).blocks if getattr(b, "name", "") == "starts")
    ticks = [row["Beginning"] for _, row in table.frame.iterrows()]
    assert ticks == ["shared weights ✓", "values of their own", "shared weights", "values of their own ✓"]
    assert table.frame["Smallest student"].iloc[0].startswith("90")


def test_the_report_says_what_training_took():
    compute = {"everything": 9.5, "students": 1.0, "others": 4.5, "shared_weights": 0.0, "controls": 4.0}
    (said,) = [b.text for b in show_tried(make_run([], {}, compute=compute)).blocks if hasattr(b, "text")]
    assert "9.5 times what training the chosen students once takes" in said
    assert "4.0 for controls" in said
    assert "shared weights" not in said
