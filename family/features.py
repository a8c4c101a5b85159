"""What a student's cost grows with, counted in one forward of one row: the features a cost predictor is fitted on.

Every operator that torch runs is seen, in layers and outside them, so that any module works, also a user's.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from family import spaces

BLOCKS = (8, 16, 32)  # channels that runtimes take at a time: a layer of 17 costs them as much as one of 32
# Channels above the second that are no multiple of the first may take a path that is twice as slow.
SLOW = ((4, 0), (8, 0), (4, 16))
FREE = {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "detach", "expand", "slice", "select", "unbind", "t"}
FOLDED = {"native_batch_norm", "_native_batch_norm_legit_no_training"}  # into the layer before, at export


def count_features(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """`{feature: number}` of a forward of one row in eval mode: per kind of operator how many there are, elements in
    and out, multiply-accumulates and the same in whole blocks of channels; and the weights."""
    counter = Count()
    was, fast = module.training, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator is not exported either
    try:
        with torch.no_grad(), counter:
            module.eval()(*inputs)
    finally:
        module.train(was)
        torch.backends.mha.set_fastpath_enabled(fast)
    return {"one": 1.0, "weights": float(spaces.count_parameters(module)), **counter.features}


class Count(TorchDispatchMode):
    """Adds up what every operator within costs."""

    def __init__(self) -> None:
        super().__init__()
        self.features: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in FREE | FOLDED:
            self.features.update(describe(name, args, given))
        return given


def describe(name: str, args: Any, given: Any) -> dict[str, float]:
    """The features of one operator."""
    out = sum(one.numel() for one in tensors_of(given))
    if name == "convolution":
        x, weight, groups = args[0], args[1], int(args[8])
        each, taps = weight.shape[1], weight[0, 0].numel()  # input channels an output channel reads
        kind = "depthwise" if groups > 1 and each == 1 else f"conv{taps}"
        return product(kind, out * each * taps, each * groups, weight.shape[0], x, out)
    if name in {"addmm", "mm"}:
        x, weight = args[-2], args[-1]
        return product("linear", out * weight.shape[0], weight.shape[0], weight.shape[1], x, out)
    if name in {"bmm", "baddbmm"}:
        x, y = args[-2], args[-1]
        return product("matmul", out * x.shape[2], x.shape[2], y.shape[2], x, out)
    return {f"{name} elements": float(out), f"{name} count": 1.0}


def product(kind: str, macs: int, before: int, after: int, x: Tensor, out: int) -> dict[str, float]:
    """Sums of products from `before` to `after` channels: `macs` of them, x.numel() elements in, `out` out."""
    found: dict[str, float] = {f"{kind} count": 1, f"{kind} in": x.numel(), f"{kind} out": out, f"{kind} macs": macs}
    for block in BLOCKS:
        grown = math.ceil(after / block) * block / after
        found[f"{kind} out by {block}"] = out * grown
        if kind != "depthwise":
            found[f"{kind} macs by {block}"] = macs * grown * math.ceil(before / block) * block / before
    for multiple, above in SLOW:
        for side, channels in (("in", before), ("out", after)):
            if channels % multiple and channels > above:
                off = f"off {multiple} {side} above {above}"
                found |= {f"{kind} count {off}": 1, f"{kind} out {off}": out, f"{kind} macs {off}": macs}
    return found


def tensors_of(given: Any) -> list[Tensor]:
    return [one for one in (given if isinstance(given, tuple | list) else (given,)) if isinstance(one, Tensor)]
