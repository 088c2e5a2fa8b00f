"""Recovered share and intervals, against closed forms, scipy and a simulation of their coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp_steer.statistics import (
    ClusterScores,
    StatisticsError,
    cluster_scores,
    estimate_as_dict,
    mean_estimate,
    recovered,
    recovered_estimate,
    resample_weights,
    wilson,
)

scores = st.floats(0, 100, allow_nan=False)


def clusters(values: list[list[float]]) -> ClusterScores:
    return ClusterScores(
        sums=np.array([sum(v) for v in values], dtype=float),
        counts=np.array([len(v) for v in values], dtype=float),
    )


def test_recovered_by_hand() -> None:
    # Llama-3.3-70B, honesty, StTP: aligned 93, malicious 24, steered 77 (table C.1).
    assert recovered(steered=77, malicious=24, aligned=93) == pytest.approx(53 / 69)


@given(malicious=scores, aligned=scores)
def test_recovered_is_zero_at_malicious_and_one_at_aligned(
    malicious: float, aligned: float
) -> None:
    if aligned == malicious:
        assert math.isnan(recovered(steered=1.0, malicious=malicious, aligned=aligned))
        return
    assert recovered(steered=malicious, malicious=malicious, aligned=aligned) == 0
    assert recovered(steered=aligned, malicious=malicious, aligned=aligned) == 1


@given(share=st.integers(0, 40), n=st.integers(40, 400))
def test_wilson_agrees_with_scipy(share: int, n: int) -> None:
    ours = wilson(share / n, n)
    theirs = stats.binomtest(share, n).proportion_ci(0.95, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("share", "n"), [(0.5, 0), (1.5, 10), (-0.1, 10)])
def test_wilson_refuses_what_is_no_proportion(share: float, n: int) -> None:
    with pytest.raises(StatisticsError, match="n >= 1 and a share in 0-1"):
        wilson(share, n)


def test_weights_are_draws_with_replacement_and_depend_on_the_arguments_alone() -> None:
    weights = resample_weights(7, n_resamples=50, seed=3)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == resample_weights(7, n_resamples=50, seed=3)).all()
    assert (weights != resample_weights(7, n_resamples=50, seed=4)).any()


def test_resampling_is_of_clusters_not_of_rows() -> None:
    """Ten copies of every row must not narrow the interval; treating rows as clusters would."""
    generator = np.random.default_rng(0)
    values = generator.uniform(0, 100, size=30)
    weights = resample_weights(30)
    once = mean_estimate(clusters([[v] for v in values]), weights)
    copied = mean_estimate(clusters([[v] * 10 for v in values]), weights)
    as_rows = mean_estimate(
        clusters([[v] for v in values for _ in range(10)]), resample_weights(300)
    )
    width = once.interval.high - once.interval.low
    assert copied.interval.high - copied.interval.low == pytest.approx(width, rel=1e-9)
    assert as_rows.interval.high - as_rows.interval.low < width / 2


def test_clusters_of_unequal_size_are_weighted_by_their_rows() -> None:
    """Samples of two clusters, one row of 0 and nine of 100, have the means 0, 90 and 100 only."""
    estimate = mean_estimate(clusters([[0.0], [100.0] * 9]), resample_weights(2))
    assert estimate.value == pytest.approx(90)
    assert (estimate.interval.low, estimate.interval.high) == (0.0, 100.0)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """200 repeats, 30 clusters: nominal 95 %, binomial noise 1.5 points; a half-width one fails."""
    generator = np.random.default_rng(1)
    weights = resample_weights(30, n_resamples=400)
    hits = half = 0
    for _ in range(200):
        values = generator.uniform(0, 100, size=30)
        interval = mean_estimate(clusters([[v] for v in values]), weights).interval
        middle, reach = (interval.low + interval.high) / 2, (interval.high - interval.low) / 2
        hits += abs(50 - middle) <= reach
        half += abs(50 - middle) <= reach / 2
    assert 0.89 <= hits / 200 <= 0.99
    assert half / 200 < 0.89


def test_paired_resampling_cancels_what_the_cells_share() -> None:
    """All three move together from scenario to scenario: the paired interval is narrow, and one
    with baselines in another order (unpaired) is not."""
    generator = np.random.default_rng(2)
    gap = generator.uniform(20, 100, size=40)
    malicious = np.zeros(40)
    weights = resample_weights(40)

    def interval_width(aligned: np.ndarray) -> float:
        estimate = recovered_estimate(
            steered=clusters([[v] for v in 0.6 * gap]),
            malicious=clusters([[v] for v in malicious]),
            aligned=clusters([[v] for v in aligned]),
            weights=weights,
        )
        assert estimate.value == pytest.approx(0.6)
        return estimate.interval.high - estimate.interval.low

    assert interval_width(gap) < 1e-9
    assert interval_width(gap[::-1]) > 0.05


@pytest.mark.parametrize(("score", "low", "high"), [(100.0, 86.2, 100.0), (0.0, 0.0, 13.8)])
def test_at_the_bounds_wilson_replaces_a_zero_width_interval(
    score: float, low: float, high: float
) -> None:
    estimate = mean_estimate(clusters([[score]] * 24), resample_weights(24))
    assert estimate.interval.kind == "wilson"
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx((low, high), abs=0.05)


def test_recovered_at_the_ceiling_has_width_too() -> None:
    estimate = recovered_estimate(
        steered=clusters([[100.0]] * 24),
        malicious=clusters([[0.0]] * 24),
        aligned=clusters([[100.0]] * 24),
        weights=resample_weights(24),
    )
    assert estimate.value == 1.0
    assert estimate.interval.kind == "wilson"
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx((0.862, 1.0), abs=1e-3)


def test_no_gap_is_nan_and_null_in_json() -> None:
    same = clusters([[50.0], [50.0]])
    estimate = recovered_estimate(
        steered=same, malicious=same, aligned=same, weights=resample_weights(2)
    )
    assert math.isnan(estimate.value)
    assert estimate_as_dict(estimate)["value"] is None
    assert estimate_as_dict(estimate)["low"] is None


def test_cluster_scores_sum_in_the_given_order() -> None:
    found = cluster_scores([1.0, 2.0, 4.0], ["b", "a", "b"], order=["a", "b"])
    assert found.sums.tolist() == [2.0, 5.0]
    assert found.counts.tolist() == [1.0, 2.0]
    assert found.mean == pytest.approx(7 / 3)


def test_cluster_scores_refuse_missing_and_unknown_scenarios() -> None:
    with pytest.raises(StatisticsError, match=r"1 of 2 scenarios have no row, e\.g\. \['b'\]"):
        cluster_scores([1.0], ["a"], order=["a", "b"])
    with pytest.raises(StatisticsError, match=r"not in `order`: \['c'\]"):
        cluster_scores([1.0], ["c"], order=["a"])


def test_weights_for_another_number_of_clusters_are_refused() -> None:
    with pytest.raises(StatisticsError, match="weights are for 3 clusters, scores for 2"):
        mean_estimate(clusters([[1.0], [2.0]]), resample_weights(3))
