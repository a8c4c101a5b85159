"""The teacher of the built-in digits: two convolutional networks, trained once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from family.run_folder import content_id, write_beside
from family.types import Split

RECIPE = 3  # in the file's name: raise it when anything below changes
STEPS, BATCH, MEMBERS = 400, 64, 2


class Member(nn.Sequential):
    def __init__(self) -> None:
        def block(a: int, b: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]

        super().__init__(
            *block(1, 24),
            *block(24, 48),
            nn.MaxPool2d(2),
            *block(48, 96),
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


def is_trained(task: Any, cache: Path) -> bool:
    """Whether an earlier run trained and kept it."""
    return path_of(task, cache).exists()


def path_of(task: Any, cache: Path) -> Path:
    ids, truth = task.teacher_train_labels()
    order = np.argsort(ids)  # however train and transfer share these rows, the teacher is the same
    return cache / f"digits-{content_id(RECIPE, ids[order].tolist(), truth[order].tolist())}.pt"


def digits_teacher(task: Any, cache: Path, may_train: bool = True) -> nn.Module:
    """Load it, or train it with every label of train and transfer and keep it; not trained where it may not be.

    `task` offers `teacher_train_labels() -> (row ids, labels)` beside the Task protocol. The file's name
    stands for rows and labels: another split has its own teacher, which never saw that split's val and test.
    """
    path = path_of(task, cache)
    if not path.exists() and not may_train:
        return DigitsTeacher().eval()
    if not path.exists():
        ids, truth = task.teacher_train_labels()
        order = np.argsort(ids)
        trained = train_teacher(labelled_images(task)[order], truth[order])
        write_beside(path, lambda beside: torch.save(trained.state_dict(), beside))
    teacher = DigitsTeacher()
    teacher.load_state_dict(torch.load(path, weights_only=True))
    return teacher.eval()


def labelled_images(task: Any) -> Tensor:
    """Clean teacher inputs (rows, 1, 8, 8) of train, then transfer."""
    splits: tuple[Split, ...] = ("train", "transfer")
    parts = [task.teacher_inputs(s, np.arange(task.rows(s)), 0, None)[0] for s in splits if task.rows(s)]
    return torch.from_numpy(np.concatenate(parts))


def train_teacher(images: Tensor, truth: np.ndarray, seed: int = 0) -> DigitsTeacher:
    """Train every member on images (rows, 1, 8, 8) in 0..1 and labels (rows,), shifted by up to a pixel.

    One thread and a seed of its own: the same weights on every run of one machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            teacher = DigitsTeacher()
            for member in teacher.members:
                train_member(member, images, torch.from_numpy(truth))
    finally:
        torch.set_num_threads(threads)
    return teacher.eval()


def train_member(member: nn.Module, images: Tensor, truth: Tensor) -> None:
    optimiser = torch.optim.AdamW(member.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=STEPS)
    member.train()
    for _ in range(STEPS):
        rows = torch.randint(len(truth), (BATCH,))
        loss = F.cross_entropy(member(shift(images[rows])), truth[rows], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def shift(images: Tensor) -> Tensor:
    """Move each image (n, 1, h, w) by -1, 0 or 1 pixel both ways, border pixels repeated."""
    n, _, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    down = torch.randint(3, (n, 1)) + torch.arange(height)
    right = torch.randint(3, (n, 1)) + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], 0, down[:, :, None], right[:, None, :]][:, None]
