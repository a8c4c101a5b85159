"""Distillation losses by name. Each gives one value per row and declares what it needs of the soft targets.

Dense soft targets hold every logit. Sparse ones hold the top logits, the log-sum-exp of the rest at a grid of
temperatures, and mean and deviation of all: enough for `kd` (the rest as one bucket), not for `dist` or `mse`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from family.errors import mistake
from family.types import Kind, Loss, SoftBatch


def two_sides(student: Tensor, soft: SoftBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, k) of student and teacher at the temperature; sparse: top ids, then one bucket."""
    scaled = student / temperature
    if soft.logits is not None:
        return scaled.log_softmax(1), (soft.logits / temperature).log_softmax(1)
    assert soft.ids is not None and soft.top is not None and soft.rest is not None
    rest = soft.rest[:, soft.temperatures.index(temperature)][:, None]
    teacher = torch.cat([soft.top / temperature, rest], 1).log_softmax(1)
    kept = scaled.gather(1, soft.ids.long())
    others = scaled.scatter(1, soft.ids.long(), float("-inf")).logsumexp(1, keepdim=True)
    return torch.cat([kept, others], 1).log_softmax(1), teacher


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher ‖ student) per row from log-probabilities (n, k)."""
    return (teacher.exp() * (teacher - student)).sum(1)


def kd(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """T² KL(teacher ‖ student) at temperature T. Hinton et al. 2015, arXiv 1503.02531, section 2."""
    ours, theirs = two_sides(student, soft, temperature)
    return temperature**2 * kl(theirs, ours)


def dkd(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """T² (TCKD + 8 NCKD). Zhao et al. 2022, arXiv 2203.08679, equation 7 with α = 1, β = 8.

    The target class is the label; the teacher's own answer where a row has none.
    """
    assert soft.logits is not None
    target = soft.logits.argmax(1)
    if labels is not None and labels.ndim == 1:
        target = torch.where(labels >= 0, labels, target)
    ours, theirs = two_sides(student, soft, temperature)
    hit = F.one_hot(target, student.shape[1]).bool()
    target_kl = kl(binary(theirs, hit), binary(ours, hit))
    drop = torch.zeros_like(student).masked_fill(hit, -1e4)
    other_kl = kl(
        (soft.logits / temperature + drop).log_softmax(1), (student / temperature + drop).log_softmax(1)
    )
    return temperature**2 * (target_kl + 8 * other_kl)


def binary(logp: Tensor, hit: Tensor) -> Tensor:
    """Log-probabilities (n, 2) of the hit class and of all others."""
    inside = logp.masked_fill(~hit, float("-inf")).logsumexp(1)
    outside = logp.masked_fill(hit, float("-inf")).logsumexp(1)
    return torch.stack([inside, outside], 1)


def dist(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """Inter- plus intra-class Pearson distance. Huang et al. 2022, arXiv 2205.10536, equations 8 to 10, β = γ = 1.

    The intra-class part compares columns over the batch, so the value is the batch's, given to each row alike;
    as in the authors' experiments the whole is scaled by T².
    """
    assert soft.logits is not None
    ours, theirs = (student / temperature).softmax(1), (soft.logits / temperature).softmax(1)
    inter = pearson_distance(ours, theirs).mean()
    intra = pearson_distance(ours.T, theirs.T).mean() if len(student) > 1 else inter * 0
    return (temperature**2 * (inter + intra)).expand(len(student))


def pearson_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - Pearson correlation per row."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


def standardised(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """T² KL of z-scored logits. Sun et al. 2024, arXiv 2403.01427, algorithm 1 (deviation without correction)."""
    assert soft.logits is not None
    ours, theirs = (zscore(side) / temperature for side in (student, soft.logits))
    return temperature**2 * kl(theirs.log_softmax(1), ours.log_softmax(1))


def zscore(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, correction=0, keepdim=True) + 1e-7)


def mse(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """Mean squared difference of logits (or values). Ba and Caruana 2014, arXiv 1312.6184, equation 1."""
    assert soft.logits is not None
    return (student - soft.logits).square().mean(1)


def bernoulli(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """T² × sum over labels of the Bernoulli KL: `kd` where labels are independent (multi-label)."""
    assert soft.logits is not None
    ours, theirs = student / temperature, soft.logits / temperature
    p = theirs.sigmoid()
    yes = p * (F.logsigmoid(theirs) - F.logsigmoid(ours))
    no = (1 - p) * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
    return temperature**2 * (yes + no).sum(1)


def labels_only(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """Nothing from the teacher: the supervised loss alone."""
    return student.new_zeros(len(student))


LOSSES: dict[str, Loss] = {
    "kd": Loss("kd", frozenset({"top", "rest"}), kd, "arXiv 1503.02531"),
    "dkd": Loss("dkd", frozenset({"all"}), dkd, "arXiv 2203.08679"),
    "dist": Loss("dist", frozenset({"all"}), dist, "arXiv 2205.10536"),
    "standardised": Loss("standardised", frozenset({"all"}), standardised, "arXiv 2403.01427"),
    "mse": Loss("mse", frozenset({"all"}), mse, "arXiv 1312.6184"),
    "labels": Loss("labels", frozenset(), labels_only, "supervised"),
}
MULTILABEL = Loss("kd", frozenset({"all"}), bernoulli, "arXiv 1503.02531, per label")


def loss_of(name: str, kind: Kind) -> Loss:
    return MULTILABEL if kind == "multilabel" and name == "kd" else LOSSES[name]


def losses_for(kind: Kind) -> tuple[str, ...]:
    """The contestants of a bake-off; the first is the default."""
    if kind == "regression":
        return ("mse", "labels")
    if kind == "multilabel":
        return ("kd", "mse", "labels")
    return ("kd", "dkd", "dist", "standardised", "mse", "labels")


def check_loss(
    name: str, kind: Kind, has: frozenset[str], temperature: float, grid: tuple[float, ...]
) -> None:
    """Raises Mistakes where the store lacks what the loss needs."""
    missing = loss_of(name, kind).needs - has
    if missing:
        fit = [n for n in losses_for(kind) if loss_of(n, kind).needs <= has]
        raise mistake(
            "distill.loss",
            f"'{name}' needs {sorted(missing)} of every row, and the soft-target store of this many outputs is sparse "
            f"(it has {sorted(has)}). Allowed here: {', '.join(fit)}.",
        )
    if name != "labels" and "all" not in has and temperature not in grid:
        raise mistake(
            "distill.temperature", f"must be one of {list(grid)} with a sparse store. Got {temperature}."
        )


def supervised(kind: Kind) -> Callable[[Tensor, Tensor], Tensor]:
    """Per-row loss on labels; rows without one (-1, NaN) count 0."""

    def classification(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="none", ignore_index=-1)

    def multilabel(outputs: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan()
        return (
            F.binary_cross_entropy_with_logits(outputs, labels.nan_to_num(), reduction="none") * known
        ).sum(1)

    def regression(outputs: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan()
        return ((outputs - labels.nan_to_num()).square() * known).mean(1)

    return {"classification": classification, "multilabel": multilabel, "regression": regression}[kind]
