"""Intervals and tests agree with closed forms, brute force and scipy."""

import numpy as np
import pytest
from scipy import stats

from dermgen import statistics


def test_images_of_one_lesion_are_resampled_together():
    weights = statistics.resampled_weights(["a", "a", "b", "c", "c"], 200, 0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
    assert weights.std(axis=0).min() > 0


def test_the_standard_error_of_a_mean_agrees_with_scipy():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    assert statistics.standard_error(values) == pytest.approx((stats.sem(values), 400))


def test_images_of_one_lesion_count_as_one_observation():
    values = np.repeat(np.random.default_rng(0).normal(size=100), 4)
    error, n = statistics.standard_error(values, np.repeat(np.arange(100), 4))
    assert n == 100
    assert error == pytest.approx(stats.sem(values[::4]))  # four copies carry no more information than one


def test_mcnemar_is_the_binomial_test_of_the_cases_on_which_the_two_differ():
    a = np.array([1] * 30 + [0] * 5 + [1] * 14 + [0] * 3, bool)
    b = np.array([1] * 30 + [0] * 5 + [0] * 14 + [1] * 3, bool)
    assert statistics.mcnemar(a, b) == pytest.approx(stats.binomtest(14, 17).pvalue, rel=1e-9)


def test_holms_correction_agrees_with_a_calculation_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


def test_wilson_agrees_with_scipy():
    expected = stats.binomtest(7, 50).proportion_ci(method="wilson")
    assert statistics.wilson(7, 50) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert statistics.wilson(0, 50)[1] > 0.05


def test_if_all_seeds_agree_the_interval_is_that_of_the_lesions():
    estimate = statistics.mean_over_seeds(np.array([0.3, 0.3, 0.3]), 0.01)
    assert (estimate.low, estimate.high) == pytest.approx((0.3 - 0.196, 0.3 + 0.196), abs=1e-3)
    assert estimate.p == pytest.approx(2 * stats.norm.sf(3))


def test_without_variance_over_lesions_the_interval_is_the_t_interval_of_the_seeds():
    seeds = np.array([0.1, 0.2, 0.4, 0.25])
    estimate = statistics.mean_over_seeds(seeds, 0.0)
    expected = stats.ttest_1samp(seeds, 0)
    interval = expected.confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))
    assert estimate.p == pytest.approx(expected.pvalue)


def test_about_one_in_twenty_chance_differences_is_called_real():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(3000):
        lesions = rng.normal(0, 0.5)  # all seeds are measured on one test set
        seeds = lesions + rng.normal(0, 1.0, size=3)
        called += statistics.mean_over_seeds(seeds, 0.5**2).p < 0.05
    assert 0.03 < called / 3000 < 0.075


def test_no_difference_at_all_is_not_real():
    assert statistics.mean_over_seeds(np.zeros(3), 0.0) == statistics.Estimate(0, 0, 0, 1)


@pytest.mark.parametrize("n", [1, 3, 5, 6, 7, 12])
def test_lesions_that_all_agree_are_significant_if_the_sign_test_says_so(n):
    variance, freedom = statistics.null_variance(np.full(n, 1 / n), np.arange(n))
    p = statistics.mean_over_seeds(np.ones(3), variance, freedom).p
    assert (p < 0.05) == (stats.binomtest(n, n).pvalue < 0.05)


def test_a_patients_lesions_count_as_one_of_paired_differences():
    alone = statistics.null_variance(np.array([0.2, -0.1, 0.3]), ["a", "b", "c"])
    together = statistics.null_variance(np.array([0.1, 0.1, -0.1, 0.15, 0.15]), ["a", "a", "b", "c", "c"])
    assert together == pytest.approx(alone)


def test_the_interval_of_a_share_has_a_width_where_its_error_is_0():
    assert statistics.share_interval(1.0, 0.0, 30) == pytest.approx(statistics.wilson(30, 30))
    assert statistics.share_interval(0.0, 0.0, 30) == pytest.approx(statistics.wilson(0, 30))
    assert statistics.share_interval(0.5, 0.05, 400) == pytest.approx(statistics.wilson(50, 100))
    assert statistics.share_interval(0.5, 0.001, 400) == pytest.approx(statistics.wilson(200, 400))


@pytest.mark.parametrize("rare", [1, 2, 3, 5, 6, 11, 30])
def test_without_a_difference_at_most_7_percent_are_called_real_however_few_lesions_a_class_has(rare):
    """Two arms right on 60 % of lesions, whose 3 seeds agree on 95 %; `benchmarks/study_test.py` compares whole arms."""
    rng, called = np.random.default_rng(0), np.zeros(2)
    lesions = [40, 30, rare]
    label = np.repeat([0, 1, 2], lesions)
    of_class = (label[:, None] == [0, 1, 2]) / np.array(lesions)
    for _ in range(400):
        a, b = (
            (rng.random(len(label)) < 0.6) ^ (rng.random((3, len(label))) < 0.05)  # of each seed
            for _ in range(2)
        )
        gained = b.astype(float) - a
        for i, weights in enumerate((of_class.mean(1), of_class[:, 2])):  # BMA, and recall of the rare class
            variance = statistics.null_variance(gained.mean(0) * weights, np.arange(len(label)))
            called[i] += statistics.mean_over_seeds(gained @ weights, *variance).p < 0.05
    assert (called / 400 <= 0.07).all(), called / 400
