"""Students of real pictures as folders, made in a second or two, and pictures for them that they have not seen."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import nn

from benchmark import node
from export import Front, ImageFront, apply_front, body_signature, merge_front, to_onnx, write_student

PHOTOS = ImageFront("uint8", "hwc", (None, None, 3), 3, (24, 24), (110.0, 110.0, 95.0), (70.0, 65.0, 70.0))
DIGITS = ImageFront("float32", "hw", (8, 8), 1, (8, 8), (4.9,), (6.0,))


def link_packages(folder: Path) -> None:
    """What `npm install` would put into a student's folder, where this machine has it."""
    packages = node.modules_folder() / "node_modules"
    if packages.exists():
        (folder / "snippets" / "javascript" / "node_modules").symlink_to(packages)


def crop_photos(count: int, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """Crops of many sizes from two photographs, uint8 (height, width, 3), and which photograph each is from."""
    photos, dice = load_sample_images().images, np.random.default_rng(seed)
    crops, labels = [], []
    for i in range(count):
        photo = photos[i % 2]
        height, width = dice.integers(40, 160, 2)
        top, left = (dice.integers(0, side - own) for side, own in zip(photo.shape, (height, width), strict=False))
        crops.append(np.ascontiguousarray(photo[top : top + height, left : left + width]))
        labels.append(i % 2)
    return crops, labels


def make_photo_student(folder: Path) -> tuple[Path, nn.Module]:
    """Takes pictures of any size; gives the folder and the module, as trained."""
    crops, labels = crop_photos(160, seed=0)
    x = torch.cat([apply_front(PHOTOS, {"image": crop[None]})[0] for crop in crops])
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(400, 2),
    )
    train(module, x, torch.tensor(labels))
    golden = {"image": crops[0][None]}
    return write(folder, module, PHOTOS, golden, "photos/tiny", ["china", "flower"]), module


def make_digit_student(folder: Path) -> tuple[Path, nn.Module]:
    """Takes 8 x 8 values of 0 to 16, as scikit-learn's digits are."""
    digits = load_digits()
    images = digits.images.astype(np.float32)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    train(module, apply_front(DIGITS, {"image": images[200:]})[0], torch.tensor(digits.target[200:]))
    golden = {"image": images[:4]}
    return write(folder, module, DIGITS, golden, "digits/tiny", [str(i) for i in range(10)]), module


def train(module: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> None:
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x), labels).backward()
        optimiser.step()


def write(
    folder: Path, module: nn.Module, front: Front, golden: dict[str, np.ndarray], name: str, classes: list[str]
) -> Path:
    parts = folder / "parts"
    to_onnx(module.eval(), body_signature(front, len(classes), "logits"), parts / "body.onnx")
    artifact = merge_front(parts / "body.onnx", front, parts / "model.onnx")
    given = {"name": name, "kind": "classification", "classes": classes, "preprocessing": front, "teacher": None}
    return write_student(folder / "student", artifact, given, golden, "# A card\n")


def expect(module: nn.Module, front: Front, image: np.ndarray) -> np.ndarray:
    """What training would have given for one image: the torch front, then the module. Logits (classes,)."""
    with torch.no_grad():
        return module(*apply_front(front, {"image": image[None]}))[0].numpy()


def save(image: np.ndarray, path: Path) -> Path:
    """PNG, JPEG of quality 90, or PPM, by the name's ending."""
    Image.fromarray(image).save(path, **({"quality": 90} if path.suffix == ".jpg" else {}))
    return path
