"""Scores of features agree with libraries and brute force, and their intervals with a bootstrap that recomputes them."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from dermgen import statistics
from dermgen.config import InputError
from dermgen.evaluate import products, scores


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(150, 24)).astype(np.float32)
    synthetic = (rng.normal(size=(130, 24)) * 1.2 + 0.25).astype(np.float32)
    return real, synthetic


def by_hand(real, synthetic):
    """Neighbourhood scores straight from the definitions, in float64."""
    real, synthetic = real.astype(np.float64), synthetic.astype(np.float64)
    gap = lambda x, y: np.linalg.norm(x[:, None] - y[None], axis=2)  # noqa: E731
    radius = lambda x, k: np.sort(gap(x, x), axis=1)[:, k]  # noqa: E731  (column 0 is the image itself)
    between = gap(synthetic, real)
    return {
        "precision": (between <= radius(real, 3)).any(1).mean(),
        "recall": (between <= radius(synthetic, 3)[:, None]).any(0).mean(),
        "density": (between <= radius(real, 5)).sum() / (5 * len(synthetic)),
        "coverage": (between <= radius(real, 5)).any(0).mean(),
    }, between


def passes(real, synthetic, block=2048):
    """The products of both sets, as `scores.compare` computes them."""
    of_real, of_synthetic = products.within(real, 6, block=block), products.within(synthetic, 3, block=block)
    radii = (of_real.radius(3), of_synthetic.radius(3), of_real.radius(5), of_real.radius(6))
    return of_real, products.across(real, synthetic, *radii, block=block)


@pytest.mark.parametrize("block", [2048, 32])
def test_precision_recall_density_and_coverage_are_their_definitions(sets, block):
    real, synthetic = sets
    expected, between = by_hand(real, synthetic)
    result = passes(real, synthetic, block)[1]
    assert result.in_real.share == pytest.approx(expected["precision"], abs=1e-6)
    assert result.in_synthetic.share == pytest.approx(expected["recall"], abs=1e-6)
    assert float(result.real_balls.double().mean() / 5) == pytest.approx(expected["density"], abs=1e-6)
    assert result.covered.share == pytest.approx(expected["coverage"], abs=1e-6)
    assert result.nearest_real.tolist() == between.argmin(1).tolist()
    np.testing.assert_allclose(result.nearest_squared_distance, between.min(1) ** 2, rtol=1e-4)
    assert 0.05 < expected["recall"] < 1


def test_precision_and_recall_agree_with_torch_fidelity(sets):
    real, synthetic = sets
    theirs = prc_features_to_metric(
        torch.from_numpy(synthetic), torch.from_numpy(real), prc_neighborhood=3, verbose=False
    )
    ours, _ = scores.compare(real, synthetic)
    assert ours["precision"].value == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours["recall"].value == pytest.approx(theirs["recall"], abs=1e-6)


def test_kid_equals_the_definition_summed_by_hand():
    rng = np.random.default_rng(0)
    real, synthetic = rng.normal(size=(8, 3)), rng.normal(1.0, size=(7, 3))
    k = lambda x, y: (x @ y / 3 + 1) ** 3  # noqa: E731
    inside = [np.mean([k(x, y) for x, y in permutations(s, 2)]) for s in (real, synthetic)]
    between = np.mean([k(x, y) for x in real for y in synthetic])
    result, _ = scores.compare(real.astype(np.float32), synthetic.astype(np.float32))
    assert result["kid"].value == pytest.approx(sum(inside) - 2 * between, rel=1e-5)


def test_kid_agrees_with_torch_fidelity_on_one_subset_of_all_images(sets):
    real, synthetic = (x[:130] for x in sets)
    ours, _ = scores.compare(real, synthetic)
    theirs = kid_features_to_metric(
        *(torch.from_numpy(x.astype(np.float64)) for x in (real, synthetic)),
        kid_subsets=1,
        kid_subset_size=130,
        verbose=False,
    )
    assert ours["kid"].value == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-6)


@pytest.mark.parametrize("count", [20, 130], ids=["fewer images than features", "more images than features"])
def test_fid_agrees_with_torch_fidelity(sets, count):
    real, synthetic = (x[:count] for x in sets)
    statistics_of_sets = [
        {"mu": x.mean(0, dtype=np.float64), "sigma": np.cov(x.astype(np.float64), rowvar=False)}
        for x in (real, synthetic)
    ]
    theirs = fid_statistics_to_metric(*statistics_of_sets, verbose=False)["frechet_inception_distance"]
    assert scores.fid(real, synthetic).value == pytest.approx(theirs, rel=1e-3)


def test_fid_of_two_shifted_and_scaled_normal_sets_has_its_closed_form():
    x = np.random.default_rng(0).normal(size=(500, 6))
    assert scores.fid(x, 3 * x + 2).value == pytest.approx(
        ((x.mean(0) - (3 * x + 2).mean(0)) ** 2).sum() + 4 * np.trace(np.cov(x.T)), rel=1e-6
    )


def test_the_two_ways_to_fid_and_its_influences_agree(sets):
    real, synthetic = (x[:, :20] for x in sets)
    few = scores._fid_of_covariances(real, synthetic)
    wide = np.hstack([real, np.zeros((150, 200), np.float32)]), np.hstack([synthetic, np.zeros((130, 200), np.float32)])
    many = scores.fid(*wide)
    assert many.value == pytest.approx(few.value, rel=1e-6)
    for a, b in ((few.real, many.real), (few.synthetic, many.synthetic)):
        np.testing.assert_allclose(a - a.mean(), b - b.mean(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["fid", "inception_score", "vendi"])
def test_an_influence_is_the_derivative_by_the_weight_of_an_image(name):
    rng = np.random.default_rng(1)
    real = rng.normal(size=(40, 4))
    score = {
        "fid": lambda s: scores.fid(real, s), "inception_score": scores.inception_score, "vendi": scores.vendi,
    }[name]  # fmt: skip
    x = np.repeat(rng.normal(size=(12, 4)), 400, axis=0)
    before = score(x)
    centred = before.synthetic - before.synthetic.mean()
    for i in (0, 5 * 400):
        more = np.concatenate([x, x[[i] * 4]])
        derivative = (score(more).value - before.value) / (4 / len(more))
        assert derivative == pytest.approx(centred[i], rel=0.02, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("real", "synthetic"), [(200, 200), (200, 2000)])
def test_intervals_are_as_wide_as_scores_of_new_samples_on_both_sides_are_spread(real, synthetic):
    """Those of the neighbourhood scores may be wider; `benchmarks/intervals.py` has more sizes and repeats."""
    covered, widths = simulate(np.random.default_rng(1), real, synthetic, 16, 0.85, 0.15, 50)
    assert set(covered) == {"kid", "fid", "precision", "recall", "density", "coverage", "vendi", "mean_cosine"}
    for name in covered:
        assert covered[name] >= 0.9, name
    for name in ("kid", "fid", "vendi", "mean_cosine"):
        assert widths[name] == pytest.approx(1, abs=0.3), name
    for name in ("precision", "recall", "density"):
        assert 0.9 < widths[name] < 2, name


def simulate(rng, real, synthetic, width, scale, shift, repeats):
    """How often each score's interval holds the mean over all samples, and its width in parts of what it should be."""
    result = {}
    for _ in range(repeats):
        a = rng.normal(size=(real, width)).astype(np.float32)
        b = (rng.normal(size=(synthetic, width)) * scale + shift).astype(np.float32)
        by_name = scores.compare(a, b)[0] | {"vendi": scores.vendi(b + 3), "mean_cosine": scores.mean_cosine(b + 3)}
        for name, score in by_name.items():
            result.setdefault(name, []).append((score.value, *score.interval()))
    covered, widths = {}, {}
    for name, rows in result.items():
        values, low, high = np.array(rows).T
        covered[name] = ((low <= values.mean()) & (values.mean() <= high)).mean()
        widths[name] = (high - low).mean() / max(2 * 1.96 * values.std(), 1e-9)
    return covered, widths


def test_the_influence_of_a_real_image_on_density_is_the_change_without_it(sets):
    real, synthetic = sets
    score = scores.compare(real, synthetic)[0]["density"]
    for i in (0, 7, 99):
        without = scores.compare(np.delete(real, i, axis=0), synthetic)[0]["density"].value
        assert len(real) * (score.value - without) == pytest.approx(score.real[i], rel=1e-6, abs=1e-9)


def test_a_ball_counts_by_the_images_that_no_other_one_holds(sets):
    real, synthetic = sets
    result = passes(real, synthetic)[1].in_real
    radius = np.sort(np.linalg.norm(real[:, None] - real[None], axis=2), axis=1)[:, 3]
    inside = np.linalg.norm(synthetic[:, None] - real[None], axis=2) <= radius
    alone = inside[inside.sum(1) == 1].sum(0)
    assert result.alone(len(real)).tolist() == alone.tolist()
    assert alone.max() > 1


def test_the_interval_of_a_share_is_at_least_that_of_as_many_coins_as_the_smaller_side_has(sets):
    real, synthetic = sets
    score = scores.compare(real, synthetic[:60])[0]["precision"]
    low, high = score.interval()
    assert high - low >= np.diff(statistics.wilson(score.value * 60, 60))[0] - 1e-9
    all_inside = scores.compare(real, np.repeat(real[:60], 1, axis=0))[0]["precision"]
    assert all_inside.value == 1
    assert all_inside.interval() == pytest.approx(statistics.wilson(60, 60))


def test_recognised_is_the_share_of_images_with_the_highest_logit_at_their_class():
    logits = np.array([[2.0, 1, 0], [0, 1, 2], [0, 3, 2], [5, 1, 2]])
    score = scores.recognised(logits, np.array([0, 2, 2, 1]))
    assert score.value == 0.5
    assert score.interval() == pytest.approx(statistics.wilson(1.5, 3))  # with the unbiased standard error


def test_inception_score_agrees_with_torch_fidelity():
    logits = np.random.default_rng(0).normal(size=(60, 10)) * 2
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=1, shuffle=False)["inception_score_mean"]
    assert scores.inception_score(logits).value == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("width", [4, 200])
def test_vendi_score_is_the_exponential_entropy_of_the_similarity_matrix(width):
    x = np.random.default_rng(0).normal(size=(30, width))
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    w = np.linalg.eigvalsh(u @ u.T / 30).clip(1e-300)
    assert scores.vendi(x).value == pytest.approx(np.exp(-(w * np.log(w)).sum()), rel=1e-9)


def test_vendi_score_counts_copies_once():
    assert scores.vendi(np.repeat(np.eye(5), 7, axis=0)).value == pytest.approx(5)


def test_mean_cosine_is_the_mean_over_all_pairs_of_different_images(sets):
    real = sets[0][:20]
    u = real / np.linalg.norm(real, axis=1, keepdims=True)
    assert scores.mean_cosine(real).value == pytest.approx(
        np.mean([u[i] @ u[j] for i, j in permutations(range(20), 2)])
    )
    assert scores.mean_cosine(np.ones((9, 3))).value == pytest.approx(1)


def test_two_samples_of_one_distribution_have_the_scores_of_no_difference():
    rng = np.random.default_rng(0)
    result, _ = scores.compare(*(rng.normal(size=(600, 8)).astype(np.float32) for _ in range(2)))
    assert result["kid"].interval()[0] < 0 < result["kid"].interval()[1]
    assert result["density"].value == pytest.approx(1, abs=0.1)
    assert result["coverage"].value > 0.9


def test_too_few_images_are_an_error():
    with pytest.raises(InputError, match="at least 7 images on each side, got 6 real and 9 synthetic"):
        scores.compare(np.zeros((6, 4), np.float32), np.zeros((9, 4), np.float32))


def test_nearest_neighbours_are_those_of_a_sorted_list(sets):
    real, synthetic = sets
    distances, which = products.nearest(synthetic, real, 4, block=32)
    gaps = ((synthetic[:, None].astype(np.float64) - real[None]) ** 2).sum(2)
    np.testing.assert_array_equal(which, np.argsort(gaps, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(gaps, axis=1)[:, :4], rtol=1e-4)


def test_intervals_stay_within_the_range_of_the_score():
    rng = np.random.default_rng(0)
    real, distant = rng.normal(size=(40, 4)).astype(np.float32), rng.normal(size=(40, 4)).astype(np.float32)
    distant[:39] += 50  # one image is like the real ones
    result, _ = scores.compare(real, distant)
    lesions = np.repeat(np.arange(8), 5)
    for name in ("precision", "recall", "coverage"):
        low, high = result[name].interval(lesions)
        assert 0 <= low <= high <= 1, name
    assert result["fid"].interval(lesions)[0] >= 0
