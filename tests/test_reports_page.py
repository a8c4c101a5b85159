"""The report, drawn from a made-up but lifelike run folder."""

import json
import re
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
    "tiny": ("cpu", {"size_kb": 3}),
}


def draw_outputs(truth, hard, skill, rng):
    """Logits that share which rows are hard."""
    noise = rng.normal(size=(len(truth), CLASSES)) + hard
    return 3.2 * (skill * np.eye(CLASSES)[truth] * 2.2 + 0.8 * noise)


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
            costs = {"latency_ms": latency, "latency_p95_ms": latency * 1.3, "size_kb": size, "memory_mb": 3 + size / 90}
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
        "warnings": ["3 samples are in train and in test.", "Latency was noisy: another program ran on this host."],
        "notes": ["task: images, guessed from the folder."],
        "bakeoff": [
            {"loss": n, "learning_rate": 0.003, "temperature": t, "val": v}
            for n, t, v in [("kd", 4.0, 0.93), ("dkd", 4.0, 0.924), ("dist", 1.0, 0.921), ("labels", None, 0.9)]
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
            budget["flips"] = {"int8_vs_fp32": 4, "agreement": 0.93}
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
    environment = {"host": {"cpu": "x86-64", "cores": 2}, "versions": {"onnxruntime": "1.32"}, "protocol": "paired"}
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder
