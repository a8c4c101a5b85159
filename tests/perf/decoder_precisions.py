"""A small decoder at every precision: size, time a token at a full cache, bits per byte, and likeliest tokens that change.

`python -P tests/perf/decoder_precisions.py`, some three minutes. The text is Python's own help topics, of which every fifth
is held out. Times are taken in turns, a precision after the other, so that other work on the machine meets all of them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmark import host
from export import Runner, StepFront, quantise, write_decoder
from family.entry_points import step_inputs
from family.text.decoder import DecoderShape, DecoderStudent, as_blocks
from family.text.tokenizer import NOTHING, Tokenizer, train_tokenizer

SHAPE = DecoderShape(vocabulary=2048, context=256, width=128, depth=4, heads=4, feed=384)
PRECISIONS = ("fp32", "int8-dynamic", "int4", "int8-weights", "fp16-weights")
STEPS, BATCH, LENGTH, RATE = 400, 8, 128, 4e-3
TURNS, ROWS = 300, 48


def main() -> None:
    texts = [topics[name] for name in sorted(topics)]
    held = texts[::5]
    train = [text for i, text in enumerate(texts) if i % 5]
    tokenizer = train_tokenizer(train, SHAPE.vocabulary)
    module, loss = train_decoder(tokenizer, train)
    ids, sizes = cut_rows(tokenizer, held)
    blocks = as_blocks(module)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in PRECISIONS}
        write_decoder(blocks, files["fp32"])
        for name in PRECISIONS[1:]:
            quantise(files["fp32"], files[name], name, [])
        runners = {name: Runner(path) for name, path in files.items()}
        bits, likeliest = zip(*(judge(runner, blocks.front, ids, sizes) for runner in runners.values()), strict=True)
        took = time_tokens(list(runners.values()), blocks.front)
        kilobytes = [files[name].stat().st_size / 1000 for name in PRECISIONS]
    parameters = sum(one.numel() for one in module.parameters())
    print(f"{SHAPE}, {parameters:,} parameters, last loss {loss:.2f}; {host()['cpu']}")
    print(f"load {os.getloadavg()[0]:.1f}; one thread; {ids.size} held-out tokens of {sizes.sum()} bytes\n")
    print(
        "| precision | kB | of fp32 | ms a token | of fp32 | bits per byte | more than fp32 | likeliest tokens changed |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for i, name in enumerate(PRECISIONS):
        flips = (likeliest[i] != likeliest[0]).mean()
        print(
            f"| {name} | {kilobytes[i]:,.0f} | {kilobytes[i] / kilobytes[0]:.2f} | {np.median(took[:, i]):.3f} "
            f"| {np.median(took[:, i] / took[:, 0]):.2f} | {bits[i]:.4f} | {bits[i] - bits[0]:+.4f} | {flips:.1%} |"
        )


def train_decoder(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[DecoderStudent, float]:
    """With labels alone; and the loss of the last batch, in nats a token."""
    torch.manual_seed(0)
    module = DecoderStudent(SHAPE)
    ids = torch.tensor([i for text in texts for i in [NOTHING, *tokenizer.opened.encode(text).ids]])
    optimiser = torch.optim.AdamW(module.parameters(), RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    for _ in range(STEPS):
        starts = torch.randint(0, len(ids) - LENGTH - 1, (BATCH,))
        rows = torch.stack([ids[start : start + LENGTH + 1] for start in starts])
        loss = cross_entropy(module(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    return module.eval(), float(loss.detach())


def cut_rows(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids (rows, context) of held-out text, spread over it, and the bytes of each row."""
    ids = np.array([i for text in texts for i in tokenizer.opened.encode(text).ids])
    ids = ids[: len(ids) // SHAPE.context * SHAPE.context].reshape(-1, SHAPE.context)
    ids = ids[:: max(1, len(ids) // ROWS)][:ROWS]
    bytes_of = np.array([len(tokenizer.opened.id_to_token(i)) for i in range(tokenizer.size)])  # a character is a byte
    return ids, bytes_of[ids].sum(axis=1)


def judge(runner: Runner, front: StepFront, ids: np.ndarray, sizes: np.ndarray) -> tuple[float, np.ndarray]:
    """Bits per byte, and the likeliest token at every position."""
    nats, likeliest = 0.0, []
    for row in ids:
        given = np.concatenate([[NOTHING], row[:-1]])[None]
        logp = torch.from_numpy(runner(step_inputs(front, given, 0))).log_softmax(2)[0].numpy()
        nats -= float(logp[np.arange(len(row)), row].sum())
        likeliest.append(logp.argmax(axis=1))
    return nats / np.log(2) / float(sizes.sum()), np.concatenate(likeliest)


def time_tokens(runners: Sequence[Runner], front: StepFront) -> np.ndarray:
    """Milliseconds (turns, precisions) of one more token where all of the context but it is past."""
    feeds = step_inputs(front, np.array([[NOTHING]]), front.context - 1)
    took = np.zeros((TURNS, len(runners)))
    for turn in took:
        for i, runner in enumerate(runners):
            start = time.perf_counter()
            runner.all_outputs(feeds)
            turn[i] = (time.perf_counter() - start) * 1000
    return took[TURNS // 10 :]


if __name__ == "__main__":
    main()
