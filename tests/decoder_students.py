"""Small decoders, briefly trained on sentences of a few words, and their tokenizer."""

import functools
import random

import torch
from torch.nn.functional import cross_entropy

from family.text.decoder import DecoderShape, DecoderStudent
from family.text.tokenizer import NOTHING, Tokenizer, train_tokenizer

WORDS = {
    "who": ["student", "teacher", "robin", "heron", "miller's daughter", "old clock"],
    "how": ["small", "patient", "naïve", "grey", "clever", "sleepy"],
    "does": ["reads", "follows", "forgets", "answers", "finds", "carries"],
    "where": ["under the bridge", "at night", "in the garden", "by the sea", "before noon"],
}
SHAPE = DecoderShape(vocabulary=384, context=96, width=64, depth=2, heads=4, feed=96)


@functools.cache
def read_text() -> str:
    dice = random.Random(0)

    def say() -> str:
        who, how, does, other, where = (dice.choice(WORDS[what]) for what in ("who", "how", "does", "who", "where"))
        return f"The {how} {who} {does} a {other} {where}.{dice.choice([' ', ' ', chr(10)])}"

    return "".join(say() for _ in range(500))


@functools.cache
def make_tokenizer(vocabulary: int = SHAPE.vocabulary) -> Tokenizer:
    return train_tokenizer([read_text()], vocabulary)


def random_decoder(shape: DecoderShape, seed: int = 0) -> DecoderStudent:
    torch.manual_seed(seed)
    return DecoderStudent(shape).eval()


@functools.cache
def trained_decoder(steps: int = 100, length: int = 48) -> DecoderStudent:
    """Of `SHAPE`: knows the commonest words."""
    module = random_decoder(SHAPE).train()
    ids = torch.tensor(make_tokenizer().opened.encode(read_text()).ids)
    optimiser = torch.optim.AdamW(module.parameters(), 1e-2)
    rate = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - length, (8,), generator=generator)
        rows = torch.stack([ids[start : start + length] for start in starts])
        given = torch.cat([torch.full((8, 1), NOTHING), rows[:, :-1]], 1)
        optimiser.zero_grad()
        cross_entropy(module(given).flatten(0, 1), rows.flatten()).backward()
        optimiser.step()
        rate.step()
    return module.eval()


def list_prompts(count: int, tokens: int = 8) -> list[list[int]]:
    """Ids of pieces of the text, with the start before them."""
    ids = make_tokenizer().opened.encode(read_text()).ids
    step = (len(ids) - tokens) // count
    return [[NOTHING, *ids[i * step : i * step + 1 + i % tokens]] for i in range(count)]
