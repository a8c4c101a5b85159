"""Let the student in this folder write, with numpy, onnxruntime and tokenizers.

    python generate.py                       the golden check, then the first golden prompt goes on
    python generate.py "Once upon a time"    goes on from a prompt, and prints as it writes

`--tokens 100`: at most so many; `--temperature 0.8`: tokens are drawn, where 0 takes the likeliest; `--seed 1`: the
same seed, the same text. Copy `load`, `stream` and what they call into your app. Keys and values of what was read are
kept: a further token reads one token, not the whole text.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parents[2]
UNFINISHED = "\ufffd"  # what the bytes of half a character are decoded as


class Student(NamedTuple):
    session: onnxruntime.InferenceSession
    tokenizer: Tokenizer
    manifest: dict


def load(folder: Path = FOLDER) -> Student:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return Student(session, Tokenizer.from_file(str(folder / manifest["preprocessing"]["tokenizer"])), manifest)


def encode(student: Student, prompt: str) -> list[int]:
    """Ids of a prompt: the start token, then its own. Raises ValueError where the student holds fewer."""
    front = student.manifest["preprocessing"]
    ids = [front["start"], *student.tokenizer.encode(prompt, add_special_tokens=False).ids]
    if len(ids) > front["context"]:
        raise ValueError(f"the prompt has {len(ids)} tokens with the start; this student holds {front['context']}")
    return ids


def step(student: Student, ids: list[int], past: list[np.ndarray] | None = None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits (vocabulary,) of the token after `ids`, which follow `past`; and the past with them."""
    front = student.manifest["preprocessing"]
    past = past or [np.zeros((1, front["heads"], 0, front["head"]), np.float32)] * (2 * front["layers"])
    start = past[0].shape[2]
    tokens = {"input_ids": np.array([ids]), "position_ids": np.arange(start, start + len(ids))[None]}
    names = [entry["name"] for entry in student.manifest["inputs"] if entry["name"] not in tokens]
    logits, *present = student.session.run(None, tokens | dict(zip(names, past, strict=True)))
    return logits[0, -1], present


def generate(
    student: Student, ids: list[int], tokens: int = 64, temperature: float = 0.0, seed: int = 0
) -> Iterator[int]:
    """Ids that go on from `ids`, until the end token, so many, or a full context."""
    front, dice = student.manifest["preprocessing"], draw(seed)
    logits, past = step(student, ids)
    for left in range(min(tokens, front["context"] - len(ids) + 1), 0, -1):
        token = pick(logits, temperature, next(dice))
        if token == front["end"]:
            return
        yield token
        if left > 1:
            logits, past = step(student, [token], past)


def stream(student: Student, prompt: str, tokens: int = 64, temperature: float = 0.0, seed: int = 0) -> Iterator[str]:
    """The text that goes on from a prompt, piece by piece, each of whole characters."""
    told: list[int] = []
    sent = 0
    for token in generate(student, encode(student, prompt), tokens, temperature, seed):
        told.append(token)
        text = student.tokenizer.decode(told).rstrip(UNFINISHED)
        if len(text) > sent:
            yield text[sent:]
            sent = len(text)
    if rest := student.tokenizer.decode(told)[sent:]:
        yield rest


def pick(logits: np.ndarray, temperature: float, number: float) -> int:
    """The likeliest token, or at a temperature above 0 the one in whose share of 0..1 the number falls."""
    if temperature <= 0:
        return int(logits.argmax())
    weights = np.exp((logits.astype(np.float64) - float(logits.max())) / temperature)
    ends = weights.cumsum()
    return min(int(np.searchsorted(ends, number * ends[-1], side="right")), len(ends) - 1)


def draw(seed: int) -> Iterator[float]:
    """Numbers of 0..1, the same as in JavaScript: the generator mulberry32."""
    state = seed
    while True:
        state = (state + 0x6D2B79F5) % 2**32
        x = (state ^ state >> 15) * (state | 1) % 2**32
        x ^= (x + (x ^ x >> 7) * (x | 61)) % 2**32
        yield (x ^ x >> 14) / 2**32


def check_golden(student: Student, folder: Path = FOLDER) -> bool:
    """Whether this machine reads and goes on from the golden prompts as where the student was made; printed.

    A token may differ only where two are equally likely, as far as the tolerance tells.
    """
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    tolerance, largest, same, good = golden["tolerance"], 0.0, 0, True
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        expected = [arrays[entry["logits"]["key"]] for entry in golden["prompts"]]
    for entry, wanted in zip(golden["prompts"], expected, strict=True):
        logits, past = step(student, entry["ids"])
        largest = max(largest, float(np.abs(logits - wanted).max()))
        good &= encode(student, entry["prompt"]) == entry["ids"]
        alike = True
        for token in entry["continuation"]:
            good &= bool(logits[token] >= logits.max() - 2 * tolerance)
            alike &= int(logits.argmax()) == token
            if past[0].shape[2] < student.manifest["preprocessing"]["context"]:
                logits, past = step(student, [token], past)
        same += alike
    good = good and largest <= tolerance
    said = f"off by {largest:.3g}, allowed {tolerance:.3g}; the same text for {same} of {len(expected)} prompts"
    print(f"golden check: {'ok' if good else 'FAILED'} ({said})")
    return good


def main() -> int:
    options = argparse.ArgumentParser(description="Let the student in this folder write.")
    options.add_argument("prompt", nargs="?")
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--temperature", type=float, default=0.0)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the console's is
    student, good, prompt = load(), True, asked.prompt
    if prompt is None:
        good = check_golden(student)
        prompt = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))["prompts"][0]["prompt"]
    try:
        print(prompt, end="", flush=True)
        for piece in stream(student, prompt, asked.tokens, asked.temperature, asked.seed):
            print(piece, end="", flush=True)
    except ValueError as error:
        sys.exit(f"\n{error}")
    print()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
