"""What labels alone teach, as training reads it."""

from __future__ import annotations

import torch
from torch import Tensor

from family.types import Split, Task


def labels_as_lessons(task: Task, split: Split) -> Tensor:
    """Labels of a split; -1 or NaN where there are none, as in transfer."""
    if split != "transfer":
        return torch.from_numpy(task.labels(split))
    if task.kind == "classification":
        return torch.full((task.rows(split),), -1, dtype=torch.int64)
    return torch.full((task.rows(split), int(task.body.outputs[0].shape[1])), float("nan"))
