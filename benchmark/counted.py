"""What a model file takes on an emulated core: instructions, counted and not timed. Emulated time is never a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.footprint import measure_download, measure_size
from benchmark.models import check_model
from benchmark.opened import Opened
from benchmark.targets import can_answer, provenance_of
from benchmark.types import Measurement


class CountMeter(Opened):
    """Counts what one inference executes on `target`; a context manager that ends its channel."""

    def quickly(self, model: Path) -> list[Measurement]:
        """size_kb, and instructions_m where the target counts; elsewhere it is run to see that it does. Raises
        ValueError for a file that does not run there, WorkerDied."""
        if "instructions_m" in can_answer(self._target):
            return [measure_size(model, self._target), self.count(model)]
        self._channel.ask("run", check_model(Path(model)))
        return [measure_size(model, self._target)]

    def settle(self, models: Sequence[Path]) -> list[list[Measurement]]:
        """The same, and download_kb, of each of `models`."""
        return [[*self.quickly(model), measure_download(model, self._target)] for model in models]

    def count(self, model: Path) -> Measurement:
        """instructions_m: millions per inference, the median of several; `low` and `high` are the least and the most
        counted. Raises ValueError for a file that does not run there, WorkerDied."""
        answer: dict[str, Any] = self._channel.ask("count", check_model(Path(model)))
        counts = np.asarray([one["insn"] for one in answer["counts"]]) / 1e6
        return Measurement(
            "instructions_m",
            float(np.median(counts)),
            float(counts.min()),
            float(counts.max()),
            tuple(np.round(counts, 6).tolist()),
            self._target.name,
            provenance_of(self._target),
            f"median of {len(counts)} inferences after warm-up, batch {self._target.options.get('batch', 1)}",
            self.host,
        )
