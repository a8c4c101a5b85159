"""Milliseconds told by a device's profile: estimated, never measured, and untold where the profile does not reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.footprint import measure_size
from benchmark.models import check_model
from benchmark.opened import Opened
from benchmark.profile import ProfileChannel
from benchmark.targets import provenance_of
from benchmark.types import Measurement


class EstimateMeter(Opened):
    """Estimates model files on the device that `target` names a profile of."""

    def quickly(self, model: Path) -> list[Measurement]:
        """size_kb, and latency_ms: NaN where the profile does not reach that far, and why."""
        answer = self._channel.ask("estimate", check_model(Path(model)))
        return [measure_size(model, self._target), self._say(answer)]

    def settle(self, models: Sequence[Path]) -> list[list[Measurement]]:
        return [self.quickly(model) for model in models]

    def _say(self, answer: dict[str, Any]) -> Measurement:
        assert isinstance(self._channel, ProfileChannel)
        profile = self._channel.profile
        said = f"profile {profile.id} of {profile.students} students, ± {100 * profile.error:.1f} % out of sample"
        told = answer if "beyond" not in answer else dict.fromkeys(("ms", "low", "high"), math.nan)
        return Measurement(
            "latency_ms",
            told["ms"],
            told["low"],
            told["high"],
            () if "beyond" in answer else (told["ms"],),
            self._target.name,
            provenance_of(self._target),
            str(answer.get("beyond", said)),
            self.host,
        )
