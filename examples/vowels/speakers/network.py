"""The teacher's architecture: a wide convolutional network over time, padding masked."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class Speaker(nn.Module):
    """series: (batch, 12, time), length: (batch,) → logits (batch, speakers)."""

    def __init__(self, speakers: int, width: int = 192):
        super().__init__()
        self.normalise = nn.BatchNorm1d(12)
        sizes = [12, width, width, width]
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 5, padding=2) for a, b in pairwise(sizes))
        self.head = nn.Linear(2 * width, speakers)

    def forward(self, series: Tensor, length: Tensor) -> Tensor:
        keep = (torch.arange(series.shape[2]) < length[:, None])[:, None].float()
        x = self.normalise(series) * keep
        for layer in self.layers:
            x = torch.relu(layer(x)) * keep
        mean = x.sum(2) / keep.sum(2)
        return self.head(nn.functional.dropout(torch.cat([mean, x.amax(2)], 1), 0.3, self.training))
