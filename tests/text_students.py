"""A student of texts as a folder, made in a second, with a tokenizer of its own."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from export import TextFront, body_signature, front_data, merge_front, to_onnx, write_text_student
from export.hard_texts import TEXTS
from family.text.tokenizer import Tokenizer, train_tokenizer

LENGTH = 48
CLASSES = ["Ä", "owl", "heron"]
GOLDEN = ["A plain sentence, in English.", "", "👩🏿‍🚀 joined, مرحبا, 日本語", "word " * 100]


class Averaged(nn.Module):
    """The mean of tokens' embeddings, padding left out, and a layer over it."""

    def __init__(self, vocabulary: int, outputs: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16)
        self.head = nn.Linear(16, outputs)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        used = (ids != 0).float().unsqueeze(-1)
        return self.head((self.embedding(ids) * used).sum(1) / used.sum(1).clamp(min=1))


def make_tokenizer(vocabulary: int = 600) -> Tokenizer:
    return train_tokenizer(TEXTS, vocabulary)


def make_text_student(
    folder: Path, tokenizer: Tokenizer, texts: list[str] = GOLDEN, given: dict | None = None
) -> tuple[Path, nn.Module]:
    """The folder and the module, as trained. `given`: what else the manifest says."""
    torch.manual_seed(0)
    module = Averaged(tokenizer.size, len(CLASSES)).eval()
    front, parts = TextFront(LENGTH, tokenizer.size), folder / "parts"
    to_onnx(module, body_signature(front, len(CLASSES), "logits"), parts / "body.onnx")
    artifact = merge_front(parts / "body.onnx", front, parts / "model.onnx")
    told = front_data(front) | {"tokenizer": "tokenizer.json", "nothing": tokenizer.nothing}
    told["characters"] = tokenizer.characters(LENGTH)
    manifest = {"name": "birds/text", "kind": "classification", "classes": CLASSES, "preprocessing": told}
    manifest |= {"teacher": None} | (given or {})
    return write_text_student(folder / "student", artifact, manifest, texts, tokenizer.data, "# A card\n"), module


def expect(module: nn.Module, tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """What training would have given: logits (texts, classes)."""
    with torch.no_grad():
        return module(torch.from_numpy(tokenizer.encode(texts, LENGTH))).numpy()
