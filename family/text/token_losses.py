"""Token-level losses: how far the student's next tokens are from the teacher's, as the mean over a row's positions.

Every loss takes the student's logits (n, length, V), the teacher's soft targets, and the next tokens `labels` (n,
length), -1 where a position is not learnt; it gives (n,). With every logit of the teacher, `forward_kl` is a
divergence. From drawn tokens it is the cross-entropy under their shares, which in expectation is the divergence and the
teacher's own entropy: a constant of the student's, so that the gradient's expectation is the same, and nothing is taken
off.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from family.types import Loss, SoftBatch

SKEW = 0.1  # DistiLLM's own choice

REFUSED = {
    "top_k_renormalised": (
        "is biased: what the kept tokens are given is too much by as much as the others had, so the student learns "
        "that rare tokens never come (arXiv 2503.16870; docs/language.md has figures). Allowed instead: draws, or "
        "'top', whose rest goes to the true token."
    )
}


def over_positions(each: Tensor, labels: Tensor | None) -> Tensor:
    """The mean of (n, length) over the positions of a row that have a label; 0 for a row without any."""
    if labels is None:
        return each.mean(1)
    known = labels >= 0
    return each.masked_fill(~known, 0.0).sum(1) / known.sum(1).clamp_min(1)


def both_sides(student: Tensor, soft: SoftBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, length, V) of teacher and student at the temperature."""
    assert soft.logits is not None
    return (soft.logits / temperature).log_softmax(2), (student / temperature).log_softmax(2)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) (n, length) from log-probabilities (n, length, V)."""
    return (p.exp() * (p - q)).sum(2)


def blend(p: Tensor, q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q) of log-probabilities."""
    return torch.logaddexp(p + math.log(share), q + math.log(1 - share))


def forward_kl(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """T² KL(teacher ‖ student). Hinton et al. 2015, arXiv 1503.02531. From draws, at temperature 1, the cross-entropy
    -Σ (counts / total) log q, arXiv 2503.16870."""
    if soft.logits is None:
        return over_positions(drawn_entropy(student, soft, temperature), labels)
    teacher, ours = both_sides(student, soft, temperature)
    return over_positions(temperature**2 * divergence(teacher, ours), labels)


def drawn_entropy(student: Tensor, soft: SoftBatch, temperature: float) -> Tensor:
    """(n, length): the cross-entropy of the student under what was drawn at temperature 1."""
    assert soft.draws is not None
    assert soft.counts is not None
    assert temperature == 1, "tokens were drawn at temperature 1"
    told = student.gather(2, soft.draws) - student.logsumexp(2, keepdim=True)
    return -(soft.counts * told).sum(2) / soft.counts.sum(2).clamp_min(1e-9)


def reverse_kl(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """T² KL(student ‖ teacher). Gu et al. 2024, arXiv 2306.08543, equation 1, token by token."""
    teacher, ours = both_sides(student, soft, temperature)
    return over_positions(temperature**2 * divergence(ours, teacher), labels)


def skewed_kl(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """T² KL(teacher ‖ α teacher + (1 - α) student), α = 0.1. DistiLLM, Ko et al. 2024, arXiv 2402.03898."""
    teacher, ours = both_sides(student, soft, temperature)
    return over_positions(temperature**2 * divergence(teacher, blend(teacher, ours, SKEW)), labels)


def skewed_reverse_kl(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """T² KL(student ‖ α student + (1 - α) teacher), α = 0.1. DistiLLM, arXiv 2402.03898."""
    teacher, ours = both_sides(student, soft, temperature)
    return over_positions(temperature**2 * divergence(ours, blend(ours, teacher, SKEW)), labels)


def nothing(student: Tensor, soft: SoftBatch, temperature: float, labels: Tensor | None) -> Tensor:
    """Nothing from the teacher: the supervised loss alone."""
    return student.new_zeros(len(student))


Fn = Callable[[Tensor, SoftBatch, float, Tensor | None], Tensor]


def of_all(name: str, fn: Fn, paper: str) -> Loss:
    """A loss that needs every logit, so a live teacher."""
    return Loss(name, frozenset({"all"}), fn, paper)


TOKEN_LOSSES: dict[str, Loss] = {
    "forward_kl": Loss("forward_kl", frozenset({"draws"}), forward_kl, "arXiv 1503.02531, 2503.16870"),
    "reverse_kl": of_all("reverse_kl", reverse_kl, "arXiv 2306.08543"),
    "skewed_kl": of_all("skewed_kl", skewed_kl, "arXiv 2402.03898"),
    "skewed_reverse_kl": of_all("skewed_reverse_kl", skewed_reverse_kl, "arXiv 2402.03898"),
    "labels": Loss("labels", frozenset(), nothing, "supervised"),
}

__all__ = ["REFUSED", "SKEW", "TOKEN_LOSSES", "over_positions"]
