"""The teacher: a decoder of 2.2 million parameters that reads the tokens of data/tokenizer.json."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from family.text.decoder import DecoderShape, DecoderStudent

DATA = Path(__file__).parent / "data"
CONTEXT, VOCABULARY = 128, 2048


class Teacher(nn.Module):
    """ids (batch, length) int64 → logits (batch, length, vocabulary). `tokenizer`: the path of its tokenizer.json."""

    tokenizer = DATA / "tokenizer.json"

    def __init__(self) -> None:
        super().__init__()
        self.decoder = DecoderStudent(DecoderShape(VOCABULARY, CONTEXT, width=192, depth=4, heads=6, feed=512))

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.decoder(ids)
        return logits


def trained() -> Teacher:
    module = Teacher()
    module.load_state_dict(load_file(DATA / "teacher.safetensors"))
    return module
