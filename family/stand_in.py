"""Whether untrained graphs stood for the files that ship: in every run the finalists, exported trained, show it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import Meter, join_ratios
from export import list_operators
from family.candidates import measure_untrained, untrained_graphs
from family.job import Job
from family.students import trained_folder
from family.types import Training
from family.untold import is_told

SIZE_WITHIN = 0.01  # of a trained file's, or it is warned of
LATENCY_WITHIN = 0.05

Finalists = Mapping[str, Mapping[str, Any]]


def compare_untrained(
    job: Job, finalists: Finalists, recipe: Training, measured: Mapping[str, Any], benches: Mapping[str, Meter]
) -> dict[str, Any]:
    """Every finalist's untrained graphs against its trained files, at every precision: the operators, the size, and the
    latency that the search measured against the final one (`measured`).

    `{finalists, files, same_operators: files whose operators are equal in number and order, size_within: the greatest
    relative difference, latency: {target: {ratio, low, high, files}}, warnings}`; the ratio is untrained ÷ trained.
    """
    if not finalists:
        return {}
    pairs = list(pair_files(job, finalists, recipe))
    other = [name for name, untrained, trained in pairs if list_operators(untrained) != list_operators(trained)]
    sizes = {name: differ_in_size(untrained, trained) for name, untrained, trained in pairs}
    latency = {
        target: found for target in benches if (found := compare_latency(job, finalists, measured, benches, target))
    }
    facts: dict[str, Any] = {
        "finalists": len(finalists),
        "files": len(pairs),
        "same_operators": len(pairs) - len(other),
    }
    facts |= {"size_within": max(sizes.values()), "latency": latency}
    return facts | {"warnings": warn(other, sizes, latency)}


def pair_files(job: Job, finalists: Finalists, recipe: Training) -> Iterator[tuple[str, Path, Path]]:
    """(name, untrained, trained) of every file."""
    for identity, params in finalists.items():
        untrained, folder = untrained_graphs(job, params), trained_folder(job, params, recipe)
        for precision in job.precisions:
            yield f"{identity} {precision}", untrained[precision], folder / precision / "model.onnx"


def differ_in_size(untrained: Path, trained: Path) -> float:
    return abs(untrained.stat().st_size / trained.stat().st_size - 1)


def compare_latency(
    job: Job, finalists: Finalists, measured: Mapping[str, Any], benches: Mapping[str, Meter], target: str
) -> dict[str, Any]:
    """Untrained ÷ trained over all files of a target; what was noisy in the search or in the finals is left out."""
    pairs = []
    for identity, params in finalists.items():
        early = measure_untrained(job, params, benches)["costs"][target]
        for precision in job.precisions:
            one, two = early[precision].get("latency_ms"), measured[identity][target][precision].get("latency_ms")
            if one and two and is_told(one) and is_told(two) and not (one["noisy"] or two["noisy"]):
                pairs.append((one, two))
    if not pairs:
        return {}
    ratios = [one["value"] / two["value"] for one, two in pairs]
    halves = [math.hypot(half_of(one), half_of(two)) for one, two in pairs]
    ratio, low, high = join_ratios(ratios, halves)
    return {"ratio": ratio, "low": low, "high": high, "files": len(pairs)}


def half_of(figure: Mapping[str, Any]) -> float:
    """Half the width of its interval, in logs."""
    return math.log(figure["high"] / figure["low"]) / 2


def warn(other: Sequence[str], sizes: Mapping[str, float], latency: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What shows that the search looked at other graphs than those that ship."""
    said = [f"untrained graphs have other operators than the trained files of {', '.join(other)}"] if other else []
    odd = [f"{name} ({share:.1%})" for name, share in sizes.items() if share > SIZE_WITHIN]
    said += [f"untrained graphs differ in size from the trained files of {', '.join(odd)}"] if odd else []
    for target, found in latency.items():
        if found["low"] > 1 + LATENCY_WITHIN or found["high"] < 1 / (1 + LATENCY_WITHIN):
            shown = f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
            said.append(f"on {target} the search timed untrained graphs at {shown} of what the trained files take")
    return said
