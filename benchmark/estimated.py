"""Milliseconds told by a device's profile: estimated, never measured, and left out where the profile cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.footprint import measure_size
from benchmark.models import check_model
from benchmark.opened import Opened
from benchmark.profile import ProfileChannel
from benchmark.targets import provenance_of
from benchmark.types import Measurement


class EstimateMeter(Opened):
    """Estimates model files on the device that `target` names a profile of."""

    def quickly(self, model: Path) -> list[Measurement]:
        """size_kb, and latency_ms where the profile reaches that far."""
        answer = self._channel.ask("estimate", check_model(Path(model)))
        size = measure_size(model, self._target)
        return [size] if "beyond" in answer else [size, self._say(answer)]

    def settle(self, models: Sequence[Path]) -> list[list[Measurement]]:
        return [self.quickly(model) for model in models]

    def _say(self, answer: dict[str, float]) -> Measurement:
        assert isinstance(self._channel, ProfileChannel)
        profile = self._channel.profile
        return Measurement(
            "latency_ms",
            answer["ms"],
            answer["low"],
            answer["high"],
            (answer["ms"],),
            self._target.name,
            provenance_of(self._target),
            f"profile {profile.id} of {len(profile.errors)} models, ± {100 * profile.error:.1f} % out of sample",
            self.host,
        )
