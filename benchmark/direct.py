"""Figures of a runtime that cannot be paired with a reference: as timed there, run after run, in several sessions.

For devices that are reached by a command at a time, and for a runtime that is slowed down in chunks, where only a mean
over a long window is sound (`window_s`): each sample is then the mean of one window.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.footprint import measure_download, measure_memory, measure_size
from benchmark.intervals import interval_of_repeats
from benchmark.models import check_model, say_options
from benchmark.opened import Opened
from benchmark.targets import can_answer, provenance_of
from benchmark.types import Measurement

SECONDS = 0.5  # of a candidate, in all
REPEATS = 5  # sessions
LONGER = 4  # times for what decides


class DirectMeter(Opened):
    """Times model files on `target` directly; a context manager that ends its channel."""

    def quickly(self, model: Path) -> list[Measurement]:
        """size_kb, latency_ms, latency_p95_ms of a candidate."""
        return [measure_size(model, self._target), *self.direct(model, SECONDS)]

    def settle(self, models: Sequence[Path]) -> list[list[Measurement]]:
        """The same, longer, download_kb, and memory_mb where the target tells it, of each of `models`."""
        target, longer = self._target, SECONDS * LONGER
        settled = [[measure_size(m, target), measure_download(m, target), *self.direct(m, longer)] for m in models]
        if "memory_mb" in can_answer(target):
            for figures, memory in zip(settled, measure_memory(models, target, self._feeds), strict=True):
                figures.append(memory)
        return settled

    def time_models(self, models: Sequence[Path]) -> list[Measurement]:
        """latency_ms of each of `models`, as in `settle`."""
        return [self.direct(model, SECONDS * LONGER)[0] for model in models]

    def direct(self, model: Path, seconds: float) -> list[Measurement]:
        """latency_ms: median over sessions of each session's median (mean where the answer says `means`)."""
        answer = self._channel.ask("time", check_model(Path(model)), seconds=seconds, repeats=REPEATS)
        repeats = [np.asarray(repeat) / 1e6 for repeat in answer["samples_ns"]]
        if answer.get("means"):
            return [self._say("latency_ms", [float(np.mean(one)) for one in repeats], repeats, "mean", answer)]
        return [
            self._say(quantity, [float(np.quantile(one, level)) for one in repeats], repeats, said, answer)
            for quantity, level, said in (("latency_ms", 0.5, "median"), ("latency_p95_ms", 0.95, "95th percentile"))
        ]

    def _say(
        self, quantity: str, each: Sequence[float], repeats: Sequence[Any], said: str, answer: dict[str, Any]
    ) -> Measurement:
        value = float(np.median(each))
        low, high = (float(np.exp(end)) for end in interval_of_repeats(np.log(each).tolist()))
        runs = np.concatenate(repeats)
        protocol = f"{said} of {len(runs)} samples in {len(each)} sessions; {say_options(self._target)}"
        return Measurement(
            quantity,
            value,
            min(low, value),
            max(high, value),
            tuple(np.round(runs, 6).tolist()),
            self._target.name,
            provenance_of(self._target),
            protocol + (f"; {answer['note']}" if answer.get("note") else ""),
            self.host,
            noisy=bool(max(each) > 1.15 * min(each) or answer.get("throttled")),
        )
