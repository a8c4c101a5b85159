"""Distillation losses by name. Each gives one value per row and declares what it needs of the soft targets.

Labels are class numbers (n,) int64, -1 where a row has none, or (n, outputs) float with NaN.
Dense soft targets hold every logit. Sparse ones hold the top logits, mean and deviation of all, and the
log-sum-exp of the rest at a grid of temperatures (of the logits, then of the standardised ones): enough for `kd`
and `standardised` (the rest as one bucket of exactly the teacher's mass), not for `dkd`, `dist` or `mse`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from family.errors import mistake
from family.text.token_losses import TOKEN_LOSSES
from family.types import Kind, Loss, SoftBatch

TINY = 1e-7  # added to a deviation before dividing by it


def two_sides(student: Tensor, soft: SoftBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, k) of student and teacher at the temperature; sparse: (n, j + 1), as `with_bucket`."""
    if soft.logits is not None:
        return (student / temperature).log_softmax(1), (soft.logits / temperature).log_softmax(1)
    assert soft.top is not None
    assert soft.rest is not None
    rest = soft.rest[:, soft.temperatures.index(temperature)]
    return with_bucket(student / temperature, soft, soft.top / temperature, rest)


def with_bucket(student: Tensor, soft: SoftBatch, top: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, j + 1) of the teacher's top classes and of all others together.

    student: (n, k), top: (n, j), rest: (n,) log-sum-exp of the others; all divided by the temperature.
    """
    assert soft.ids is not None
    kept = student.gather(1, soft.ids)
    others = student.scatter(1, soft.ids, float("-inf")).logsumexp(1, keepdim=True)
    theirs = torch.cat([top, rest[:, None]], 1)
    return torch.cat([kept, others], 1).log_softmax(1), theirs.log_softmax(1)


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
    other_kl = kl((soft.logits / temperature + drop).log_softmax(1), (student / temperature + drop).log_softmax(1))
    return temperature**2 * (target_kl + 8 * other_kl)


def binary(logp: Tensor, hit: Tensor) -> Tensor:
    """Log-probabilities (n, 2) of the hit class and of all others."""
    inside = logp.masked_fill(~hit, float("-inf")).logsumexp(1)
    outside = logp.masked_fill(hit, float("-inf")).logsumexp(1)
    return torch.stack([inside, outside], 1)


def dist(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """Inter- plus intra-class Pearson distance. Huang et al. 2022, arXiv 2205.10536, equations 8 to 10.

    The intra-class part compares columns over the batch, so the value is the batch's, given to each row alike.
    Both parts weigh 1 and, as in the authors' own code, the whole is scaled by T².
    """
    assert soft.logits is not None
    ours, theirs = (student / temperature).softmax(1), (soft.logits / temperature).softmax(1)
    inter = pearson_distance(ours, theirs).mean()
    intra = pearson_distance(ours.T, theirs.T).mean() if len(student) > 1 else inter * 0
    return (temperature**2 * (inter + intra)).expand(len(student))


def pearson_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - Pearson correlation per row."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    correlation: Tensor = (a * b).sum(1) / (lengths + 1e-8)
    return 1 - correlation


def standardised(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """T² KL of z-scored logits (deviation over k, not k - 1). Sun et al. 2024, arXiv 2403.01427, algorithm 1."""
    ours = zscore(student) / temperature
    if soft.logits is not None:
        theirs = zscore(soft.logits) / temperature
        return temperature**2 * kl(theirs.log_softmax(1), ours.log_softmax(1))
    assert soft.top is not None
    assert soft.mean is not None
    assert soft.std is not None
    assert soft.rest is not None
    top = (soft.top - soft.mean[:, None]) / (soft.std[:, None] + TINY) / temperature
    rest = soft.rest[:, len(soft.temperatures) + soft.temperatures.index(temperature)]
    mine, others = with_bucket(ours, soft, top, rest)
    return temperature**2 * kl(others, mine)


def zscore(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, correction=0, keepdim=True) + TINY)


def mse(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """Mean squared difference of logits (or values). Ba and Caruana 2014, arXiv 1312.6184, equation 1."""
    assert soft.logits is not None
    return (student - soft.logits).square().mean(1)


def cosine(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """1 - cosine similarity to the teacher's vector."""
    assert soft.logits is not None
    return 1 - F.cosine_similarity(student, soft.logits)


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
    "standardised": Loss("standardised", frozenset({"top", "moments", "rest"}), standardised, "arXiv 2403.01427"),
    "mse": Loss("mse", frozenset({"all"}), mse, "arXiv 1312.6184"),
    "cosine": Loss("cosine", frozenset({"all"}), cosine, "arXiv 1908.10084, section 3.1"),
    "labels": Loss("labels", frozenset(), labels_only, "supervised"),
}
ANSWERS = Loss("answers", frozenset({"answers"}), labels_only, "supervised, by the teacher's text")
MULTILABEL = Loss("kd", frozenset({"all"}), bernoulli, "arXiv 1503.02531, per label")


def loss_of(name: str, kind: Kind) -> Loss:
    if kind == "tokens":
        return {**TOKEN_LOSSES, "answers": ANSWERS}[name]
    return MULTILABEL if kind == "multilabel" and name == "kd" else LOSSES[name]


def losses_for(kind: Kind) -> tuple[str, ...]:
    """The contestants of a bake-off; the first that the soft targets allow is the default."""
    if kind == "tokens":
        return ("forward_kl", "answers", "labels")
    if kind == "regression":
        return ("mse", "labels")
    if kind == "embedding":
        return ("cosine", "mse", "labels")
    if kind == "multilabel":
        return ("kd", "mse", "labels")
    return ("kd", "dkd", "dist", "standardised", "mse", "labels")


def check_loss(name: str, kind: Kind, has: frozenset[str], temperature: float, grid: tuple[float, ...]) -> None:
    """Raises Mistakes where the loss does not fit the task, or the store (`has`) lacks what it needs."""
    allowed = (*TOKEN_LOSSES, "answers") if kind == "tokens" else losses_for(kind)
    if name not in allowed:
        raise mistake("distill.loss", f"must be one of {', '.join(allowed)} for {kind}. Got '{name}'.")
    loss = loss_of(name, kind)
    missing = loss.needs - has
    if missing:
        fit = [n for n in allowed if loss_of(n, kind).needs <= has]
        raise mistake(
            "distill.loss",
            f"'{name}' needs {say(missing)} of every row; what is kept of this teacher "
            f"is {say(has)}. Allowed here: {', '.join(fit)}.",
        )
    if {"rest", "draws"} & loss.needs and "all" not in has and temperature not in grid:
        temperatures = ", ".join(f"{t:g}" for t in grid)
        raise mistake("distill.temperature", f"must be one of {temperatures} with a sparse store. Got {temperature:g}.")


SAID = {
    "all": "all logits",
    "top": "the greatest logits",
    "moments": "their mean and deviation",
    "rest": "the sum of the others at fixed temperatures",
    "draws": "tokens drawn from its distribution",
    "answers": "text that the teacher wrote",
}


def say(parts: frozenset[str]) -> str:
    return ", ".join(text for part, text in SAID.items() if part in parts)


def supervised(kind: Kind) -> Callable[[Tensor, Tensor], Tensor]:
    """Per-row loss on labels; rows without one (-1, NaN) count 0."""

    def classification(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="none", ignore_index=-1)

    def multilabel(outputs: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan()
        return (F.binary_cross_entropy_with_logits(outputs, labels.nan_to_num(), reduction="none") * known).sum(1)

    def regression(outputs: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan()
        return ((outputs - labels.nan_to_num()).square() * known).mean(1)

    def embedding(outputs: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan().any(1)
        return (1 - F.cosine_similarity(outputs, labels.nan_to_num())) * known

    def tokens(outputs: Tensor, labels: Tensor) -> Tensor:
        each = F.cross_entropy(outputs.transpose(1, 2), labels, reduction="none", ignore_index=-1)
        return each.sum(1) / (labels >= 0).sum(1).clamp_min(1)

    return {
        "classification": classification,
        "multilabel": multilabel,
        "regression": regression,
        "embedding": embedding,
        "tokens": tokens,
    }[kind]
