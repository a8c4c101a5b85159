"""The report, drawn from a made-up but lifelike run folder."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports import SCORES, choose, difference, draw_report, holm, score_interval, verdict
from reports.page import describe_budget
from reports.run_tables import Run, load_run
from reports.sections import SECTIONS
from reports.words import say_budget, say_cost, say_interval, say_number

ROWS, CLASSES = 450, 5
NAMES = ["daisy", "dandelion", "rose", "sunflower", "tulip"]
BUDGETS = {
    "watch": ("cpu", {"latency_ms": 0.03, "size_kb": 40}),
    "web": ("cpu", {"latency_ms": 0.08, "size_kb": 250}),
    "laptop": ("cpu", {"latency_ms": 0.4}),
    "best": ("cpu", {}),
    "tiny": ("cpu", {"size_kb": 2.5}),
}


def draw_outputs(truth, hard, skill, rng):
    """Logits that share which rows are hard."""
    noise = rng.normal(size=(len(truth), CLASSES)) + hard
    return 3.2 * (skill * np.eye(CLASSES)[truth] * 2.2 + 0.8 * noise)


def make_up_guard(on: bool) -> dict:
    share = {"value": 0.05, "low": 0.03, "high": 0.08, "rows": ROWS}
    cost = {"without": 20.0, "with": 25.0, "low": 25.0, "high": 25.0, "ratio": 1.25, "ratio_low": 1.25}
    guard = {"on": on, "why": None if on else "its size_kb would be 41, above 40"}
    guard["costs"] = {"size_kb": cost | {"ratio_high": 1.25, "provenance": "static"}}
    alarms = {"aim": 0.05, "val": share, "test": share}
    return guard | ({"false_alarms": alarms, "caught": {"noise": share | {"value": 1.0}}} if on else {})


def write_run(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    score = SCORES["accuracy"]
    truths = {s: rng.integers(0, CLASSES, ROWS) for s in ("val", "test")}
    hard = {s: rng.normal(size=(ROWS, CLASSES)) * 0.8 for s in truths}
    outputs, said, records = {}, [], []

    def tell(model, precision, own_seed, skill):
        for split, truth in truths.items():
            out = draw_outputs(truth, hard[split], skill, rng)
            outputs[(model, precision, own_seed, split)] = out
            said.append(
                pd.DataFrame(
                    {
                        "split": split,
                        "row": np.arange(ROWS),
                        "model": model,
                        "precision": precision,
                        "seed": own_seed,
                        "truth": truth,
                        "output": list(out),
                    }
                )
            )

    def record(role, id, precision, skill, width, depth, costs):
        tell(id if role == "student" else f"control:{id}", precision, 0, skill)
        key = (id if role == "student" else f"control:{id}", precision, 0)
        val = score_interval(score, truths["val"], outputs[(*key, "val")])
        row = {
            "id": id,
            "role": role,
            "target": "cpu",
            "precision": precision,
            "params": json.dumps({"width": width, "depth": depth}),
            "parameters": width * width * depth,
            "seed": 0,
            "val": val.value,
            "val_low": val.low,
            "val_high": val.high,
            "test": np.nan,
            "test_low": np.nan,
            "test_high": np.nan,
            "host": "x86-64, 2 cores",
            "versions": "onnxruntime 1.32",
            "finalist": True,
        }
        for q, v in costs.items():
            spread = 0.0 if q == "size_kb" else 0.03
            row |= {q: v, f"{q}_low": v * (1 - spread), f"{q}_high": v * (1 + spread)}
            row[f"{q}_provenance"] = "static" if q == "size_kb" else "measured:host"
        records.append(row)

    for i, (width, depth) in enumerate([(8, 1), (12, 1), (16, 2), (24, 2), (32, 2), (48, 3), (64, 3), (96, 4)]):
        skill = 1.0 + 0.13 * np.log(width * depth)
        for precision in ("fp32", "int8"):
            size = (width * width * depth * 0.06 + 5) * (0.32 if precision == "int8" else 1)
            latency = 0.008 * (width * depth / 8) ** 0.85 * (0.75 if precision == "int8" and i > 2 else 1.1)
            own = skill - (0.03 if precision == "int8" else 0)
            costs = {
                "latency_ms": latency,
                "latency_p95_ms": latency * 1.3,
                "size_kb": size,
                "memory_mb": 3 + size / 90,
            }
            record("student", f"{i:02x}c0ffee{i:02x}", precision, own, width, depth, costs)
    tell("teacher", "fp32", 0, 1.85)
    rows = pd.DataFrame(records)
    teacher = {s: vars(score_interval(score, truths[s], outputs[("teacher", "fp32", 0, s)])) for s in truths}
    teacher |= {"cost": {"size_kb": 5100, "parameters": 1_200_000}, "path": "teacher.onnx"}
    family = {
        "format": 1,
        "name": "flowers",
        "score": {"name": "accuracy", "higher_is_better": True},
        "classes": NAMES,
        "teacher": teacher,
        "budgets": {},
        "targets": {"cpu": {"main_cost": "latency_ms"}, "pi": {"unavailable": "no host answers at pi.local"}},
        "warnings": [
            "3 samples are in train and in test.",
            "Latency was noisy: another program ran on this host.",
        ],
        "notes": ["task: images, guessed from the folder."],
        "bakeoff": [
            {"loss": n, "learning_rate": 0.003, "temperature": t, "val": v}
            for n, t, v in [
                ("kd", 4.0, 0.93),
                ("dkd", 4.0, 0.924),
                ("dist", 1.0, 0.921),
                ("labels", None, 0.9),
            ]
        ],
        "search": {"engine": "tpe", "trials": 60, "pruned": 21, "seconds": {"export": 9.1, "training": 71.0}},
        "coverage": {"latency_ms": 0.94},
        "test_reads": 1,
    }
    gaps = {}
    for name, (target, limits) in BUDGETS.items():
        val_outputs = {(i, p): outputs[(i, p, 0, "val")] for i, p in zip(rows["id"], rows["precision"], strict=True)}
        choice = choose(limits, "latency_ms", rows, truths["val"], val_outputs, score)
        budget = {"target": target, **vars(choice)}
        if choice.status == "kept":
            ours, theirs = [], []
            for s in (10, 11, 12):
                tell(choice.id, choice.precision, s, 1.6 if name != "watch" else 1.35)
                tell(f"control:{choice.id}", choice.precision, s, 1.3)
                ours.append(outputs[(choice.id, choice.precision, s, "test")])
                theirs.append(outputs[(f"control:{choice.id}", choice.precision, s, "test")])
            gaps[name] = difference(score, truths["test"], ours, theirs)
            own = score_interval(score, truths["test"], outputs[(choice.id, choice.precision, 0, "test")])
            budget |= {"student": f"students/{name}", "seeds": [10, 11, 12], "test": vars(own)}
            hit = (rows["id"] == choice.id) & (rows["precision"] == choice.precision)
            rows.loc[hit, ["test", "test_low", "test_high"]] = [own.value, own.low, own.high]
            budget["flips"] = {"vs_fp32": 4, "agreement": 0.93}
            seen = {"what": "AVX2, no VNNI", "rows": 300, "flips": 6, "largest": 0.021}
            budget["guard"] = make_up_guard(on=name != "watch")
            budget["kernels"] = {"this host": seen | {"what": "x86_64, VNNI"}, "old-x86": seen}
            whole = {"nodes": 9, "taken": 9, "needs_fixed_shapes": True, "falls_back": False}
            budget["checks"] = {
                "targets": {"cpu": {"runs": True, "falls_back": False}},
                "accelerators": {"nnapi": whole},
            }
            chosen = rows[hit].iloc[0]
            control = chosen.to_dict() | {"role": "control", "val": chosen["val"] - 0.025, "finalist": False}
            rows = pd.concat([rows, pd.DataFrame([control])], ignore_index=True)
        family["budgets"][name] = budget
    for (name, gap), p in zip(gaps.items(), holm([g.p for g in gaps.values()]), strict=True):
        control = {"difference": vars(gap), "detectable": gap.detectable, "verdict": verdict(gap, p)}
        family["budgets"][name]["control"] = control
    family["budgets"]["pi"] = {"status": "skipped", "target": "pi", "reason": "no host answers at pi.local"}
    (folder / "family.json").write_text(json.dumps(family))
    rows.to_parquet(folder / "records.parquet")
    pd.concat(said).to_parquet(folder / "predictions.parquet")
    trials = pd.DataFrame({"number": range(60), "state": ["complete"] * 39 + ["pruned"] * 21})
    trials["latency_ms"] = 10 ** rng.uniform(-2.3, 0.3, 60)
    trials["val"] = np.where(trials["state"] == "complete", 0.8 + 0.05 * np.log10(trials["latency_ms"] * 100), np.nan)
    trials["params"] = "{}"
    trials.to_parquet(folder / "trials.parquet")
    environment = {
        "host": {"cpu": "x86-64", "cores": 2},
        "versions": {"onnxruntime": "1.32"},
        "protocol": "paired",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("runs") / "flowers")
    draw_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run):
    return (run / "report" / "index.html").read_text()


class Reader(HTMLParser):
    """Collects outside references, ids and unclosed elements."""

    EMPTY = ("meta", "br", "img", "link", "hr", "input")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "xlink:href", "data", "action"):
                self.references.append(value)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_well_formed_file_without_outside_references(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.references
    assert all(r.startswith("#") and r[1:] in reader.ids for r in reader.references)
    assert len(set(reader.ids)) == len(reader.ids)
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_every_section_is_there_and_figures_speak(page):
    of_text = {"answers", "fidelity", "plain"}
    assert {key for key in SECTIONS if f'id="{key}"' not in page} == of_text
    assert all(len(alt) > 40 for alt in re.findall(r'role="img" aria-label="([^"]*)"', page))
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_figures_and_tables_lie_beside_the_page(run):
    names = {p.name for p in (run / "report").iterdir()}
    assert {"index.html", "summary.md", "frontier-cpu.png", "frontier-cpu.svg", "control.svg"} <= names
    assert {"records.csv", "target-cpu.csv", "changes.csv", "dropped.csv", "int8.csv", "trials.csv"} <= names
    assert len(pd.read_csv(run / "report" / "records.csv")) == len(pd.read_parquet(run / "records.parquet"))
    assert len(pd.read_csv(run / "report" / "trials.csv")) == 60


def test_the_same_tables_give_the_same_figures(run, tmp_path):
    again = write_run(tmp_path / "again")
    draw_report(again)
    for name in ("frontier-cpu.svg", "control.svg", "summary.md"):
        assert (again / "report" / name).read_bytes() == (run / "report" / name).read_bytes()


def test_the_changes_are_those_of_the_predictions(run):
    tables = load_run(run)
    budget = tables.budgets["web"]
    told = tables.predictions[(tables.predictions["split"] == "test") & (tables.predictions["seed"] == 0)]
    student = told[(told["model"] == budget["id"]) & (told["precision"] == budget["precision"])]
    mine, taught = (
        np.stack(t.sort_values("row")["output"]).argmax(1) for t in (student, told[told["model"] == "teacher"])
    )
    counts = pd.read_csv(run / "report" / "changes.csv")
    assert counts[counts["student"].str.contains("web")]["rows"].sum() == (mine != taught).sum()


def test_a_run_with_only_family_and_records_has_a_report(run, tmp_path):
    for name in ("family.json", "records.parquet"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    page = draw_report(tmp_path).read_text()
    assert "What each target offers" in page
    assert "flowers" in (tmp_path / "report" / "summary.md").read_text()


def test_what_a_file_says_stays_text(run, tmp_path):
    for name in ("family.json", "records.parquet"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    family = json.loads((tmp_path / "family.json").read_text())
    family |= {"name": "<script>alert(1)</script>", "warnings": ["a < b & <b>c</b>"]}
    (tmp_path / "family.json").write_text(json.dumps(family))
    page = draw_report(tmp_path).read_text()
    assert "<script>" not in page
    assert "a &lt; b &amp; &lt;b&gt;c" in page


def test_no_run_folder_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no finished run folder: family\.json is missing"):
        draw_report(tmp_path)
    told = subprocess.run([sys.executable, "-P", "-m", "reports", tmp_path], capture_output=True, text=True)
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1


def test_reports_loads_no_torch():
    code = "import sys, reports; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0


def tell(**budget):
    """The sentence of one budget of a run without tables."""
    empty = pd.DataFrame({"id": [], "role": [], "target": [], "precision": []})
    teacher = {"test": {"value": 0.987, "low": 0.98, "high": 0.992}, "cost": {"size_kb": 1277.2}}
    score = {"name": "accuracy", "higher_is_better": True}
    family = {"score": score, "teacher": teacher, "budgets": {"watch": {"target": "cpu"} | budget}}
    record = {
        "id": "x",
        "role": "student",
        "target": "cpu",
        "precision": "int8",
        "size_kb": 41.2,
        "latency_ms": np.nan,
    }
    table = pd.DataFrame([record]) if budget.get("id") else empty
    return say_budget(Run(family, table, pd.DataFrame(), pd.DataFrame(), {}), "watch")


KEPT = {
    "status": "kept",
    "id": "x",
    "precision": "int8",
    "test": {"value": 0.961, "low": 0.952, "high": 0.969},
    "limits": {"size_kb": {"limit": 60, "measured": 41.2}, "instructions_m": {"limit": 12, "measured": 9.4}},
}
GAP = {"value": 0.012, "low": 0.003, "high": 0.021, "seeds": 3}


def test_the_sentence_of_a_kept_budget():
    said = tell(**KEPT, control={"verdict": "distillation helped", "difference": GAP, "detectable": 0.008})
    assert said == (
        "96.1 % (95.2–96.9) accuracy, 9.40 M instructions, 41.2 kB; 31 times smaller than the teacher, "
        "2.6 points below it; distillation added 1.2 points over labels alone (95 %: +0.3 to +2.1)."
    )


@pytest.mark.parametrize(
    ("verdict", "gap", "expected"),
    [
        (
            "no difference shown",
            GAP,
            "alone shown (smallest difference this test could have shown: 0.8 points)",
        ),
        ("labels alone were better", GAP | {"value": -0.012}, "labels alone were 1.2 points better"),
        ("labels alone chosen", {}, "trained on labels alone, which won the bake-off"),
        ("distillation helped", GAP | {"seeds": 1}, "this student is 1.2 points above this control"),
    ],
)
def test_the_sentence_claims_no_more_than_the_verdict(verdict, gap, expected):
    said = tell(**KEPT, control={"verdict": verdict, "difference": gap, "detectable": 0.008})
    assert expected in said
    assert ("distillation" in said) is False


def test_the_sentence_of_a_missed_budget_asks_for_enough():
    limits = {"size_kb": {"limit": 30, "measured": 41.234, "low": 41.234, "high": 41.234}}
    said = tell(status="missed", nearest={"id": "x", "precision": "int8"}, relax={"size_kb": 41.234}, limits=limits)
    near = "the nearest student (x, int8) keeps it"
    assert said == f"No student keeps it. Relax file size from 30 kB to 41.3 kB, and {near}."
    said = tell(status="missed", nearest={"id": "x", "precision": "int8"}, relax={"score": 0.9519}, limits={})
    assert "to 95.1 %" in said


def test_the_sentence_of_a_skipped_budget_gives_the_reason():
    assert tell(status="skipped", reason="no host answers") == "Not tried: no host answers."


def test_test_scores_that_were_not_read_are_not_passed_off():
    said = tell(**KEPT | {"test": {}, "val": {"value": 0.97, "low": 0.96, "high": 0.98}})
    assert "97.0 % (96.0–98.0) accuracy on validation data" in said


def test_meters_show_the_bad_end(run):
    card = describe_budget(load_run(run), "tiny")
    assert card["status"] == "missed"
    assert card["meters"][0]["over"]
    assert not any(m["over"] for m in describe_budget(load_run(run), "watch")["meters"])


def test_numbers_in_words():
    assert [say_number(v) for v in (0.04123, 41.23, 1240.4, 0, -2.5)] == [
        "0.0412",
        "41.2",
        "1 240",
        "0",
        "−2.50",
    ]
    assert say_number(float("nan")) == "–"
    assert say_cost("size_kb", 5100) == "5.10 MB"
    assert say_interval("rmse", {"value": 1.234, "low": 1.1, "high": 1.4}) == "1.23 (1.10–1.40)"


def write_small(folder, kind, rows, budgets, predictions=None):
    family = {
        "name": "a $1 run",
        "score": {"name": kind, "higher_is_better": kind != "rmse"},
        "budgets": budgets,
    }
    (folder / "family.json").write_text(json.dumps(family))
    pd.DataFrame(rows).to_parquet(folder / "records.parquet")
    if predictions:
        pd.DataFrame(predictions).to_parquet(folder / "predictions.parquet")
    return draw_report(folder).read_text()


@pytest.mark.parametrize(
    ("kind", "truth", "expected"),
    [("rmse", [0.5, 2.0], "Mean distance"), ("exact_match", [1.0, 0.0], "Newly wrong")],
)
def test_lists_as_truth_have_a_report(tmp_path, kind, truth, expected):
    row = {
        "id": "a",
        "role": "student",
        "target": "c$pu",
        "precision": "fp32",
        "val": 0.7,
        "size_kb": 5.0,
        "seed": 0,
    }
    said = [
        {
            "split": "test",
            "row": i,
            "model": m,
            "precision": "fp32",
            "seed": 0,
            "truth": truth,
            "output": [v, -1.0],
        }
        for m, v in (("a", 0.4), ("teacher", 0.6))
        for i in range(20)
    ]
    budget = {"status": "kept", "target": "c$pu", "id": "a", "precision": "fp32", "val": {"value": 0.7}}
    page = write_small(tmp_path, kind, [row], {"$x": budget}, said)
    assert expected in page
    assert "$x" in page


def test_a_run_in_which_nothing_could_be_measured_has_a_report(tmp_path):
    rows = {"id": [], "role": [], "target": [], "precision": []}
    page = write_small(tmp_path, "accuracy", rows, {"pi": {"status": "skipped", "target": "pi", "reason": "no host"}})
    assert "Not tried: no host." in page


def test_what_was_predicted_and_what_stood_for_it_is_said(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    trials = pd.read_parquet(copy / "trials.parquet")
    assert "35 % of them fit no budget." in text_of(draw_report(copy))
    trials.assign(predicted=[True if n >= 50 else None for n in range(60)]).to_parquet(copy / "trials.parquet")
    family = json.loads((copy / "family.json").read_text())
    latency = {"cpu": {"ratio": 0.98, "low": 0.93, "high": 1.04, "files": 12}}
    facts = {"finalists": 6, "files": 12, "same_operators": 12, "size_within": 0.003, "latency": latency}
    (copy / "family.json").write_text(json.dumps(family | {"untrained": facts}))
    page = text_of(draw_report(copy))
    assert "35 % of them fit no budget; 10 of these were told from predicted costs, neither made nor measured." in page
    assert "of 6 finalists, 12 of 12 have the operators of the trained file, size within 0.3 %" in page
    assert "latency on cpu 0.98 (0.93–1.04) × that of the trained file" in page


def text_of(page):
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")).replace("\u202f", " ").replace("\xa0", " ")
