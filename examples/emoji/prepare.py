"""Emoji of two vendors (64 × 64 in colour, from the emoji-datasource packages on npm): which group is it?

The same emoji of both vendors belongs to one `group`, so that it never stands on both sides of a split.
The teacher is handed over as an ONNX file alone.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from packages import from_npm, read_members  # noqa: E402  (the folder above holds it)

VENDORS = ("google", "twitter")


def read_pixels(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB").resize((64, 64)))


def collect(data: Path) -> None:
    images, labels, names = [], [], []
    for vendor in VENDORS:
        tarball = from_npm(f"emoji-datasource-{vendor}@16.0.0", data)
        pictures = read_members(tarball, f"package/img/{vendor}/64")
        for emoji in json.loads(read_members(tarball, "package")["emoji.json"]):
            if emoji["image"] in pictures and emoji["category"] != "Component":
                images.append(read_pixels(pictures[emoji["image"]]))
                labels.append(emoji["category"])
                names.append(emoji["unified"])
    rng = np.random.default_rng(0)
    share = {name: rng.choice(["train", "val", "test"], p=[0.55, 0.15, 0.3]) for name in sorted(set(names))}
    split = np.array([share[name] for name in names])
    np.savez(data / "emoji.npz", image=np.stack(images), category=labels, emoji=names, split=split)


class Wide(nn.Sequential):
    """The teacher: image (batch, 3, 64, 64) in 0..1 → logits (batch, classes)."""

    def __init__(self, classes: int):
        def block(a: int, b: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]

        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, classes)]
        super().__init__(*block(3, 32), *block(32, 64), *block(64, 128), *block(128, 256), *pool)


def train_teacher(data: Path, epochs: int = 14) -> None:
    torch.manual_seed(0)
    arrays = np.load(data / "emoji.npz")
    classes, truth = np.unique(arrays["category"], return_inverse=True)
    pixels = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2).float() / 255
    target, train = torch.from_numpy(truth), torch.from_numpy(np.flatnonzero(arrays["split"] == "train"))
    model = Wide(len(classes)).train()
    steps = epochs * (len(train) // 64)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = train[torch.randint(len(train), (64,))]
        loss = nn.functional.cross_entropy(model(shifted(pixels[rows])), target[rows], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    save_onnx(model.eval(), data / "teacher.onnx")
    (data / "classes.txt").write_text("\n".join(classes) + "\n")
    test = np.flatnonzero(arrays["split"] == "test")
    with torch.no_grad():
        right = (model(pixels[test]).argmax(1) == target[test]).float().mean()
    print(f"teacher: test accuracy {right:.4f}")


def shifted(batch: Tensor) -> Tensor:
    down, right = (int(v) for v in torch.randint(-6, 7, (2,)))
    return torch.roll(batch, (down, right), (2, 3))


def save_onnx(model: nn.Module, path: Path) -> None:
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, 64, 64),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        dynamo=False,
    )


if __name__ == "__main__":
    (HERE / "data").mkdir(exist_ok=True)
    if not (HERE / "data" / "emoji.npz").exists():
        collect(HERE / "data")
    train_teacher(HERE / "data")
