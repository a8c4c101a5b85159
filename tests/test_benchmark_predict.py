"""The cost predictor on made-up costs whose terms are known."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from benchmark import Predictor, fit, join_ratios, predict, predictor_from_dict, predictor_to_dict
from benchmark.predict import FLOOR


def make_rows(count: int, seed: int = 0) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    return [
        {"one": 1.0, "macs": float(m), "layers": float(n)}
        for m, n in zip(10 ** rng.uniform(3, 6, count), rng.integers(1, 9, count), strict=True)
    ]


def cost_of(row: dict[str, float]) -> float:
    return 0.004 + 2e-7 * row["macs"] + 0.001 * row["layers"]


def test_a_sum_of_terms_is_found_again() -> None:
    rows = make_rows(12)
    found = fit(rows, [cost_of(row) for row in rows])
    assert found.weights == pytest.approx({"one": 0.004, "macs": 2e-7, "layers": 0.001})
    assert found.error < 1e-6
    assert found.margin == FLOOR
    assert predict(found, {"one": 1, "macs": 1e7, "layers": 3}) == pytest.approx(2.007)
    assert predict(found, {"one": 1, "new": 5}) == pytest.approx(0.004)  # what it has not seen counts nothing


def test_no_term_is_negative() -> None:
    rows = [{"one": 1.0, "bad": float(i)} for i in range(5)]
    assert set(fit(rows, [5.0, 4.0, 3.0, 2.0, 1.0]).weights) == {"one"}


def test_errors_are_those_of_models_left_out() -> None:
    """Against scipy's bounded least squares on the others, by hand for one of them."""
    rows = make_rows(9)
    rng = np.random.default_rng(1)
    costs = np.array([cost_of(row) for row in rows]) * np.exp(0.1 * rng.standard_normal(9))
    names = ("one", "macs", "layers")
    matrix = np.array([[row[n] for n in names] for row in rows])
    scale = matrix.max(axis=0)
    others = np.arange(9) != 4
    solved = lsq_linear((matrix / scale / costs[:, None])[others], np.ones(8), (0, np.inf), tol=1e-12).x
    assert fit(rows, costs).errors[4] == pytest.approx(float(matrix[4] / scale @ solved / costs[4] - 1), abs=1e-6)


def test_margin_by_hand() -> None:
    """Only what was too high counts, as if the other half were like it."""
    spread = np.sqrt(2 * (np.log(1.1) ** 2 + np.log(1.02) ** 2) / 4)
    wide = np.expm1(5.840909 * spread * np.sqrt(1.25))  # t of 3 degrees of freedom at 0.995
    assert Predictor({}, (0.1, -0.05, 0.02, -0.9)).margin == pytest.approx(wide)
    assert Predictor({}, (0.01, -0.5, -0.01) * 9).margin == FLOOR
    assert Predictor({}, (0.9, *[0.0] * 200)).margin == pytest.approx(1.35)  # half as much again as the greatest


def test_predictions_hardly_ever_exceed_the_truth_by_more_than_the_margin() -> None:
    """Of 4,000 further models of 100 fits to 14 with 5 % of noise, at most 1 %."""
    rng, beyond = np.random.default_rng(2), 0
    for seed in range(100):
        rows = make_rows(14, seed)
        found = fit(rows, [cost_of(r) * np.exp(0.05 * rng.standard_normal()) for r in rows])
        for row in make_rows(40, 1000 + seed):
            truth = cost_of(row) * np.exp(0.05 * rng.standard_normal())
            beyond += predict(found, row) / (1 + found.margin) > truth
    assert beyond <= 40


def test_a_predictor_survives_json() -> None:
    rows = make_rows(6)
    found = fit(rows, [cost_of(row) for row in rows])
    assert predictor_from_dict(predictor_to_dict(found)) == found


@pytest.mark.parametrize(
    ("rows", "values", "said"),
    [
        (make_rows(2), [1.0, 2.0], "at least 3 models"),
        (make_rows(3), [1.0, 2.0], "at least 3 models"),
        (make_rows(3), [1.0, 0.0, 2.0], "must be above 0"),
        (make_rows(3), [1.0, float("nan"), 2.0], "must be above 0"),
        ([{"a": -1.0}] * 3, [1.0, 2.0, 3.0], "at least 0"),
    ],
)
def test_what_cannot_be_fitted_is_said(rows: list, values: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(rows, values)


def test_joined_ratios_by_hand() -> None:
    ratio, low, high = join_ratios([0.5, 1.0, 2.0], [0.1, 0.1, 0.1])
    half = 4.302653 * np.log(2) / np.sqrt(3)
    assert (ratio, low, high) == pytest.approx((1.0, np.exp(-half), np.exp(half)))
    assert join_ratios([0.9], [0.2]) == pytest.approx((0.9, 0.9 * np.exp(-0.2), 0.9 * np.exp(0.2)))
