"""A user's own space: plain convolutions, one width a stage, as someone might write who never heard of ours."""

import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, channels: int, first: int, second: int, hidden: int, outputs: int):
        super().__init__()
        self.one = nn.Conv2d(channels, first, 3, padding=1)
        self.two = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.three = nn.Conv2d(second, hidden, 3, stride=2, padding=1)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.one, self.two, self.three):
            x = torch.relu(layer(x))
        return self.last(x.mean((2, 3)))


def plain() -> dict:
    def build(params, signature):
        shape = signature.inputs[0].shape
        widths = (params["first"], params["second"], params["hidden"])
        return Plain(shape[1], *widths, signature.outputs[0].shape[1])

    wide = {"low": 4, "high": 24, "log": True}
    return {"dims": {"first": wide, "second": {**wide, "high": 48}, "hidden": {**wide, "high": 96}}, "build": build}
