"""The teacher of the built-in digits: two convolutional networks, trained once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from family.run_folder import content_id, write_beside
from family.types import Task

STEPS, BATCH, MEMBERS = 700, 64, 2


class Member(nn.Sequential):
    def __init__(self) -> None:
        def block(a: int, b: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]

        super().__init__(
            *block(1, 32),
            *block(32, 64),
            nn.MaxPool2d(2),
            *block(64, 96),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(96, 10),
        )


class DigitsTeacher(nn.Module):
    """x: (batch, 1, 8, 8) in 0..1 → logits (batch, 10): the log of the members' mean distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(Member() for _ in range(MEMBERS))

    def forward(self, x: Tensor) -> Tensor:
        said = torch.stack([member(x).log_softmax(1) for member in self.members])
        return said.logsumexp(0) - float(np.log(MEMBERS))


def digits_teacher(task: Task, cache: Path) -> nn.Module:
    """Load it, or train it with every label of train and keep it."""
    path = cache / f"digits-{training_id(task)}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = DigitsTeacher()
        if not path.exists():
            for member in teacher.members:
                train_member(member, *labelled_views(task))
            write_beside(path, lambda beside: torch.save(teacher.state_dict(), beside))
    teacher.load_state_dict(torch.load(path, weights_only=True))
    return teacher.eval()


def training_id(task: Task) -> str:
    """Stands for the rows it is trained on: whoever splits otherwise gets a teacher of their own."""
    ids, truth = task.teacher_train_labels()  # type: ignore[attr-defined]
    order = np.argsort(ids)
    return content_id(ids[order].tolist(), truth[order].tolist(), task.views)


def labelled_views(task: Task) -> tuple[Tensor, Tensor]:
    """Teacher inputs (views, rows, 1, 8, 8) of train and transfer, and their labels."""
    _, truth = task.teacher_train_labels()  # type: ignore[attr-defined]
    views = []
    for view in range(max(task.views, 1)):
        parts = [
            task.teacher_inputs(s, np.arange(task.rows(s)), view, None)[0]
            for s in ("train", "transfer")
            if task.rows(s)
        ]  # type: ignore[arg-type]
        views.append(torch.from_numpy(np.concatenate(parts)))
    return torch.stack(views), torch.from_numpy(truth)


def train_member(member: nn.Module, views: Tensor, truth: Tensor) -> None:
    optimiser = torch.optim.AdamW(member.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=STEPS)
    member.train()
    for _ in range(STEPS):
        rows, view = torch.randint(len(truth), (BATCH,)), torch.randint(len(views), (BATCH,))
        loss = F.cross_entropy(member(views[view, rows]), truth[rows], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    member.eval()
