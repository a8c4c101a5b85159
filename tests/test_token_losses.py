"""Losses over next tokens against their formulas in plain numpy; draws against what they stand for."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from family.errors import Mistakes
from family.losses import check_loss, loss_of
from family.text.token_losses import TOKEN_LOSSES
from family.text.token_targets import draw_row, top_row
from family.types import SoftBatch

RNG = np.random.default_rng(3)
STUDENT, TEACHER = RNG.normal(0, 2, (3, 5, 7)), RNG.normal(0, 3, (3, 5, 7))
LABELS = np.array([[1, 2, 3, 0, 6], [4, 5, -1, -1, -1], [-1, -1, 2, 2, 0]])
SKEW = 0.1


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


FORMULAS = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "skewed_kl": lambda p, q: kl(p, SKEW * p + (1 - SKEW) * q),
    "skewed_reverse_kl": lambda p, q: kl(q, SKEW * q + (1 - SKEW) * p),
}


def mean_of_known(each):
    return np.array([row[labels >= 0].mean() for row, labels in zip(each, LABELS, strict=True)])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", FORMULAS)
def test_every_loss_is_its_formula_over_the_positions_that_are_learnt(name, temperature):
    p, q = softmax(TEACHER / temperature, -1), softmax(STUDENT / temperature, -1)
    soft = SoftBatch(logits=torch.tensor(TEACHER))
    found = TOKEN_LOSSES[name].fn(torch.tensor(STUDENT), soft, temperature, torch.tensor(LABELS))
    assert np.allclose(found, temperature**2 * mean_of_known(FORMULAS[name](p, q)))


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_are_finite_where_both_are_almost_certain(name):
    student = torch.zeros(1, 2, 7, requires_grad=True)
    certain = torch.zeros(1, 2, 7)
    certain[..., 0] = 90.0
    for theirs, ours in ((certain, student), (certain, student + 80 * torch.eye(7)[3])):
        (gradient,) = torch.autograd.grad(
            TOKEN_LOSSES[name].fn(ours, SoftBatch(logits=theirs), 1.0, None).sum(), student
        )
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", FORMULAS)
def test_a_student_that_is_the_teacher_has_nothing_to_learn(name):
    student = torch.tensor(TEACHER, requires_grad=True)
    loss = TOKEN_LOSSES[name].fn(student, SoftBatch(logits=torch.tensor(TEACHER)), 1.0, torch.tensor(LABELS))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert torch.allclose(loss, torch.zeros_like(loss), atol=1e-9)
    assert torch.allclose(gradient, torch.zeros_like(gradient), atol=1e-9)


def test_forward_kl_from_draws_is_the_cross_entropy_under_their_shares():
    draws = torch.tensor(RNG.integers(0, 7, (3, 5, 4)))
    counts = torch.tensor(RNG.integers(0, 3, (3, 5, 4)) + np.eye(4, dtype=int)[0]).float()
    shares = np.zeros_like(STUDENT)
    for place in np.ndindex(3, 5):
        np.add.at(shares[place], draws[place].numpy(), counts[place].numpy())
    shares /= shares.sum(-1, keepdims=True)
    soft = SoftBatch(draws=draws, counts=counts)
    found = TOKEN_LOSSES["forward_kl"].fn(torch.tensor(STUDENT), soft, 1.0, torch.tensor(LABELS))
    assert np.allclose(found, mean_of_known(-(shares * log_softmax(STUDENT, -1)).sum(-1)))


def gradient(student, soft, labels):
    leaf = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(TOKEN_LOSSES["forward_kl"].fn(leaf, soft, 1.0, labels).sum(), leaf)
    return found


@pytest.mark.parametrize("draws", [16, 32, 64])
def test_the_gradient_from_draws_is_that_of_the_full_distributions_on_average(draws):
    """Without bias: over many drawings the mean comes as near as its own error says; not so for the kept top."""
    teacher, student = torch.tensor(RNG.normal(0, 1.5, (6, 300))), torch.tensor(RNG.normal(0, 1, (1, 6, 300)))
    labels = torch.tensor(RNG.integers(0, 300, (1, 6)))
    wanted = gradient(student, SoftBatch(logits=teacher[None]), labels)
    found = torch.stack([gradient(student, drawn(teacher, labels[0], draws, seed), labels) for seed in range(200)])
    error = (found.mean(0) - wanted).norm()
    expected = found.std(0).norm() / 200**0.5
    assert error < 1.3 * expected
    independent = ((1 - teacher.softmax(1).square().sum(1)).sum() / draws).sqrt() / 6  # of draws that know no others
    assert (found - wanted).square().sum((1, 2, 3)).mean().sqrt() < 1.02 * independent


def drawn(teacher, labels, draws, seed):
    ids, counts = draw_row(teacher, labels, draws, np.random.default_rng(seed))
    return SoftBatch(draws=torch.from_numpy(ids)[None], counts=torch.from_numpy(counts)[None].float())


def test_the_top_gives_the_rest_to_the_true_token():
    teacher, labels = torch.tensor(TEACHER[0]), torch.tensor([0, 1, 2, 3, -1])
    ids, shares = top_row(teacher, labels, 4, np.random.default_rng(0))
    p = softmax(TEACHER[0], -1)
    for place in range(4):
        kept = np.argsort(-p[place])[:3]
        assert set(ids[place, :3]) == set(kept)
        assert ids[place, 3] == labels[place]
        assert shares[place, 3] == pytest.approx(1 - p[place, kept].sum(), abs=1e-3)
    assert shares[4, 3] == 0


def test_labels_are_mixed_in_by_their_weight(tmp_path):
    from family.train import Batch, compute_loss
    from family.types import Training

    student, labels = torch.tensor(STUDENT).float(), torch.tensor(LABELS)
    soft = SoftBatch(logits=torch.tensor(TEACHER).float())
    batch = Batch((torch.zeros(3, 5),), soft, labels, torch.tensor([1.0, 1.0, 0.0]))
    task = type("Task", (), {"kind": "tokens"})()
    found = compute_loss(lambda _: student, task, Training("forward_kl", 1.0, 1, 0, 1.0, label_weight=0.25), batch)
    soft_loss = mean_of_known(kl(softmax(TEACHER, -1), softmax(STUDENT, -1)))
    logq = log_softmax(STUDENT, -1)
    hard = mean_of_known(-np.take_along_axis(logq, LABELS.clip(0)[..., None], -1)[..., 0])
    weight = np.array([0.25, 0.25, 0.0])  # the last row has no label of the data's
    assert float(found) == pytest.approx(((1 - weight) * soft_loss + weight * hard).mean(), rel=1e-5)


@pytest.mark.parametrize("name", ["reverse_kl", "skewed_kl", "skewed_reverse_kl"])
def test_draws_are_not_enough_for_what_needs_every_logit(name):
    with pytest.raises(Mistakes) as told:
        check_loss(name, "tokens", frozenset({"draws"}), 1.0, (1.0,))
    assert "needs all logits of every row; what is kept of this teacher is tokens drawn" in str(told.value)
    assert "Allowed here: forward_kl, labels" in str(told.value)


def test_draws_are_of_temperature_one():
    with pytest.raises(Mistakes, match=r"must be one of 1 with a sparse store\. Got 2"):
        check_loss("forward_kl", "tokens", frozenset({"draws"}), 2.0, (1.0,))
    check_loss("forward_kl", "tokens", frozenset({"all", "draws"}), 2.0, (1.0,))
    assert loss_of("forward_kl", "tokens").needs == {"draws"}
