"""What it costs a student to read: its tokenizer is timed with it, and shown apart.

An app gives a string. So the latency of a student of texts is that of its tokenizer (Python `tokenizers`, one thread)
and of its file together, on targets that are this host; elsewhere it is the file's alone, for the tokenizer is not
timed there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import Bench, Measurement, Meter, Target
from family.run_folder import write_beside
from family.text.tokenizer import Tokenizer, open_tokenizer

SAMPLES = 15
ORDER = 3  # the 4th and the 12th of 15 bound the median at 96.5 % (binomial)
SAMPLE_SECONDS = 0.004
TOGETHER = ("latency_ms", "latency_direct_ms", "latency_p95_ms")  # figures that the tokenizer is part of
FILE, TOKENIZER = "file_ms", "tokenizer_ms"
TEXT = "timed.txt"  # beside a model: what its tokenizer is timed on


def put_reading(model: Path, tokenizer: Tokenizer, text: str, length: int) -> None:
    """The tokenizer.json beside a model that it makes the ids of, and as much of the text as is read for the `length`
    tokens that the model takes."""
    read = text[: tokenizer.characters(length)]
    write_beside(model.with_name("tokenizer.json"), lambda beside: beside.write_bytes(tokenizer.data))
    write_beside(model.with_name(TEXT), lambda beside: beside.write_bytes(read.encode()))


class ReadingMeter:
    """`meter` of a target that is this host, with the tokenizer beside each model, on the text beside it."""

    def __init__(self, meter: Meter, target: Target):
        self.meter, self.target = meter, target
        self.known: dict[tuple[bytes, bytes], Measurement] = {}

    @property
    def host(self) -> str:
        return self.meter.host

    def facts(self) -> dict[str, Any]:
        return self.meter.facts()

    def quickly(self, model: Path) -> list[Measurement]:
        return self.read_too(model, self.meter.quickly(model))

    def direct(self, model: Path, seconds: float) -> list[Measurement]:
        """Latencies as timed, run after run."""
        assert isinstance(self.meter, Bench)
        return self.read_too(model, self.meter.direct(model, seconds))

    def settle(self, models: Sequence[Path]) -> list[list[Measurement]]:
        self.known.clear()  # timed anew, with nothing else running
        return [self.read_too(model, own) for model, own in zip(models, self.meter.settle(models), strict=True)]

    def close(self) -> None:
        self.meter.close()

    def read_too(self, model: Path, figures: Sequence[Measurement]) -> list[Measurement]:
        """The figures with the tokenizer in them, and what either takes."""
        timed = [one for one in figures if one.quantity in TOGETHER]
        if not timed:
            return list(figures)
        beside = (model.with_name("tokenizer.json").read_bytes(), model.with_name(TEXT).read_bytes())
        if beside not in self.known:
            self.known[beside] = self.time_tokenizer(*beside, timed[0])
        reading = self.known[beside]
        bare = [replace(one, quantity=FILE) for one in timed if one.quantity == "latency_ms"]
        return [*(add(one, reading) if one in timed else one for one in figures), *bare, reading]

    def time_tokenizer(self, data: bytes, read: bytes, like: Measurement) -> Measurement:
        """tokenizer_ms: the median of samples, each the mean of enough runs for `SAMPLE_SECONDS`."""
        encode = open_tokenizer(data).opened.encode
        texts = [read.decode()] * int(self.target.options.get("batch", 1))

        def run(times: int) -> float:
            start = time.thread_time()  # of the processor alone, so that other work on the host does not count
            for _ in range(times):
                for text in texts:
                    encode(text, add_special_tokens=False)
            return time.thread_time() - start

        run(3)
        times = max(1, int(SAMPLE_SECONDS / max(run(3) / 3, 1e-9)))
        samples = sorted(1000 * run(times) / times for _ in range(SAMPLES))
        return replace(
            like,
            quantity=TOKENIZER,
            value=float(np.median(samples)),
            low=samples[ORDER],
            high=samples[-1 - ORDER],
            samples=tuple(round(one, 6) for one in samples),
            protocol=f"{SAMPLES} samples of {times} runs of Python tokenizers, one thread's own time, on a text",
            noisy=samples[-1 - ORDER] > 1.3 * samples[ORDER],
        )


def add(file: Measurement, reading: Measurement) -> Measurement:
    """Both together; the ends of the intervals are added, which is wide rather than narrow."""
    return replace(
        file,
        value=file.value + reading.value,
        low=file.low + reading.low,
        high=file.high + reading.high,
        samples=tuple(round(one + reading.value, 6) for one in file.samples),
        protocol=f"{file.protocol}; with the tokenizer",
        noisy=file.noisy or reading.noisy,
    )
