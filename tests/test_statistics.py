"""Intervals and tests agree with closed forms, brute force and scipy."""

import numpy as np
import pytest
from scipy import stats

from dermgen import statistics


def test_images_of_one_lesion_are_drawn_together():
    weights = statistics.resampled_weights(["a", "a", "b", "c", "c"], 200, 0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
    assert weights.std(axis=0).min() > 0


def test_the_bootstrap_of_a_mean_has_its_standard_error():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    errors = statistics.bootstrap_errors(values, draws=4000)
    assert errors.std() == pytest.approx(values.std() / 20, rel=0.05)
    assert abs(errors.mean()) < 0.02


def test_the_bootstrap_over_lesions_is_wider_where_their_images_agree():
    values = np.repeat(np.random.default_rng(0).normal(size=100), 4)
    lesions = np.repeat(np.arange(100), 4)
    alone = statistics.bootstrap_errors(values, draws=4000).std()
    together = statistics.bootstrap_errors(values, lesions, draws=4000).std()
    assert together / alone == pytest.approx(2, rel=0.07)  # sqrt(4): four copies tell no more than one


def test_mcnemar_is_the_binomial_test_of_the_cases_on_which_the_two_differ():
    a = np.array([1] * 30 + [0] * 5 + [1] * 14 + [0] * 3, bool)
    b = np.array([1] * 30 + [0] * 5 + [0] * 14 + [1] * 3, bool)
    assert statistics.mcnemar(a, b) == pytest.approx(stats.binomtest(14, 17).pvalue, rel=1e-9)


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


def test_wilson_agrees_with_scipy():
    expected = stats.binomtest(7, 50).proportion_ci(method="wilson")
    assert statistics.wilson(7, 50) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert statistics.wilson(0, 50)[1] > 0.05


def test_the_p_value_of_a_shifted_bootstrap_is_its_tail_twice():
    values = np.linspace(-1, 9, 1000)  # a tenth lies below 0
    assert statistics.two_sided_p(values) == pytest.approx(0.2, abs=0.01)
    assert statistics.two_sided_p(values + 100) == pytest.approx(2 / 1001)
