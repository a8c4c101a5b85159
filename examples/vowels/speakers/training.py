"""Train the teacher on the train split and keep its weights."""

from pathlib import Path

import numpy as np
import torch
from network import Speaker


def train_teacher(data: Path, epochs: int = 40) -> None:
    torch.manual_seed(0)
    arrays = np.load(data / "vowels.npz", allow_pickle=False)
    speakers, truth = np.unique(arrays["speaker"], return_inverse=True)
    series, length = torch.from_numpy(arrays["series"]), torch.from_numpy(arrays["length"])
    target, train = torch.from_numpy(truth), torch.from_numpy(np.flatnonzero(arrays["split"] == "train"))
    model = Speaker(len(speakers)).train()
    steps = epochs * (len(train) // 32)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = train[torch.randint(len(train), (32,))]
        noisy = series[rows] + 0.05 * torch.randn_like(series[rows])
        loss = torch.nn.functional.cross_entropy(model(noisy, length[rows]), target[rows], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    torch.save(model.eval().state_dict(), data / "speaker.pt")
    test = np.flatnonzero(arrays["split"] == "test")
    with torch.no_grad():
        right = (model(series[test], length[test]).argmax(1) == target[test]).float().mean()
    print(f"teacher: test accuracy {right:.4f}")
