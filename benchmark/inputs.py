"""The same inputs every time: from a file of real ones, or made from the model's own signature.

A file `<model>.feeds.npz` beside `<model>.onnx` holds inputs of its own, which go before those of all: students that
read the same text in tokens of their own, or one graph that is fed in two ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def feeds_beside(model: Path) -> Path:
    """Where a model's own inputs would be."""
    return model.with_name(f"{model.stem}.feeds.npz")


def load_feeds(feeds: Path | None) -> dict[str, NDArray[Any]] | None:
    if feeds is None:
        return None
    with np.load(feeds, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def make_inputs(
    model: Path, signature: Sequence[Any], batch: int, feeds: Mapping[str, NDArray[Any]] | None, *, strict: bool
) -> dict[str, NDArray[Any]]:
    """One array per input of the model, its open first dimension set to `batch`.

    signature: what `InferenceSession.get_inputs()` gives. Real examples come from the model's own file or from `feeds`,
    repeated or cut along the first dimension; those that do not fit raise ValueError, or, when not `strict`, make way
    for made ones.
    """
    own = feeds_beside(model)
    feeds = load_feeds(own) if own.is_file() else feeds
    if feeds is None:
        return {one.name: make_input(one, batch) for one in signature}
    try:
        return {one.name: fit_input(one, batch, feeds) for one in signature}
    except ValueError:
        if strict:
            raise
        return {one.name: make_input(one, batch) for one in signature}


def make_input(one: Any, batch: int) -> NDArray[Any]:
    """Normal numbers, 0 or 1 for indices (valid for any table of two rows), 0…255 for bytes; seed 0."""
    dtype = DTYPES.get(one.type)
    if dtype is None:
        raise ValueError(f"input {one.name!r} is a {one.type}; one of {', '.join(DTYPES)} is needed.")
    shape = [find_batch(one, batch), *one.shape[1:]] if one.shape else []
    for size in shape[1:]:
        if not isinstance(size, int):
            raise ValueError(  # noqa: TRY004 - the model's mistake, not a wrong type of argument
                f"input {one.name!r} has the open dimension {size!r}: give real examples (feeds, an .npz)."
            )
    random = np.random.default_rng(0)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 256 if dtype is np.uint8 else 2, shape).astype(dtype)


def fit_input(one: Any, batch: int, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if one.name not in feeds:
        raise ValueError(f"the feeds lack the input {one.name!r}. They hold: {', '.join(feeds) or 'nothing'}.")
    given = feeds[one.name]
    if one.type in DTYPES and given.dtype != DTYPES[one.type]:
        wanted = np.dtype(DTYPES[one.type]).name
        raise ValueError(f"the feed {one.name!r} is {given.dtype.name}; the model takes {wanted}.")
    wanted_shape = list(one.shape)
    same = given.ndim == len(wanted_shape) and all(
        have == want or not isinstance(want, int) for have, want in zip(given.shape[1:], wanted_shape[1:], strict=True)
    )
    if not same:
        raise ValueError(f"the feed {one.name!r} has the shape {list(given.shape)}; the model takes {one.shape}.")
    if not wanted_shape:
        return given
    if len(given) == 0:
        raise ValueError(f"the feed {one.name!r} holds no example.")
    return np.ascontiguousarray(np.resize(given, (find_batch(one, batch), *given.shape[1:])))


def find_batch(one: Any, batch: int) -> int:
    """The first dimension: the model's own where it is fixed, else `batch`."""
    first = one.shape[0]
    if not isinstance(first, int):
        return batch
    if batch not in (1, first):
        raise ValueError(f"input {one.name!r} has a fixed batch of {first}; the target asks for {batch}.")
    return first
