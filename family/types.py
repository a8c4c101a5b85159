"""The nouns that flow through `family`. Frozen, and without behaviour beyond small derived values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor, nn

from export import Front, Signature
from reports import Score

Kind = Literal["classification", "multilabel", "regression", "embedding", "tokens"]
VALUES: tuple[Kind, ...] = ("regression", "embedding")  # kinds whose outputs are values, not logits
Split = Literal["train", "transfer", "val", "test"]


@dataclass(frozen=True)
class Dim:
    """One dimension of a search: `low`..`high` (by `step`, or even in log), or `choices`."""

    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class StudentSpace:
    """What can be built: dimensions as data, and `build(params, signature)`.

    The module's `forward` takes the signature's inputs in order and gives (batch, outputs); of tokens (batch, length,
    vocabulary).
    """

    name: str
    dims: Mapping[str, Dim]
    build: Callable[[Mapping[str, Any], Signature], nn.Module]
    precisions: tuple[str, ...] = ("fp32", "int8")
    fingerprint: str = ""  # of a user's code and of the weights that it loads
    nests: bool = True  # whether small students may be leading slices of large ones; where their shapes are, too


class Task(Protocol):
    """Data as a student, a control and a teacher meet it. Splits: train, transfer (unlabelled), val, test."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...
    @property
    def score(self) -> Score: ...
    @property
    def signature(self) -> Signature:
        """Of the file that ships: raw inputs → (batch, outputs)."""
        ...

    @property
    def body(self) -> Signature:
        """Of a student module: what the front gives."""
        ...

    @property
    def front(self) -> Front: ...
    @property
    def views(self) -> int:
        """Augmented views there are, the clean one (view 0) counted; 1: no augmentation."""
        ...

    @property
    def target_scale(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and deviation of regression targets, (outputs,)."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of data, split, augmentation and student input size."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def ragged(self) -> bool:
        """Raw shapes vary: ask `raw` for one row at a time."""
        ...

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """What the manifest says beside the front: column order, category codes."""
        ...

    def describe(self) -> dict[str, Any]: ...

    def seen_by(self, params: Mapping[str, Any]) -> Task:
        """The task as a student of these params meets it: text in the tokens of its own vocabulary. Rows, splits and
        labels stay. Where all students meet the same inputs, the task itself; a user's task may leave this out."""
        ...

    def keep(self, split: Split, rows: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """What is kept of outputs for these rows, (rows, k): all of them, but of next-token logits (rows, length,
        vocabulary) sums over a row's positions. A user's task may leave this out."""
        ...

    def lessons(self, split: Split) -> Tensor:
        """What labels alone teach: labels, -1 or NaN where there are none; of tokens the next ones (rows, length), -1
        where there is nothing to learn. A user's task may leave this out."""
        ...

    def rows(self, split: Split) -> int: ...
    def row_ids(self, split: Split) -> np.ndarray: ...  # (rows,) int64: position in the data as opened
    def labels(self, split: Split) -> np.ndarray: ...  # (rows,) int64 | (rows, outputs) float32; not for transfer
    def groups(self, split: Split) -> np.ndarray | None: ...

    def inputs(self, split: Split, rows: np.ndarray, view: np.ndarray | int) -> tuple[Tensor, ...]:
        """Body inputs on the CPU: float32, or int64 token ids. `view`: 0 is clean; v ≥ 1 is replayed from (seed, v, row
        id)."""
        ...

    def raw(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the shipped file takes. Where raw shapes vary, ask for one row at a time (`ragged`)."""
        ...

    def teacher_inputs(
        self, split: Split, rows: np.ndarray, view: int, preprocess: Mapping[str, Any] | None
    ) -> tuple[np.ndarray, ...]:
        """What a teacher takes. Without `preprocess`: the body inputs (images: at the data's own size)."""
        ...


class Teacher(Protocol):
    """`outputs(...)`: (rows, outputs) float32: logits (log-probabilities where it gives those), or values."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def views(self) -> int | None:
        """None: any; 1: stored outputs, clean only."""
        ...

    @property
    def cost(self) -> Mapping[str, Any]:
        """parameters, size_kb, where known."""
        ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def outputs(self, split: Split, rows: np.ndarray, view: int) -> np.ndarray: ...


@dataclass(frozen=True)
class SoftBatch:
    """What the teacher says of a batch. Dense: `logits (n, k)`. Sparse: `ids, top (n, j)`, `mean, std (n,)`
    of all logits and `rest (n, 2 × temperatures)`: log-sum-exp of the other logits at each of `temperatures`,
    first as they are, then standardised by mean and deviation. Of tokens: `logits (n, length, k)`, or drawn: `draws
    (n, length, j)` token ids and `counts` how often each was drawn, 0 where the room was not needed."""

    logits: Tensor | None = None
    ids: Tensor | None = None
    top: Tensor | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    rest: Tensor | None = None
    draws: Tensor | None = None
    counts: Tensor | None = None
    temperatures: tuple[float, ...] = ()

    @property
    def has(self) -> frozenset[str]:
        """What a loss may need: "all" (every logit), "top", "moments", "rest", "draws"."""
        if self.logits is not None:
            return frozenset({"all", "top", "moments", "rest"})
        if self.draws is not None:
            return frozenset({"draws"})
        return frozenset({"top", "moments", "rest"})


class Store(Protocol):
    """What the teacher says of every row of train and transfer, asked once, or now (`batch`)."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def views(self) -> int: ...
    @property
    def bytes_per_view(self) -> int:
        """On disk, of one view of one row."""
        ...

    @property
    def has(self) -> frozenset[str]:
        """What a loss may need, as `SoftBatch.has`."""
        ...

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Those a loss may use where not every logit is kept."""
        ...

    def batch(self, split: Split, rows: np.ndarray, views: np.ndarray) -> SoftBatch:
        """Soft targets of `rows` (n,) at `views` (n,), float32."""
        ...


@dataclass(frozen=True)
class Loss:
    """`fn(student_logits, soft, temperature, labels) -> (n,)` per row, without the label term."""

    name: str
    needs: frozenset[str]
    fn: Callable[[Tensor, SoftBatch, float, Tensor | None], Tensor]
    paper: str


@dataclass(frozen=True)
class Training:
    """How one student is trained. `loss` "labels" is the control; `label_weight` mixes in the supervised loss
    on rows that have labels. `patience`: so many looks at val in a row, after the warm-up, without a better one end
    the training, and the weights of the best look are kept; 0: all steps are taken, the last weights kept. `steps` are
    for a student of `macs` multiply-accumulates a row; one of c takes steps × (macs / c) ** stretch. `inherits`: steps
    of the shared weights that it starts from, trained with the same seed; 0: it starts from values of its own.
    `on_policy`: share of the batches whose text the student writes."""

    loss: str
    learning_rate: float
    steps: int
    seed: int
    temperature: float = 4.0
    label_weight: float = 0.1
    batch: int = 64
    views: int = 8
    patience: int = 0
    stretch: float = 0.0
    macs: float = 0.0
    inherits: int = 0
    on_policy: float = 0.0

    @property
    def identity(self) -> dict[str, Any]:
        """What tells one training from another: those of before there was `on_policy` are as they were."""
        told = asdict(self)
        return told if self.on_policy else {name: value for name, value in told.items() if name != "on_policy"}

    @property
    def unscaled(self) -> Training:
        """The same in the usual steps for a student of any size."""
        return replace(self, stretch=0.0, macs=0.0)


@dataclass(frozen=True)
class Trained:
    """A trained module (eval mode, CPU) and what it took. `steps`: those taken; `looks`: evaluations on val within."""

    module: nn.Module
    val_score: float
    steps: int
    seconds: float
    looks: int = 0


__all__ = [
    "VALUES",
    "Dim",
    "Kind",
    "Loss",
    "SoftBatch",
    "Split",
    "Store",
    "StudentSpace",
    "Task",
    "Teacher",
    "Trained",
    "Training",
]
