"""Latency of model files on one target, in a process of its own.

Two figures, each named for what it is. `paired` ranks: a machine with neighbours changes speed for longer
than any affordable window, so a candidate is timed in turn with a reference of similar cost and the ratio
is kept; in ms it is that ratio × the reference's median, recorded once (the ladder). `direct` is what a
stopwatch says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.footprint import measure_download, measure_memory, measure_size
from benchmark.intervals import find_t, interval_of_repeats, median_error, pooled_spread
from benchmark.models import check_model, hash_model, say_options
from benchmark.opened import Opened
from benchmark.targets import can_answer, provenance_of
from benchmark.types import Measurement, Target

ROUNDS = 6  # of the ladder, each in a fresh process
QUIET_ROUNDS = 4  # of them are used
SLOWED = 1.08  # a reference this much slower than at rest tells of contention
REPEATS = 5  # of a direct measurement
LADDER_SECONDS = 1.5  # per pair of neighbouring rungs, over all rounds
PROCESSES = 5  # fresh ones, each finalist timed in all of them
QUICK_SECONDS = 0.1  # of a candidate
DIRECT_SECONDS = 0.5  # of a finalist, as timed


class Bench(Opened):
    """Times model files on `target`; a context manager that ends its process.

    references: model files to pair with, about six per precision, spread over the costs of the candidates.
    feeds: an .npz with one real example batch by input name; without it inputs are made from the signature.
    ladder: what an earlier `ladder()` returned for the same references; then none of it is measured again.
    """

    def __init__(
        self,
        target: Target,
        references: Sequence[Path] = (),
        feeds: Path | None = None,
        *,
        ladder: Sequence[Mapping[str, Any]] | None = None,
        ladder_seconds: float = LADDER_SECONDS,
    ):
        super().__init__(target, feeds)
        by_content = {hash_model(path): path for path in (check_model(Path(path)) for path in references)}
        self._references = list(by_content.values())
        self._ladder_seconds = ladder_seconds
        with ExitStack() as undo:
            undo.callback(self.close)
            self._ladder = None if ladder is None else _match_ladder(ladder, self._references, target, self.host)
            undo.pop_all()
        self._nearest: dict[Path, str] = {}  # of models timed afresh: which reference they are paired with

    def quickly(self, model: Path) -> list[Measurement]:
        """size_kb and latency_ms of a candidate."""
        return [measure_size(model, self._target), self.paired(model, QUICK_SECONDS)]

    def settle(self, models: Sequence[Path]) -> list[list[Measurement]]:
        """Of each file size_kb, download_kb, latency_ms (all of them in the same fresh processes), latency_direct_ms,
        latency_p95_ms, and memory_mb where the target tells it."""
        if not models:
            return []
        target, latencies = self._target, self.paired_afresh(models)
        settled = [
            [measure_size(model, target), measure_download(model, target), latency, *self.direct(model, DIRECT_SECONDS)]
            for model, latency in zip(models, latencies, strict=True)
        ]
        if "memory_mb" in can_answer(self._target):
            for figures, memory in zip(settled, measure_memory(models, self._target, self._feeds), strict=True):
                figures.append(memory)
        return settled

    def time_models(self, models: Sequence[Path]) -> list[Measurement]:
        """latency_ms of each of `models`, as in `settle`."""
        return self.paired_afresh(models) if models else []

    def ladder(self) -> list[dict[str, Any]]:
        """One rung per reference, by rising cost, as plain data to be written and passed back.

        The first call measures it and wants a machine at rest: neighbouring rungs are paired in several
        rounds, each in a fresh process, and chained; each rung's own median then votes on the scale in ms.
        `repeat_spread` is the relative standard deviation from round to round. Raises ValueError without
        references.
        """
        if self._ladder is None:
            self._ladder = self._measure_ladder()
        return [{key: value for key, value in rung.items() if key != "path"} for rung in self._ladder]

    def paired(self, model: Path, seconds: float = 0.2) -> Measurement:
        """latency_ms: median over blocks of (model's least ÷ reference's least time) × the reference's ms.

        For ranking and pruning. samples: each block's ratio × the reference's ms. The interval joins the scatter
        within this repeat with the ladder's spread between repeats: it is about this process, and another one may
        find a few per cent more or less (what decides goes through `paired_afresh`). Nor does it hold what
        contention does to unlike models (one of 23 channels slowed by 39 % where one of 28 slowed by 10 %), so a
        slowed reference is flagged as noisy: measure again at rest what matters.

        Raises ValueError for a file that cannot be run, WorkerDied.
        """
        answer = self._pair(model, seconds, self._rungs())
        rung = self._rungs()[answer["nearest"]]
        repeat = rung["repeat_spread"] * max(1.0, rung["repeat_seconds"] / seconds) ** 0.5
        samples = take_samples(answer, rung)
        half = find_t(rung["freedom"]) * float(np.hypot(repeat, median_error(samples)))
        return self._say_paired([samples], [answer], rung, half, f"{seconds:g} s")

    def paired_afresh(self, models: Sequence[Path], seconds: float = 0.1) -> list[Measurement]:
        """latency_ms of several models, each paired in the same `PROCESSES` fresh processes, one after the other.

        For what decides. A process keeps its memory layout and its luck for as long as it lives, so repeats
        within one agree better than they should. samples: each process's median. The interval holds what a
        further process finds in 95 % of cases: t · √(s² (1 + 1/n) + ladder²), where s² is the mean of the
        model's own variance between processes and the one pooled over all `models`.

        Raises ValueError for a file that cannot be run, WorkerDied.
        """
        answers = list(zip(*(self._pair_all(models, seconds) for _ in range(PROCESSES)), strict=True))
        nearest = [next(rung for rung in self._rungs() if rung["path"] == own[0]["reference"]) for own in answers]
        found = [[take_samples(one, rung) for one in own] for own, rung in zip(answers, nearest, strict=True)]
        medians = np.array([[np.median(samples) for samples in own] for own in found])
        own_variance = np.log(medians).var(axis=1, ddof=1)
        variance = (own_variance + own_variance.mean()) / 2
        measured = []
        for i, rung in enumerate(nearest):
            ladder = rung["repeat_spread"] ** 2 / QUIET_ROUNDS
            half = find_t((PROCESSES - 1) * min(2, len(models))) * (variance[i] * (1 + 1 / PROCESSES) + ladder) ** 0.5
            said = f"{seconds:g} s in each of {PROCESSES} fresh processes"
            measured.append(self._say_paired(found[i], answers[i], rung, float(half), said))
        return measured

    def _rungs(self) -> list[dict[str, Any]]:
        self.ladder()
        assert self._ladder is not None
        return self._ladder

    def _pair_all(self, models: Sequence[Path], seconds: float) -> list[dict[str, Any]]:
        """Every model paired once, in one fresh process; the same reference each time, by the model's name."""
        self._channel.restart()
        answers = []
        for model in models:
            known = self._nearest.get(model)
            rungs = [rung for rung in self._rungs() if known in (None, rung["path"])]
            answer = self._pair(model, seconds, rungs)
            self._nearest[model] = answer["reference"] = rungs[answer["nearest"]]["path"]
            answers.append(answer)
        return answers

    def _pair(self, model: Path, seconds: float, rungs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return self._channel.ask(
            "pair",
            check_model(Path(model)),
            seconds=seconds,
            references=[rung["path"] for rung in rungs],
            reference_ms=[rung["ms"] for rung in rungs],
        )

    def _say_paired(
        self,
        samples: Sequence[Sequence[float]],
        answers: Sequence[Mapping[str, Any]],
        rung: Mapping[str, Any],
        half: float,
        said: str,
    ) -> Measurement:
        """One repeat's blocks, or the medians of several; `half`: of the interval, in logs."""
        medians = [float(np.median(one)) for one in samples]
        value, pairs = float(np.median(medians)), sum(len(one) for one in samples)
        slowed = np.median([other for one in answers for _, other in one["blocks_ns"]]) / 1e6 / rung["least_ms"]
        each = answers[0].get("each", "least")
        protocol = f"median of {pairs} pairs of 2 ms blocks ({each} ÷ {each}), {said}"
        return Measurement(
            "latency_ms",
            value,
            value * np.exp(-half).item(),
            value * np.exp(half).item(),
            tuple(samples[0] if len(samples) == 1 else [round(one, 7) for one in medians]),
            self._target.name,
            provenance_of(self._target),
            f"{protocol}; reference {rung['reference']} at {rung['ms']:.5g} ms; {say_options(self._target)}",
            self.host,
            noisy=bool(half > 0.1 or slowed > SLOWED),
        )

    def direct(self, model: Path, seconds: float = 1.0) -> list[Measurement]:
        """latency_direct_ms (median) and latency_p95_ms as timed, run after run; for a machine at rest.

        samples: single runs in ms. Noisy where the median is far above the least run or repeats disagree.
        """
        answer = self._channel.ask("time", check_model(Path(model)), seconds=seconds, repeats=REPEATS)
        repeats = [np.asarray(repeat) / 1e6 for repeat in answer["samples_ns"]]
        return [
            self._summarise("latency_direct_ms", repeats, 0.5, seconds),
            self._summarise("latency_p95_ms", repeats, 0.95, seconds),
        ]

    def _summarise(self, quantity: str, repeats: list[Any], level: float, seconds: float) -> Measurement:
        runs = np.concatenate(repeats)
        value = float(np.quantile(runs, level))
        logs = interval_of_repeats([float(np.log(np.quantile(repeat, level))) for repeat in repeats])  # of factors
        low, high = (float(np.exp(end)) for end in logs)
        medians = [float(np.median(repeat)) for repeat in repeats]
        return Measurement(
            quantity,
            value,
            max(min(low, value), float(runs.min()) if level == 0.5 else 0.0),
            max(high, value),
            tuple(np.round(runs, 6).tolist()),
            self._target.name,
            provenance_of(self._target),
            f"{len(runs)} runs as timed in {REPEATS} repeats, {seconds:g} s; {say_options(self._target)}",
            self.host,
            noisy=bool(np.median(runs) > 1.3 * runs.min() or max(medians) > 1.15 * min(medians)),
        )

    def _measure_ladder(self) -> list[dict[str, Any]]:
        if not self._references:
            raise ValueError("pairing needs at least one reference model. Got none.")
        costs = {path: self._channel.ask("probe", path)["ns"] for path in self._references}
        paths = sorted(self._references, key=lambda path: costs[path])
        links = list(zip(paths[1:], paths[:-1], strict=True)) or [(paths[0], paths[0])]
        rounds = [self._measure_round(links, paths) for _ in range(ROUNDS)]
        # Under contention unlike models slow down unlike. Quiet is judged by times, not by ratios.
        rounds.sort(key=lambda one: float(np.log(one["rungs_ms"]).mean()))
        quiet = rounds[:QUIET_ROUNDS]
        ratios = np.asarray([one["ratios"] for one in quiet]).T  # (links, rounds)
        rungs = np.median([one["rungs_ms"] for one in quiet], axis=0)  # (rungs, 3): least, median, p95
        chain = np.cumprod([1.0, *np.median(ratios, axis=1)])[: len(paths)]
        scale = float(np.median(rungs[:, 1] / chain))  # of the first rung, as each rung tells it
        spread, freedom = pooled_spread(ratios)
        ladder = [
            {
                "reference": path.name,
                "sha256": hash_model(path),
                "ms": float(f"{scale * link:.6g}"),
                "least_ms": float(f"{least:.6g}"),
                "direct_ms": float(f"{median:.6g}"),
                "p95_ms": float(f"{p95:.6g}"),
                "repeat_spread": float(f"{spread:.6g}"),
                "repeat_seconds": self._ladder_seconds / ROUNDS,
                "freedom": freedom,
                "noisy": bool(abs(np.log(median / (scale * link))) > 0.1 or spread > 0.05),
                "threads": self._target.options.get("threads", 1),
                "batch": self._target.options.get("batch", 1),
                "host": self.host,
                "path": str(path),
            }
            for path, link, (least, median, p95) in zip(paths, chain, rungs, strict=True)
        ]
        return sorted(ladder, key=lambda rung: rung["ms"])

    def _measure_round(self, links: list[tuple[Path, Path]], paths: list[Path]) -> dict[str, Any]:
        """In a fresh process: each link's ratio (upper ÷ lower), each rung's least, median, p95 in ms."""
        self._channel.restart()
        seconds = self._ladder_seconds / ROUNDS
        ratios = []
        for upper, lower in links:
            one = {"references": [str(lower)], "reference_ms": [1.0], "seconds": seconds, "strict": False}
            blocks = np.asarray(self._channel.ask("pair", upper, **one)["blocks_ns"], dtype=float)
            ratios.append(float(np.median(blocks[:, 0] / blocks[:, 1])))
        return {"ratios": ratios, "rungs_ms": [self._time_rung(path, seconds / 2) for path in paths]}

    def _time_rung(self, path: Path, seconds: float) -> list[float]:
        answer = self._channel.ask("time", path, seconds=seconds, repeats=1, strict=False)
        return [float(one) for one in np.quantile(np.asarray(answer["samples_ns"][0]) / 1e6, [0, 0.5, 0.95])]


def _match_ladder(
    ladder: Sequence[Mapping[str, Any]], references: Sequence[Path], target: Target, host: str
) -> list[dict[str, Any]]:
    """The recorded rungs with the references' present paths; ValueError where they do not belong here."""
    here = {"host": host, **{key: target.options.get(key, 1) for key in ("threads", "batch")}}
    paths = {hash_model(path): str(path) for path in references}
    for rung in ladder:
        for key, value in here.items():
            if rung[key] != value:
                raise ValueError(f"the recorded ladder was measured with {key} {rung[key]}; here it is {value}.")
        if rung["sha256"] not in paths:
            raise ValueError(f"the recorded ladder's {rung['reference']} is not among the references.")
    if len(ladder) != len(paths):
        raise ValueError(f"the recorded ladder has {len(ladder)} rungs for {len(paths)} references.")
    return [{**rung, "path": paths[rung["sha256"]]} for rung in ladder]


def take_samples(answer: Mapping[str, Any], rung: Mapping[str, Any]) -> list[float]:
    """Each pair of blocks as the model's ms."""
    return [round(own / other * rung["ms"], 7) for own, other in answer["blocks_ns"]]
