"""A candidate before training: its graphs at every precision, what they cost, and which budgets they could fit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark import (
    QUICK_SECONDS,
    Bench,
    Meter,
    measure_memory,
    measure_size,
    measurement_to_dict,
    needs_ladder,
    open_meter,
)
from export import StepFront, merge_front, quantise, to_onnx, write_decoder
from family import spaces
from family.entry_points import QUANTITIES, GeneratingMeter, entry_feeds, entry_of, put_feeds, write_entries
from family.job import Job, cost_limits
from family.measurers import key_of, meet
from family.run_folder import content_id, remember, write_beside, write_json
from family.tasks.text_task import TextTask
from family.text.decoder import DecoderStudent, as_blocks
from family.text.reading_meter import ReadingMeter, put_reading
from family.types import Task
from family.untold import value_of, why_untold

Params = Mapping[str, Any]
CALIBRATION_ROWS = 256
EXTRA = {"first_token_ms", "latency_p95_ms", "memory_mb"}  # measured only where a budget asks for them
BYTES = "size_kb"  # the only part where no budget asks for more


def candidate_id(job: Job, params: Params) -> str:
    """Stands for the student untrained: what builds it, parameters, inputs and outputs, and seed."""
    return content_id(job.built_id, dict(params))


def candidate_folder(job: Job, params: Params) -> Path:
    return job.folder / "candidates" / candidate_id(job, params)


def export_graphs(job: Job, task: Task, module: nn.Module, folder: Path, calibration_rows: int) -> dict[str, Path]:
    """Write `folder/<precision>/model.onnx` with its front, and `body.onnx` without, for every precision. `task`: as
    the module meets it."""
    fp32 = folder / "fp32" / "body.onnx"
    fp32.parent.mkdir(parents=True, exist_ok=True)
    write_beside(fp32, lambda beside: write_fp32(module, task, beside, opset(job)))
    graphs = {}
    for precision in job.precisions:
        body = folder / precision / "body.onnx"
        if precision != "fp32":
            write_beside(body, partial(quantise_into, fp32, precision, calibration_feeds(task, calibration_rows)))
        graphs[precision] = body.with_name("model.onnx")
        write_beside(graphs[precision], partial(merge_front, body, task.front))
        feed_own(job, task, graphs[precision])
    return graphs


def write_fp32(module: nn.Module, task: Task, path: Path, opset: int) -> None:
    """A decoder is written from its blocks, which takes no tracing."""
    if isinstance(module, DecoderStudent):
        write_decoder(as_blocks(module), path, opset)
    else:
        to_onnx(module, task.body, path, opset)


def feed_own(job: Job, task: Task, model: Path) -> None:
    """Where students do not all take the same inputs, put the model's own beside it."""
    if isinstance(task.front, StepFront):
        prompt = job.spec.students.prompt_tokens or task.front.context // 2
        write_entries(model, entry_feeds(task, task.front, prompt))
    elif task is not job.task:
        put_feeds(model, task.raw("val", middle_row(job.task)))
    if isinstance(task, TextTask):
        (text,) = task.sentences("val", middle_row(job.task))
        put_reading(model, task.tokenizer, text, task.front.length)


def measured_file(job: Job, path: Path) -> Path:
    """The file as it is fed where one run of it is measured: of a language model, for one more token."""
    return entry_of(path, "decode") if job.task.kind == "tokens" else path


def middle_row(task: Task) -> np.ndarray:
    """A row of val of middle length."""
    rows = np.arange(min(101, task.rows("val")))
    lengths = [sum(int(one.count_nonzero()) for one in task.inputs("val", rows[i : i + 1], 0)) for i in rows]
    return np.argsort(lengths, kind="stable")[len(rows) // 2 : len(rows) // 2 + 1]


def opset(job: Job) -> int:
    return 18 if job.spec.export.opset == "auto" else job.spec.export.opset


def quantise_into(source: Path, precision: str, calibration: Sequence[dict[str, np.ndarray]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    quantise(source, path, precision, calibration)


def calibration_feeds(task: Task, rows: int) -> list[dict[str, np.ndarray]]:
    """Body inputs of the first `rows` training rows (train, then transfer), by name, in batches of 64."""
    feeds = []
    for split in ("train", "transfer"):
        count = min(rows, task.rows(split))
        rows -= count
        for start in range(0, count, 64):
            inputs = task.inputs(split, np.arange(start, min(start + 64, count)), 0)
            names = [spec.name for spec in task.body.inputs]
            feeds.append({name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    return feeds


def write_feeds(job: Job) -> Path | None:
    """One validation row, raw and as the front gives it: the same inputs for every measurement of this run. None where
    every student has inputs of its own beside it."""
    if job.task.seen_by(spaces.middle(job.space)) is not job.task:
        return None
    path = job.folder / "measuring" / f"feeds-{content_id(job.task.fingerprint, str(job.task.front))}.npz"
    if not path.exists():
        row = np.array([0])
        body = zip((spec.name for spec in job.task.body.inputs), job.task.inputs("val", row, 0), strict=True)
        arrays: dict[str, Any] = job.task.raw("val", row) | {name: value.numpy() for name, value in body}

        def save(beside: Path) -> None:
            with beside.open("wb") as handle:
                np.savez(handle, **arrays)

        write_beside(path, save)
    return path


@contextlib.contextmanager
def open_benches(job: Job) -> Iterator[dict[str, Meter]]:
    """What measures on each target; where figures are paired, with a ladder of references measured once and kept."""
    references = write_references(job)
    feeds = write_feeds(job)
    with contextlib.ExitStack() as stack:
        benches = {}
        for name in job.measured_targets():
            meet(job, name)
            ladder = remember_ladder(job, name, references, feeds) if needs_ladder(job.targets[name]) else None
            meter = open_meter(job.targets[name], references, feeds, ladder)
            stack.callback(meter.close)
            benches[name] = meter_of(job, name, meter)
        yield benches


def meter_of(job: Job, target: str, meter: Meter) -> Meter:
    """The meter that fits what students do: they answer, go on token by token, or read a text first."""
    if job.task.kind == "tokens":
        return GeneratingMeter(meter)
    if isinstance(job.task, TextTask) and job.targets[target].transport == "local":
        return ReadingMeter(meter, job.targets[target])
    return meter


def remember_ladder(job: Job, name: str, references: Sequence[Path], feeds: Path | None) -> Any:
    def measure() -> Any:
        with Bench(job.targets[name], references, feeds) as bench:
            return bench.ladder()

    inputs = [job.student_id, job.precisions, opset(job), *job.fed_by, *key_of(job, name)]
    return remember(job.folder / "measuring" / f"ladder-{name}.json", inputs, measure)


def write_references(job: Job) -> list[Path]:
    """The smallest, middle and largest student, untrained, at every precision: the rungs of the ladder."""
    paths = []
    for size in (spaces.smallest, spaces.middle, spaces.largest):
        for path in untrained_graphs(job, size(job.space)).values():
            paths += [entry_of(path, entry) for entry in QUANTITIES] if job.task.kind == "tokens" else [path]
    return list(dict.fromkeys(paths))


def untrained_graphs(job: Job, params: Params) -> dict[str, Path]:
    """The untrained student at every precision, exported once."""
    folder = candidate_folder(job, params) / "untrained"

    def work() -> dict[str, str]:
        module = spaces.build_student(job.space, params, job.task, job.spec.seed)
        vary_constants(module, job.spec.seed)
        graphs = export_graphs(job, job.task.seen_by(params), module, folder, calibration_rows=16)
        return {precision: str(path.relative_to(job.folder)) for precision, path in graphs.items()}

    inputs = [job.built_id, dict(params), job.precisions, opset(job), *job.fed_by]
    kept = remember(folder / "graphs.json", inputs, work)
    return {precision: job.folder / path for precision, path in kept.items()}


def vary_constants(module: nn.Module, seed: int) -> None:
    """Draw what training would make differ: the exporter merges equal tensors, such as the zero biases that fresh batch
    norms fold into, and the file would be smaller than the trained one."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    values = [*module.parameters(), *(b for norm in norms for b in norm.buffers())]
    with torch.no_grad():
        for value in values:
            if value.is_floating_point() and value.numel() > 1 and bool((value == value.flatten()[0]).all()):
                value += 0.1 * torch.rand(value.shape, generator=generator)


def measure_untrained(job: Job, params: Params, benches: Mapping[str, Meter | None]) -> dict[str, Any]:
    """`{costs: {target: {precision: {quantity: value}}}}` plus what it took; every target's figures, and every further
    quantity's, are written once and never retaken: another target or limit measures only what is new. `benches` may
    hold None where the job `is_static`."""
    folder = candidate_folder(job, params)
    if not (folder / "params.json").exists():
        write_json(folder / "params.json", dict(params))
    parts = {
        (name, part): measure_part(job, params, name, part, benches[name]) for name, part in parts_of(job, benches)
    }
    costs: dict[str, Any] = {name: {precision: {} for precision in job.precisions} for name in benches}
    for (name, _), found in parts.items():
        for precision, figures in found["figures"].items():
            costs[name][precision] |= figures
    return {
        "costs": costs,
        **{took: sum(found[took] for found in parts.values()) for took in ("export_s", "measure_s")},
    }


def parts_of(job: Job, targets: Iterable[str]) -> list[tuple[str, str]]:
    """(target, what is measured and kept together): size and latency, or the bytes alone where budgets ask for no more,
    then each further quantity that they ask for."""
    parts = []
    for name in targets:
        asked = asked_quantities(job, name)
        main = BYTES if asked <= {BYTES, *EXTRA} else ""
        parts += [(name, part) for part in (main, *sorted(asked & EXTRA))]
    return parts


def asked_quantities(job: Job, target: str) -> set[str]:
    """Costs that the target's budgets limit or choose by."""
    budgets = [b for b in job.spec.budgets.values() if b.target == target]
    asked = {job.spec.main_cost(target)}
    return asked | {q for b in budgets for q in (*cost_limits(b), b.cheapest_by) if q}


def is_static(job: Job) -> bool:
    """Whether all that budgets ask for is in the file's bytes, so that any host may say it."""
    return all(part == BYTES for _, part in parts_of(job, {b.target for b in job.spec.budgets.values()}))


def is_of_part(quantity: str, part: str) -> bool:
    """Whether the part is where the quantity is kept."""
    return quantity == part if part else quantity not in EXTRA


def measure_part(job: Job, params: Params, target: str, part: str, bench: Meter | None) -> dict[str, Any]:
    """`{figures: {precision: {quantity: measurement}}, export_s, measure_s}`."""

    def work() -> dict[str, Any]:
        start = time.monotonic()
        graphs = untrained_graphs(job, params)
        exported = time.monotonic()
        figures = {precision: measure_quickly(job, target, part, path, bench) for precision, path in graphs.items()}
        return {"figures": figures, "export_s": exported - start, "measure_s": time.monotonic() - exported}

    return dict(remember(*measuring_place(job, params, target, part), work))


def measuring_place(job: Job, params: Params, target: str, part: str) -> tuple[Path, list[Any]]:
    """Where a part of an untrained candidate's measurements is kept, and what it depends on."""
    kept = candidate_folder(job, params) / "measurements" / f"{target}{part and '.' + part}.json"
    return kept, [job.built_id, dict(params), job.precisions, opset(job), *job.fed_by, *key_of(job, target)]


def measure_quickly(job: Job, target: str, part: str, path: Path, bench: Meter | None) -> dict[str, Any]:
    """Of one file the quantities of one part: the target's main ones, or what a budget limits beside them."""
    if part == BYTES:
        figures = [measure_size(path, job.targets[target])]
    elif part == "memory_mb":
        figures = measure_memory([measured_file(job, path)], job.targets[target], write_feeds(job))
    elif part == "first_token_ms":
        assert isinstance(bench, GeneratingMeter)
        figures = bench.first_token(path)
    elif part == "latency_p95_ms" and isinstance(bench, Bench | ReadingMeter):
        figures = bench.direct(path, QUICK_SECONDS)
    else:
        assert bench is not None
        figures = bench.quickly(path)
    return {figure.quantity: measurement_to_dict(figure) for figure in figures}


def violation(job: Job, costs: Mapping[str, Any]) -> float:
    """The one constraint of a trial: ≤ 0 where some budget is kept at some precision.

    The least, over budgets and precisions, of the greatest `measured / limit - 1` within a budget. Scores are
    not known yet and do not count; a budget without other limits is fitted by a share of the draws of its own.
    """
    found = [over_limits(figures, limits) for limits, figures in limits_and_figures(job, costs) if limits]
    return min(found, default=0.0)


def over_limits(figures: Mapping[str, Any], limits: Mapping[str, float]) -> float:
    """The greatest `measured / limit - 1`; ≤ 0 where all limits are kept, -1 where there are none."""
    return max((value_of(figures, quantity) / limit - 1 for quantity, limit in limits.items()), default=-1.0)


def budgets_kept(job: Job, costs: Mapping[str, Any]) -> list[str]:
    """Names of the budgets whose cost limits some precision keeps."""
    kept = []
    for name, budget in job.spec.budgets.items():
        figures = costs.get(budget.target, {}).values()
        if any(over_limits(one, cost_limits(budget)) <= 0 for one in figures):
            kept.append(name)
    return kept


def limits_and_figures(
    job: Job, costs: Mapping[str, Any], target: str | None = None
) -> Iterator[tuple[dict[str, float], dict[str, Any]]]:
    """Each budget's cost limits beside what each precision takes there; of one target, or of all."""
    for budget in job.spec.budgets.values():
        if target not in (None, budget.target):
            continue
        limits = cost_limits(budget)
        for figures in costs.get(budget.target, {}).values():
            yield limits, figures


def without_samples(costs: Mapping[str, Any]) -> dict[str, Any]:
    """`{target: {precision: {quantity: figure}}}` as it goes into the study: small."""

    def bare(figure: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in figure.items() if name != "samples"}

    return {
        target: {
            p: {quantity: bare(figure) for quantity, figure in figures.items()} for p, figures in precisions.items()
        }
        for target, precisions in costs.items()
    }


def drawn_without_limits(job: Job, number: int) -> bool:
    """Budgets without limits get every n-th draw, n being the number of budgets."""
    free = [not cost_limits(b) for b in job.spec.budgets.values()]
    return free[number % len(free)]


def told_cost(job: Job, costs: Mapping[str, Any], target: str) -> float:
    """The target's main cost at the cheapest precision that keeps some budget there; of all where none does."""
    cost = job.spec.main_cost(target)
    return value_of(cheapest_file(job, costs, target), cost)


def cheapest_file(job: Job, costs: Mapping[str, Any], target: str) -> Mapping[str, Any]:
    """The figures of the precision that `told_cost` is of."""
    cost = job.spec.main_cost(target)
    kept = [figures for limits, figures in limits_and_figures(job, costs, target) if over_limits(figures, limits) <= 0]
    return min(kept or costs[target].values(), key=lambda figures: value_of(figures, cost))


def say_cost(job: Job, costs: Mapping[str, Any], target: str) -> str:
    """`told_cost` in words, or why it is untold."""
    cost, figures = job.spec.main_cost(target), cheapest_file(job, costs, target)
    why = why_untold(figures, [cost])
    return f"{cost} {value_of(figures, cost):.3g} on {target}" if why is None else f"on {target} {why}"


def why_unfit(job: Job, costs: Mapping[str, Any]) -> str | None:
    """Where every file that a budget could take lacks a limited cost, why; None where some file's are all told."""
    found = [why_untold(figures, limits) for limits, figures in limits_and_figures(job, costs) if limits]
    return found[0] if found and None not in found else None
