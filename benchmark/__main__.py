"""`python -P -m benchmark MODEL.onnx --target cpu`: latency, memory and size of one model file.

Exit 0: measured. 2: wrong input, told in one line. 3: the target cannot be measured here.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmark.bench import Bench
from benchmark.channel import WorkerDied
from benchmark.footprint import measure_download, measure_memory, measure_size
from benchmark.host import host
from benchmark.meters import needs_ladder, open_meter
from benchmark.serial import measurement_to_dict
from benchmark.targets import PRESETS, can_answer, resolve_target, unavailable
from benchmark.types import Measurement, Target


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parse(arguments)
    options = {} if asked.threads is None else {"threads": asked.threads}
    try:
        target = resolve_target(asked.target, options)
        reason = unavailable(target)
        if reason is not None:
            print(reason, file=sys.stderr)
            return 3
        measurements = measure(asked.model, target, asked.feeds, asked.seconds)
    except (ValueError, WorkerDied) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    if asked.json:
        data = {"host": host(), "measurements": [measurement_to_dict(one) for one in measurements]}
        print(json.dumps(data, indent=1))
    else:
        print(draw(asked.model, measurements))
    return 0


def measure(model: Path, target: Target, feeds: Path | None, seconds: float) -> list[Measurement]:
    if not needs_ladder(target):
        with closing(open_meter(target, feeds=feeds)) as meter:
            return meter.settle([model])[0]
    with Bench(target, feeds=feeds) as bench:
        timed = bench.direct(model, seconds)
    memory = measure_memory([model], target, feeds) if "memory_mb" in can_answer(target) else []
    return [*timed, *memory, measure_size(model, target), measure_download(model, target)]


def draw(model: Path, measurements: Sequence[Measurement]) -> str:
    rows = [f"{model}   {host()['cpu']}, onnxruntime {host()['onnxruntime']}"]
    for one in measurements:
        if math.isnan(one.value):
            rows.append(f"{one.quantity:18} untold: {one.protocol}")
            continue
        noisy = "  noisy: the machine was not at rest" if one.noisy else ""
        rows.append(f"{one.quantity:18} {one.value:10.4g}  ({one.low:.4g} – {one.high:.4g})  {one.provenance}{noisy}")
    return "\n".join([*rows, measurements[0].protocol])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -P -m benchmark", description="Latency, memory and size of one model file."
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--target", default="cpu", help=f"one of {', '.join(PRESETS)} (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads of the runtime (default: the target's)")
    parser.add_argument("--seconds", type=_positive, default=1.0, help="how long to time (default: 1)")
    parser.add_argument("--feeds", type=Path, help=".npz with one example batch by input name")
    parser.add_argument("--json", action="store_true", help="print everything, raw samples too, as JSON")
    return parser.parse_args(arguments)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0. Got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
