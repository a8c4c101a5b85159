"""Losses against their formulas, worked out again with scipy."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, logsumexp, softmax
from scipy.stats import pearsonr

from family.errors import Mistakes
from family.losses import LOSSES, MULTILABEL, check_loss, loss_of, losses_for, supervised
from family.soft_targets import TEMPERATURES, SoftTargets, sparse_fields
from family.types import SoftBatch

T = 4.0
RNG = np.random.default_rng(7)
STUDENT, TEACHER = RNG.normal(0, 2, (5, 6)), RNG.normal(0, 3, (5, 6))
LABELS = np.array([0, 3, -1, 5, 2])


def value(name: str, student=STUDENT, teacher=TEACHER, temperature=T, labels=LABELS) -> np.ndarray:
    soft = SoftBatch(logits=torch.tensor(teacher))
    fn = MULTILABEL.fn if name == "bernoulli" else LOSSES[name].fn
    return fn(torch.tensor(student), soft, temperature, torch.tensor(labels)).numpy()


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.sum(p * np.log(p / q), axis=-1)


def test_kd_is_t_squared_kl_from_teacher_to_student():
    expected = T**2 * divergence(softmax(TEACHER / T, 1), softmax(STUDENT / T, 1))
    assert np.allclose(value("kd"), expected)


def test_kd_gradient_keeps_its_size_as_the_temperature_grows():
    """The reason for T²: at high T the gradient tends to the centred difference of logits over k."""
    student = torch.tensor(STUDENT, requires_grad=True)
    LOSSES["kd"].fn(student, SoftBatch(logits=torch.tensor(TEACHER)), 1000.0, None).sum().backward()
    centred = [x - x.mean(1, keepdims=True) for x in (STUDENT, TEACHER)]
    assert np.allclose(student.grad.numpy(), (centred[0] - centred[1]) / 6, atol=5e-3)


def test_dkd_parts_target_from_the_others():
    target = np.where(LABELS >= 0, LABELS, TEACHER.argmax(1))
    expected = []
    for s, t, c in zip(STUDENT / T, TEACHER / T, target, strict=True):
        p, q = softmax(t)[c], softmax(s)[c]
        tckd = divergence(np.array([p, 1 - p]), np.array([q, 1 - q]))
        nckd = divergence(softmax(np.delete(t, c)), softmax(np.delete(s, c)))
        expected.append(T**2 * (tckd + 8 * nckd))
    assert np.allclose(value("dkd"), expected)


def test_kd_is_dkd_with_the_weight_of_the_other_classes():
    """Zhao et al., equation 5: KD = TCKD + (1 - p_target) NCKD."""
    s, t = STUDENT[:1], TEACHER[:1]
    p = softmax(t / T, 1)[0, LABELS[0]]
    others = divergence(softmax(np.delete(t[0], 0) / T), softmax(np.delete(s[0], 0) / T)) * T**2
    given = value("dkd", s, t, labels=LABELS[:1])[0]
    assert np.isclose(value("kd", s, t)[0], given - 8 * others + (1 - p) * others)


def test_dist_is_one_minus_the_correlations_of_rows_and_columns():
    p, q = softmax(STUDENT / T, 1), softmax(TEACHER / T, 1)
    inter = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(p.T, q.T, strict=True)])
    assert np.allclose(value("dist"), np.full(5, T**2 * (inter + intra)), atol=1e-4)


def test_standardised_forgets_shift_and_scale_of_logits():
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) / T for x in (STUDENT, TEACHER)]
    expected = T**2 * divergence(softmax(z[1], 1), softmax(z[0], 1))
    assert np.allclose(value("standardised"), expected, atol=1e-6)
    assert np.allclose(value("standardised", student=3 * STUDENT + 5), expected, atol=1e-6)
    assert not np.allclose(value("kd", student=3 * STUDENT + 5), value("kd"))


def test_mse_is_the_mean_squared_difference():
    assert np.allclose(value("mse"), np.mean((STUDENT - TEACHER) ** 2, axis=1))


def test_multilabel_kd_adds_a_bernoulli_kl_per_label():
    p, q = expit(TEACHER / T), expit(STUDENT / T)
    expected = T**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    assert np.allclose(value("bernoulli"), expected)
    assert loss_of("kd", "multilabel") is MULTILABEL


@pytest.mark.parametrize("name", [*LOSSES, "bernoulli"])
def test_a_student_equal_to_its_teacher_loses_nothing(name):
    assert np.allclose(value(name, student=TEACHER), 0, atol=1e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_sparse_kd_is_the_kl_over_the_top_and_one_bucket(temperature):
    student, teacher = RNG.normal(0, 2, (4, 100)), RNG.normal(0, 3, (4, 100)).astype(np.float32)
    found = LOSSES["kd"].fn(torch.tensor(student), sparse(teacher), temperature, None).numpy()
    assert np.allclose(found, coarse_kd(student, teacher, temperature), rtol=0.01, atol=2e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_sparse_standardised_is_sparse_kd_of_z_scores(temperature):
    student, teacher = RNG.normal(0, 2, (4, 100)), RNG.normal(3, 5, (4, 100)).astype(np.float32)
    found = LOSSES["standardised"].fn(torch.tensor(student), sparse(teacher), temperature, None).numpy()
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (student, teacher)]
    assert np.allclose(found, coarse_kd(*z, temperature), rtol=0.01, atol=2e-3)


def sparse(teacher: np.ndarray) -> SoftBatch:
    """Soft targets as a sparse store of one view gives them back."""
    arrays = {name: values[None] for name, values in sparse_fields(teacher).items()}
    store = SoftTargets("", 1, teacher.shape[1], 0, {"train": arrays})
    rows = np.arange(len(teacher))
    return store.batch("train", rows, rows * 0)


def coarse_kd(student: np.ndarray, teacher: np.ndarray, temperature: float) -> list[float]:
    """KD between the ten classes the teacher likes most and one bucket of all others."""
    expected = []
    for s, t in zip(log_softmax(student / temperature, 1), log_softmax(teacher / temperature, 1), strict=True):
        top = np.argsort(-t)[:10]
        p = np.append(np.exp(t[top]), np.exp(logsumexp(np.delete(t, top))))
        q = np.append(np.exp(s[top]), np.exp(logsumexp(np.delete(s, top))))
        expected.append(temperature**2 * divergence(p, q))
    return expected


@pytest.mark.parametrize("name", ["dkd", "dist", "mse"])
def test_a_loss_on_all_logits_is_refused_on_a_sparse_store(name):
    with pytest.raises(Mistakes, match=r"what is kept.*Allowed here: kd, standardised, labels"):
        check_loss(name, "classification", frozenset({"top", "moments", "rest"}), T, TEMPERATURES)


def test_a_sparse_store_knows_its_temperatures_only():
    has = frozenset({"top", "moments", "rest"})
    check_loss("kd", "classification", has, 2.0, TEMPERATURES)
    check_loss("labels", "classification", has, 3.0, TEMPERATURES)
    with pytest.raises(Mistakes, match=r"distill.temperature: must be one of .*Got 3"):
        check_loss("kd", "classification", has, 3.0, TEMPERATURES)


def test_kinds_have_the_losses_that_mean_something():
    assert losses_for("regression") == ("mse", "labels")
    assert "dkd" not in losses_for("multilabel")
    assert losses_for("classification")[0] == "kd"


def test_rows_without_a_label_add_nothing():
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert supervised("classification")(outputs, torch.tensor([1, -1]))[1] == 0
    gaps = torch.tensor([[1.0, float("nan")], [float("nan"), float("nan")]])
    assert torch.allclose(supervised("regression")(outputs, gaps), torch.tensor([0.0, 0.0]))
    assert supervised("multilabel")(outputs, gaps).tolist() == pytest.approx([np.log1p(np.exp(-1)), 0])
