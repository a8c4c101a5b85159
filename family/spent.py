"""What all training of a run folder took, beside training its chosen students just once: the limit of any search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from family.controls import FRESH
from family.job import Job
from family.recipe import Recipe
from family.students import trained_folder


def count_compute(job: Job, recipe: Recipe, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`{everything, students, others, shared_weights, controls}` in units of training the `chosen` once.

    Counted: multiply-accumulates × rows of every training that the run folder holds, also for earlier files. Students:
    the chosen themselves, 1. Others: whatever else was trained to find them, short or in full. Controls: the paired
    seeds of both ways, with the shared weights that they begin from. Empty where nothing was chosen.
    """
    if not chosen:
        return {}
    done = [read(trained_folder(job, params, recipe.student) / "done.json") for params in chosen.values()]
    once = sum(one.get("macs", 0) for one in done)
    if not once:  # trained by a version that did not count, or of layers that are not counted
        return {}
    spent = {"others": -once, "shared_weights": 0.0, "controls": 0.0}
    for kind, pattern in (("others", "candidates/*/trained-*/done.json"), ("shared_weights", "supernet/*/done.json")):
        for one in map(read, job.folder.glob(pattern)):
            if not {"macs", "seed"} <= one.keys():
                continue
            spent["controls" if one["seed"] >= job.spec.seed + FRESH else kind] += one["macs"]
    told = {"students": 1.0, **{kind: macs / once for kind, macs in spent.items()}}
    return {"everything": sum(told.values()), **told}


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())["result"])
