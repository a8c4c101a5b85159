"""Student spaces: what they build, how dimensions narrow, and what a user's factory is told."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from torch import nn

import benchmark  # noqa: F401  (before onnxruntime's tools put another one on the path)
from export import Signature, TensorSpec, check_parity, to_onnx
from family import spaces
from family.errors import Mistakes
from family.modules import Attention
from family.types import Dim, StudentSpace

OPSET = 18


@dataclass
class Shaped:
    """As much of a task as a space asks for: random inputs of a signature."""

    body: Signature
    target_scale: tuple[np.ndarray, np.ndarray] | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    kind: str = "regression"

    def rows(self, split: str) -> int:
        return 5

    def seen_by(self, params: dict) -> "Shaped":
        return self

    def inputs(self, split: str, rows: np.ndarray, view: int) -> tuple[torch.Tensor, ...]:
        return tuple(tensors(self.body, len(rows)))


def sign(*shapes: tuple[int, ...], outputs: int = 4, mask: bool = False) -> Signature:
    names = ("x", "mask") if mask else tuple(f"x{i}" for i in range(len(shapes)))
    given = tuple(TensorSpec(n, "float32", ("batch", *s)) for n, s in zip(names, shapes, strict=True))
    return Signature(given, (TensorSpec("logits", "float32", ("batch", outputs)),))


def tensors(signature: Signature, rows: int) -> list[torch.Tensor]:
    """Random inputs; a mask counts a prefix of another length in every row."""
    made = []
    for spec in signature.inputs:
        value = torch.randn(rows, *spec.shape[1:], generator=torch.Generator().manual_seed(len(made)))
        if spec.name == "mask":
            time = int(spec.shape[-1])
            lengths = 1 + torch.arange(rows) * (time - 1) // max(rows - 1, 1)
            value = (torch.arange(time) < lengths[:, None, None]).float()
        made.append(value)
    return made


IMAGES = [sign((c, s, s)) for c, s in ((1, 8), (3, 13), (5, 28), (3, 64))] + [sign((3, 9, 40))]
SERIES = [sign((2, 20)), sign((12, 29), (1, 29), mask=True), sign((3, 200), (1, 200), mask=True)]
TABLES = [sign((7,)), sign((7,), (2, 3)), sign((1, 8, 8))]
CASES = [("conv", s) for s in IMAGES] + [("encoder", s) for s in SERIES] + [("mlp", s) for s in TABLES]


def name_case(case):
    return "+".join("x".join(map(str, spec.shape[1:])) for spec in case.inputs) if hasattr(case, "inputs") else case


@pytest.mark.parametrize(("name", "signature"), CASES, ids=name_case)
def test_a_student_ships_as_it_was_built(name, signature, tmp_path):
    space = spaces.SPACES[name]()
    module = spaces.build_student(space, spaces.middle(space), Shaped(signature), 0)
    module.train()(*tensors(signature, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    path = tmp_path / "model.onnx"
    to_onnx(module.eval(), signature, path, OPSET)
    feeds, expected = [], []
    for rows in (1, 2, 7):
        given = tensors(signature, rows)
        feeds.append({s.name: g.numpy() for s, g in zip(signature.inputs, given, strict=True)})
        with torch.no_grad():
            expected.append(module(*given).numpy())
    assert check_parity(path, feeds, expected, 1e-4).kept


@pytest.mark.parametrize("name", ["mlp", "conv", "encoder"])
def test_smaller_students_are_leading_slices(name):
    signature = {"mlp": TABLES[1], "conv": IMAGES[2], "encoder": SERIES[1]}[name]
    space = spaces.narrow(spaces.SPACES[name](), {"heads": 2} if name == "encoder" else {})
    assert {"width", "depth"} <= set(space.dims)
    for size in (spaces.smallest, spaces.middle):
        large = dict(build(space, spaces.largest(space), signature).named_parameters())
        for key, small in build(space, size(space), signature).named_parameters():
            assert all(a <= b for a, b in zip(small.shape, large[key].shape, strict=True)), key


def test_a_narrow_attention_is_the_leading_channels_of_a_wide_one():
    """With the other channels' keys, queries and values at 0, a wide layer attends as the narrow one does."""
    wide, narrow = Attention(16, 2), Attention(8, 2)
    with torch.no_grad():
        for name, small in narrow.state_dict().items():
            large = wide.state_dict()[name]
            small.copy_(large[tuple(map(slice, small.shape))])
        wide.qkv.weight[24:], wide.qkv.bias[24:], wide.qkv.weight[:, 8:] = 0, 0, 0
        wide.size, narrow_scale = 8, 4**-0.5 / 8**-0.5
        wide.qkv.weight[0:24:3] *= narrow_scale  # queries: the softmax of both at one temperature
        wide.qkv.bias[0:24:3] *= narrow_scale
        x = torch.randn(3, 5, 16)
        assert torch.allclose(wide(x, None)[:, :, :8], narrow(x[:, :, :8], None), atol=1e-5)


def test_padding_changes_nothing():
    signature = SERIES[1]
    module = build(spaces.encoder(), {"width": 16, "depth": 2, "heads": 2}, signature).eval()
    x, mask = tensors(signature, 6)
    alone = x * mask
    other = alone.clone()
    other[0, :, 10:] = 0
    with torch.no_grad():
        one, many = module(alone[:1], mask[:1]), module(alone, mask)
        assert torch.allclose(one, many[:1], atol=1e-5)
        assert not torch.allclose(module(alone, torch.ones_like(mask)), many, atol=1e-3)


def test_the_seed_decides_the_weights_and_nothing_else_does():
    space, signature = spaces.conv(), IMAGES[0]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (build(space, spaces.middle(space), signature, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.stem.weight, other.stem.weight)


def test_regression_speaks_in_the_labels_units():
    signature = sign((7,), outputs=2)
    scale = (np.array([100.0, -5.0]), np.array([10.0, 0.5]))
    task = Shaped(signature, scale)
    module = spaces.build_student(spaces.mlp(), {"width": 8, "depth": 1}, task, 0).eval()
    (x,) = tensors(signature, 50)
    with torch.no_grad():
        expected = module.module(x).numpy() * scale[1] + scale[0]
        assert np.allclose(module(x).numpy(), expected, rtol=1e-5)


def build(space, params, signature, seed=0):
    return spaces.build_student(space, params, Shaped(signature), seed)


def test_counts_by_hand():
    task = Shaped(sign((7,), outputs=3))
    module = spaces.build_student(spaces.mlp(), {"width": 5, "depth": 2}, task, 0)
    assert spaces.count_parameters(module) == (7 * 5 + 5) + (5 * 5 + 5) + 2 * 2 * 5 + (5 * 3 + 3)
    assert spaces.count_macs(module, task.inputs("val", np.arange(1), 0)) == 35 + 25 + 15
    convolution = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    assert spaces.count_macs(convolution, (torch.zeros(1, 4, 6, 5),)) == 4 * 9 * 30


# narrowing


def narrowed(**options):
    return spaces.narrow(SPACE, options).dims


SPACE = StudentSpace(
    "toy",
    {
        "width": Dim(8, 128, log=True),
        "blocks": Dim(2, 20, step=3),
        "drop": Dim(0.0, 1.0),
        "heads": Dim(choices=(1, 2, 4)),
        "act": Dim(choices=("relu", "gelu")),
    },
    lambda params, signature: nn.Linear(1, 1),
)


def test_dimensions_narrow_in_every_form():
    dims = narrowed(width=[16.0, 64], blocks={"low": 5, "high": 16}, drop=0.5, heads=[1, 2], act="gelu")
    assert dims["width"] == Dim(16, 64, None, True)
    assert dims["blocks"] == Dim(5, 14, 3)  # the step is kept, 16 is not on its grid
    assert dims["drop"] == Dim(choices=(0.5,))
    assert dims["heads"] == Dim(choices=(1, 2))
    assert dims["act"] == Dim(choices=("gelu",))
    assert narrowed(act=["gelu", "relu"])["act"] == Dim(choices=("gelu", "relu"))
    assert narrowed(width={"choices": [8, 32.0]})["width"] == Dim(choices=(8, 32))
    assert narrowed(drop={"low": 0.1, "high": 0.9, "log": True})["drop"] == Dim(0.1, 0.9, None, True)
    assert narrowed() == SPACE.dims


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"widht": 8},
            "is no dimension of toy; it has width, blocks, drop, heads, act. Did you mean 'width'?",
        ),
        ({"width": [4, 64]}, "must be a whole number from 8 to 128. Got 4."),
        ({"width": 256}, "must be a whole number from 8 to 128. Got 256."),
        ({"width": [8.5, 64]}, "must be a whole number from 8 to 128. Got 8.5."),
        ({"width": "many"}, "must be a whole number from 8 to 128. Got 'many'."),
        ({"width": True}, "must be a whole number from 8 to 128. Got True."),
        ({"width": [64, 16]}, "has low 64 above high 16."),
        ({"width": [8, 16, 32]}, "must be a value, [low, high], {low, high, step, log} or {choices}."),
        ({"width": {"choices": []}}, "Got no choices."),
        ({"blocks": {"low": 2, "high": 8, "step": 0.5}}, "must have a whole step"),
        ({"drop": {"low": 0.0, "high": 0.5, "log": True}}, "needs a low above 0, got 0."),
        ({"heads": 3}, "must be among [1, 2, 4]. Got [3]."),
        ({"heads": [5, 9]}, "must be among [1, 2, 4]. Got 5 to 9."),
        ({"act": "tanh"}, "must be among ['relu', 'gelu']. Got ['tanh']."),
    ],
)
def test_wrong_dimensions_are_explained(options, said):
    with pytest.raises(Mistakes) as caught:
        spaces.narrow(SPACE, options)
    (mistake,) = caught.value.mistakes
    assert mistake.where == f"students.dims.{next(iter(options))}"
    assert said in mistake.message


def test_all_wrong_dimensions_are_said_at_once():
    with pytest.raises(Mistakes) as caught:
        spaces.narrow(SPACE, {"width": 1, "depth": 1, "act": "tanh"})
    assert len(caught.value.mistakes) == 3


# drawing


def test_sizes_and_draws_are_within():
    space = spaces.narrow(SPACE, {"width": {"low": 8, "high": 120, "step": 16}})
    assert spaces.smallest(space) == {"width": 8, "blocks": 2, "drop": 0.0, "heads": 1, "act": "relu"}
    assert spaces.largest(space) == {"width": 120, "blocks": 20, "drop": 1.0, "heads": 4, "act": "gelu"}
    assert spaces.middle(SPACE)["width"] == 32  # the middle of 8 to 128 in log
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rng = np.random.default_rng(0)
    draws = [spaces.sample(space, rng) for _ in range(200)]
    draws += [spaces.suggest(study.ask(), space) for _ in range(200)]
    for params in draws:
        assert type(params["width"]) is int
        assert 8 <= params["width"] <= 120
        assert (params["width"] - 8) % 16 == 0
        assert params["blocks"] in range(2, 21, 3)
        assert isinstance(params["drop"], float)
    assert {d["blocks"] for d in draws} == set(range(2, 21, 3))
    assert sum(d["width"] < 32 for d in draws) > 120  # even in log: most are small


# a user's factory

FACTORY = """
import torch
from torch import nn
from neighbour import Net

def good():
    rate = {"low": 0.01, "high": 0.5, "log": True}
    return {"dims": {"width": [4, 16], "rate": rate, "act": {"choices": ["a"]}},
            "build": lambda params, signature: Net(params["width"])}

def constant():
    return {"dims": {"width": 8, "depth": 1}, "build": lambda params, signature: Net(params["width"])}

def loaded():
    def build(params, signature):
        net = Net(params["width"])
        net.body.load_state_dict({"weight": torch.arange(params["width"] * 4.0).reshape(-1, 4)})
        return net
    return {"dims": {"width": [4, 16]}, "build": build}

def number(): return 3
def half(): return {"dims": {}}
def raises(): return {"dims": {"width": [1, 2]}, "build": lambda p, s: p["widht"]}
def thing(): return {"dims": {"width": [1, 2]}, "build": lambda p, s: "net"}
def shape(): return {"dims": {"width": [4, 16]}, "build": lambda p, s: Net(p["width"], 5)}
def forward(): return {"dims": {"width": [4, 16]}, "build": lambda p, s: nn.Linear(9, 3)}
def frozen(): return {"dims": {"width": [4, 16]}, "build": lambda p, s: Net(p["width"]).requires_grad_(False)}
def infinite(): return {"dims": {"width": [4, 16]}, "build": lambda p, s: Net(p["width"], scale=float("inf"))}
def backwards(): return {"dims": {"width": [16, 4]}, "build": lambda p, s: Net(p["width"])}
"""
NEIGHBOUR = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, outputs=3, scale=1.0):
        super().__init__()
        self.body, self.head, self.scale = nn.Linear(4, width, bias=False), nn.Linear(width, outputs), scale

    def forward(self, x):
        return self.head(self.body(x)) * self.scale
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(FACTORY)
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    return tmp_path


TABLE = Shaped(sign((4,), outputs=3))


def test_a_users_factory_is_a_space(project):
    space = spaces.open_space("nets.py:good", {"width": [8, 16]}, project, TABLE)
    assert space.dims["width"] == Dim(8, 16)
    assert spaces.smallest(space) == {"width": 8, "rate": 0.01, "act": "a"}
    space = spaces.open_space("nets.py:constant", None, project, TABLE)
    assert spaces.smallest(space) == spaces.largest(space) == {"width": 8, "depth": 1}


def test_changed_code_and_changed_weights_are_another_space(tmp_path):
    text = (
        "import torch\n"
        "def space():\n"
        "    def build(params, signature):\n"
        "        layer = torch.nn.Linear(4, 3)\n"
        "        torch.nn.init.constant_(layer.weight, BIAS)\n"
        "        return layer\n"
        "    return {'dims': {'width': 4}, 'build': build}\n"
    )
    made = []
    for value in ("0.5", "0.25", "0.25"):
        (tmp_path / "mine.py").write_text(text.replace("BIAS", value))
        made.append(spaces.open_space("mine.py:space", None, tmp_path, TABLE).fingerprint)
    assert made[0] != made[1] == made[2]


def test_loaded_weights_are_kept_and_found(project):
    space = spaces.open_space("nets.py:loaded", None, project, TABLE)
    module = spaces.build_student(space, {"width": 4}, TABLE, 3)
    assert torch.equal(module.body.weight, torch.arange(16.0).reshape(4, 4))
    assert spaces.find_loaded(space, TABLE) == ("body.weight",)
    assert spaces.find_loaded(spaces.mlp(), TABLE) == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "number",
            "must return a StudentSpace or {'dims': …, 'build': a function of (params, signature)}. Got int.",
        ),
        ("half", "Got a mapping of dims."),
        ("raises", "built with width 1 failed with KeyError: 'widht'"),
        ("thing", "must build a torch.nn.Module. Got str."),
        ("shape", "must give finite outputs of shape (2, 3) for inputs (2, 4). Got (2, 5)."),
        ("forward", "built with width 4: its forward failed with RuntimeError"),
        ("frozen", "has no parameters to train."),
        ("infinite", "Got (2, 3) with NaN or inf."),
        ("backwards", "its dimension 'width' has low 16 above high 4."),
        ("gone", "names 'gone', which nets.py does not have"),
    ],
)
def test_a_users_mistakes_are_explained(project, name, said):
    with pytest.raises(Mistakes, match=r"students\.space") as caught:
        spaces.open_space(f"nets.py:{name}", None, project, TABLE)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "signature", "said"),
    [
        ("konv", IMAGES[0], "Did you mean 'conv'?"),
        ("conv", SERIES[0], "conv takes images (channels, height, width)."),
        ("conv", sign((1, 6, 8)), "conv needs sides of at least 8. Got 6 × 8."),
        ("encoder", TABLES[0], "encoder takes series (channels, time)."),
    ],
)
def test_a_space_that_does_not_fit_is_refused(name, signature, said, tmp_path):
    with pytest.raises(Mistakes) as caught:
        spaces.open_space(name, None, tmp_path, Shaped(signature))
    assert said in str(caught.value)


def test_every_builtin_opens_narrowed():
    for name, signature in (("conv", IMAGES[0]), ("encoder", SERIES[0]), ("mlp", TABLES[1])):
        space = spaces.open_space(name, {"depth": [1, 2]}, Path(), Shaped(signature))
        module = build(space, spaces.smallest(space), signature).eval()
        assert module(*tensors(signature, 3)).shape == (3, 4)
