"""Intervals and paired differences: by hand, and by simulation of what they promise."""

from statistics import NormalDist

import numpy as np
import pytest

from reports import SCORES, Difference, difference, holm, score_interval, verdict

ACCURACY = SCORES["accuracy"]
MAE, RMSE = SCORES["mae"], SCORES["rmse"]


def as_outputs(right):
    """Logits that are right (class 0) where told so."""
    return np.stack([np.asarray(right, float), 1 - np.asarray(right, float)], axis=1)


def test_wilson_by_hand():
    # 9 of 10: centre (0.9 + z²/20) / (1 + z²/10) = 0.7890, half-width 0.1932.
    found = score_interval(ACCURACY, np.zeros(10, int), as_outputs([1] * 9 + [0]))
    assert (found.value, found.low, found.high) == pytest.approx((0.9, 0.5958, 0.9821), abs=1e-4)


def test_groups_that_repeat_rows_widen_the_interval():
    right = np.random.default_rng(0).random(40) < 0.8
    plain = score_interval(ACCURACY, np.zeros(40, int), as_outputs(right))
    again = np.repeat(right, 10)
    found = score_interval(ACCURACY, np.zeros(400, int), as_outputs(again), groups=np.repeat(np.arange(40), 10))
    assert found.high - found.low == pytest.approx(plain.high - plain.low, rel=0.1)


def test_bootstrap_is_the_same_for_the_same_seed():
    rng = np.random.default_rng(0)
    truth, outputs = rng.normal(size=(50, 1)), rng.normal(size=(50, 1))
    assert score_interval(RMSE, truth, outputs, seed=4) == score_interval(RMSE, truth, outputs, seed=4)
    assert score_interval(RMSE, truth, outputs, seed=4) != score_interval(RMSE, truth, outputs, seed=5)


def test_coverage_of_shares_means_and_groups():
    rng, held = np.random.default_rng(1), np.zeros(3)
    for _ in range(400):
        found = score_interval(ACCURACY, np.zeros(120, int), as_outputs(rng.random(120) < 0.93))
        held[0] += found.low <= 0.93 <= found.high
        base = np.repeat(rng.beta(8, 2, 30), 6)
        found = score_interval(ACCURACY, np.zeros(180, int), as_outputs(rng.random(180) < base), np.arange(180) // 6)
        held[1] += found.low <= 0.8 <= found.high
    for _ in range(120):
        found = score_interval(MAE, np.zeros((60, 1)), rng.exponential(size=(60, 1)))
        held[2] += found.low <= 1.0 <= found.high
    shares = held / [400, 400, 120]
    assert (shares >= [0.93, 0.93, 0.93 - 2 * (0.05 * 0.95 / 120) ** 0.5]).all(), shares


def simulate(rng, rows, seeds, row_noise, seed_noise, gain=0.0, group=1):
    """Outputs of paired seeds whose skill on a row is common, the row's own, the seed's own and chance."""
    hard = np.repeat(rng.normal(size=rows // group), group)

    def draw(shift):
        skill = 1.8 + hard + rng.normal(size=rows) * row_noise + rng.normal() * seed_noise + shift
        return np.stack([skill, -skill], axis=1)

    return [draw(gain) for _ in range(seeds)], [draw(0.0) for _ in range(seeds)]


@pytest.mark.parametrize(
    ("rows", "seeds", "row_noise", "seed_noise"),
    [
        (270, 1, 0.3, 0.0),
        (270, 1, 1.0, 0.0),
        (100, 3, 1.0, 0.3),
        (270, 3, 0.5, 0.5),
        (1000, 3, 1.0, 0.5),
        (1000, 2, 1.0, 0.5),
    ],
)
def test_a_true_null_is_rejected_at_most_as_often_as_promised(rows, seeds, row_noise, seed_noise):
    rng, runs = np.random.default_rng(rows + seeds), 700
    truth = np.zeros(rows, int)
    found = [difference(ACCURACY, truth, *simulate(rng, rows, seeds, row_noise, seed_noise)) for _ in range(runs)]
    error = (0.05 * 0.95 / runs) ** 0.5
    assert np.mean([d.p < 0.05 for d in found]) <= 0.05 + 2.5 * error
    assert np.mean([d.low <= 0 <= d.high for d in found]) >= 0.95 - 2.5 * error


def test_grouped_nulls_need_their_groups():
    rng, truth, groups = np.random.default_rng(5), np.zeros(300, int), np.arange(300) // 10
    rejected = np.zeros(2)
    for _ in range(300):
        shift = np.repeat(rng.normal(size=30), 10)
        ours, theirs = (as_outputs(rng.random(300) < 1 / (1 + np.exp(-1 - s * shift))) for s in (1.5, -1.5))
        for k, given in enumerate((None, groups)):
            rejected[k] += difference(ACCURACY, truth, [ours], [theirs], given).p < 0.05
    assert rejected[0] / 300 > 0.2
    assert rejected[1] / 300 <= 0.05 + 2.5 * (0.05 * 0.95 / 300) ** 0.5


def test_a_difference_of_the_detectable_size_is_found_in_four_of_five():
    rng, truth = np.random.default_rng(6), np.zeros((150, 1))
    sizes, found = [], []
    for _ in range(300):
        common = rng.normal(size=(150, 1))
        ours, theirs = (
            np.abs(common + 3),
            np.abs(common + 3 + 0.55 * 2.8 / 150**0.5 + rng.normal(size=(150, 1)) * 0.55),
        )
        result = difference(MAE, truth, [ours], [theirs])
        sizes.append(result.detectable)
        found.append(result.p < 0.05)
    assert np.mean(sizes) == pytest.approx(0.55 * 2.8 / 150**0.5, rel=0.06)
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)


def test_positive_means_ours_is_better_for_errors_too():
    truth = np.zeros((30, 1))
    near = np.linspace(0.1, 0.2, 30)[:, None]
    assert difference(MAE, truth, [near], [near + 0.5]).value == pytest.approx(0.5)
    assert difference(RMSE, truth, [near + 0.5], [near]).value < 0
    assert difference(RMSE, truth, [near + 0.5], [near]).high < 0


def test_one_seed_of_few_flips_shows_nothing():
    base = np.ones(270)
    worse = base.copy()
    worse[:4] = 0  # McNemar's exact p is 1/8
    found = difference(ACCURACY, np.zeros(270, int), [as_outputs(base)], [as_outputs(worse)])
    assert found.seeds == 1
    assert found.p > 0.05
    assert found.low < 0 < found.value


def test_equal_outputs_have_no_difference_but_a_detectable_one():
    out = as_outputs(np.ones(50))
    found = difference(ACCURACY, np.zeros(50, int), [out], [out])
    assert (found.value, found.p) == (0.0, 1.0)
    assert found.detectable > 0


def test_a_single_group_proves_nothing():
    truth, groups = np.zeros(20, int), np.zeros(20)
    found = difference(ACCURACY, truth, [as_outputs(np.ones(20))], [as_outputs(np.zeros(20))], groups)
    assert found.p == 1.0
    truth = np.random.default_rng(0).normal(size=(20, 1))
    own = score_interval(RMSE, truth, np.zeros((20, 1)), groups)
    assert own.value > 0.5
    assert np.isnan([own.low, own.high]).all()


def test_seeds_must_pair_and_rows_match():
    out = as_outputs(np.ones(5))
    with pytest.raises(ValueError, match=r"Seeds must pair.*Got 2 and 1"):
        difference(ACCURACY, np.zeros(5, int), [out, out], [out])
    with pytest.raises(ValueError, match=r"rows of truth \(4\). Got 5"):
        score_interval(ACCURACY, np.zeros(4, int), out)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_verdicts():
    up, down = Difference(0.1, 0, 0.2, 0.01, 0.1, 3), Difference(-0.1, -0.2, 0, 0.01, 0.1, 3)
    assert verdict(up, 0.01) == "distillation helped"
    assert verdict(down, 0.01) == "labels alone were better"
    assert verdict(up, 0.06) == verdict(up, float("nan")) == "no difference shown"
    assert verdict(up, 0.01, labels_chosen=True) == "labels alone chosen"


def test_normal_quantile_is_the_limit_of_many_rows():
    rng = np.random.default_rng(8)
    ours, theirs = rng.random(20000) < 0.9, rng.random(20000) < 0.89
    found = difference(ACCURACY, np.zeros(20000, int), [as_outputs(ours)], [as_outputs(theirs)])
    spread = (ours.astype(float) - theirs).std() / 20000**0.5
    assert found.high - found.value == pytest.approx(NormalDist().inv_cdf(0.975) * spread, rel=1e-3)
