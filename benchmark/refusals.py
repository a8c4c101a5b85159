"""Whether a target's runtime takes model files at all: operators and opset that it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmark.targets import TRANSPORTS, open_channel
from benchmark.types import Target


def why_refused(target: Target, models: Sequence[Path], feeds: Path | None = None) -> str | None:
    """What the target's runtime says of the first of `models` that it does not load and run, None where it runs all.

    A target that runs the onnxruntime version installed here is not asked. Raises ValueError where the target cannot
    be reached, WorkerDied where it is lost.
    """
    if not TRANSPORTS[target.transport].other_runtime(target):
        return None
    with closing(open_channel(target, feeds)) as channel:
        for model in models:
            try:
                channel.ask("probe", model, strict=False)
            except ValueError as refusal:
                return str(refusal)
    return None
