"""Recovered share and intervals, against closed forms, scipy and a simulation of their coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp_steer.intervals import (
    SHARE,
    difference_estimate,
    estimate_as_dict,
    mean_estimate,
    recovered_estimate,
    tail_mass,
    wilson,
)
from interp_steer.statistics import (
    Estimate,
    Resamples,
    Scores,
    StatisticsError,
    draw_resamples,
    recovered,
    resample_weights,
    sampled_mean,
    sampled_recovered,
)

scores = st.floats(0, 100, allow_nan=False)


def scored(values: list[list[float]]) -> Scores:
    return Scores(
        sums=np.array([sum(v) for v in values], dtype=float),
        counts=np.array([len(v) for v in values], dtype=float),
    )


def alone(n: int, *, n_resamples: int = 1000) -> Resamples:
    """Every scenario its own cluster."""
    return draw_resamples([str(i) for i in range(n)], n_resamples=n_resamples)


def estimate(values: list[list[float]], resamples: Resamples) -> Estimate:
    return mean_estimate(sampled_mean(scored(values), resamples), resamples)


def recovered_of(steered: list, malicious: list, aligned: list) -> Estimate:
    resamples = alone(len(steered))
    s, m, a = (
        sampled_mean(scored([[v] for v in side]), resamples)
        for side in (steered, malicious, aligned)
    )
    share = sampled_recovered(steered=s, malicious=m, aligned=a)
    trait = mean_estimate(s, resamples)
    return recovered_estimate(share, resamples, steered=trait, malicious=m.value, aligned=a.value)


def width(found: Estimate) -> float:
    return found.interval.high - found.interval.low


class TestRecovered:
    def test_by_hand(self) -> None:
        # Llama-3.3-70B, honesty, StTP: aligned 93, malicious 24, steered 77 (table C.1).
        assert recovered(steered=77, malicious=24, aligned=93) == pytest.approx(53 / 69)

    @given(malicious=scores, aligned=scores)
    def test_is_zero_at_malicious_and_one_at_aligned(
        self, malicious: float, aligned: float
    ) -> None:
        if aligned == malicious:
            assert math.isnan(recovered(steered=1.0, malicious=malicious, aligned=aligned))
            return
        assert recovered(steered=malicious, malicious=malicious, aligned=aligned) == 0
        assert recovered(steered=aligned, malicious=malicious, aligned=aligned) == 1

    def test_paired_resampling_cancels_what_the_cells_share(self) -> None:
        """All three move together from scenario to scenario: the paired interval is narrow, and one
        with baselines in another order (unpaired) is not."""
        gap = np.random.default_rng(2).uniform(20, 100, size=40)
        paired = recovered_of(list(0.6 * gap), [0.0] * 40, list(gap))
        unpaired = recovered_of(list(0.6 * gap), [0.0] * 40, list(gap[::-1]))
        assert paired.value == unpaired.value == pytest.approx(0.6)
        assert width(paired) < 1e-9
        assert width(unpaired) > 0.05

    def test_at_the_ceiling_it_has_width_too(self) -> None:
        found = recovered_of([100.0] * 24, [0.0] * 24, [100.0] * 24)
        assert found.value == 1.0
        assert found.interval.kind == "wilson"
        assert (found.interval.low, found.interval.high) == pytest.approx((0.862, 1.0), abs=1e-3)

    def test_no_gap_is_nan_and_null_in_json(self) -> None:
        found = recovered_of([50.0, 50.0], [50.0, 50.0], [50.0, 50.0])
        assert math.isnan(found.value)
        assert estimate_as_dict(found)["value"] is None
        assert estimate_as_dict(found)["low"] is None


class TestWilson:
    @given(share=st.integers(0, 40), n=st.integers(40, 400))
    def test_agrees_with_scipy(self, share: int, n: int) -> None:
        ours = wilson(share / n, n)
        theirs = stats.binomtest(share, n).proportion_ci(0.95, method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)

    @pytest.mark.parametrize(("share", "n"), [(0.5, 0), (1.5, 10), (-0.1, 10)])
    def test_refuses_what_is_no_proportion(self, share: float, n: int) -> None:
        with pytest.raises(StatisticsError, match="n >= 1 and a share in 0-1"):
            wilson(share, n)

    @pytest.mark.parametrize(("score", "low", "high"), [(100.0, 86.2, 100.0), (0.0, 0.0, 13.8)])
    def test_it_replaces_a_zero_width_interval_at_the_bounds(
        self, score: float, low: float, high: float
    ) -> None:
        found = estimate([[score]] * 24, alone(24))
        assert found.interval.kind == "wilson"
        assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.05)

    def test_it_counts_clusters_not_scenarios(self) -> None:
        """24 scenarios under 6 system prompts know less than 24 under 24."""
        six = draw_resamples([str(i % 6) for i in range(24)])
        assert width(estimate([[100.0]] * 24, six)) > 2 * width(estimate([[100.0]] * 24, alone(24)))

    def test_a_share_has_other_bounds(self) -> None:
        resamples = alone(24)
        nothing = sampled_mean(scored([[0.0]] * 24), resamples)
        found = mean_estimate(nothing, resamples, bounds=SHARE)
        assert (found.interval.low, found.interval.high) == pytest.approx((0, 0.138), abs=1e-3)
        assert width(mean_estimate(nothing, resamples, bounds=None)) == 0


class TestResamples:
    def test_weights_are_draws_with_replacement_and_depend_on_the_arguments_alone(self) -> None:
        weights = resample_weights(7, n_resamples=50, seed=3)
        assert weights.shape == (50, 7)
        assert (weights.sum(axis=1) == 7).all()
        assert (weights == resample_weights(7, n_resamples=50, seed=3)).all()
        assert (weights != resample_weights(7, n_resamples=50, seed=4)).any()
        with pytest.raises(StatisticsError, match="at least one cluster"):
            resample_weights(0)

    def test_members_of_a_cluster_are_drawn_together(self) -> None:
        weights = draw_resamples(["a", "b", "a", "c"], n_resamples=100).weights
        assert (weights[:, 0] == weights[:, 2]).all()
        assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()

    def test_strata_keep_their_size_and_no_half_is_ever_empty(self) -> None:
        found = draw_resamples(["a", "b", "c", "d", "e"], strata=[0, 0, 1, 1, 1])
        assert (found.weights[:, :2].sum(axis=1) == 2).all()
        assert (found.weights[:, 2:].sum(axis=1) == 3).all()
        assert (found.n_clusters, found.n_strata, found.smallest_stratum) == (5, 2, 2)

    def test_a_cluster_in_two_strata_is_refused(self) -> None:
        with pytest.raises(StatisticsError, match="1 clusters lie in two strata"):
            draw_resamples(["a", "b", "a"], strata=[0, 0, 1])

    def test_resampling_is_of_clusters_not_of_rows(self) -> None:
        """Ten copies of every row must not narrow the interval; rows as clusters would."""
        values = np.random.default_rng(0).uniform(0, 100, size=30)
        once = estimate([[v] for v in values], alone(30))
        copied = estimate([[v] * 10 for v in values], alone(30))
        scenarios = [[v] for v in values for _ in range(10)]
        clustered = estimate(scenarios, draw_resamples([str(i // 10) for i in range(300)]))
        assert width(copied) == pytest.approx(width(once), rel=1e-9)
        assert width(clustered) == pytest.approx(width(once), rel=0.1)
        assert width(estimate(scenarios, alone(300))) < width(once) / 2

    def test_scenarios_are_weighted_by_their_rows(self) -> None:
        """Samples of two scenarios, one row of 0 and nine of 100, have means 0, 90 and 100 only."""
        found = estimate([[0.0], [100.0] * 9], alone(2))
        assert found.value == pytest.approx(90)
        assert (found.interval.low, found.interval.high) == (0.0, 100.0)

    def test_scores_of_other_scenarios_are_refused(self) -> None:
        with pytest.raises(StatisticsError, match="weights are for 3 scenarios, scores for 2"):
            sampled_mean(scored([[1.0], [2.0]]), alone(3))
        with pytest.raises(StatisticsError, match="1 of 2 scenarios have no row"):
            sampled_mean(scored([[1.0], []]), alone(2))


class TestCoverage:
    @pytest.mark.parametrize(("n_clusters", "least"), [(30, 0.90), (5, 0.85)])
    def test_interval_covers_the_truth_about_as_often_as_it_says(
        self, n_clusters: int, least: float
    ) -> None:
        """300 repeats: nominal 95 %, binomial noise 1.3 points; a half-width one fails."""
        generator = np.random.default_rng(1)
        resamples = alone(n_clusters, n_resamples=400)
        hits = half = 0
        for _ in range(300):
            interval = estimate(
                [[v] for v in generator.uniform(0, 100, size=n_clusters)], resamples
            ).interval
            middle, reach = (interval.low + interval.high) / 2, (interval.high - interval.low) / 2
            hits += abs(50 - middle) <= reach
            half += abs(50 - middle) <= reach / 2
        assert least <= hits / 300 <= 0.995
        assert half / 300 < least

    def test_plain_percentiles_of_five_clusters_cover_less(self) -> None:
        """Why the percentiles are expanded: at five clusters the plain ones miss twice as often."""
        generator = np.random.default_rng(1)
        resamples = alone(5, n_resamples=400)
        plain = 0
        for _ in range(300):
            draws = sampled_mean(scored([[v] for v in generator.uniform(0, 100, 5)]), resamples)
            low, high = np.quantile(draws.draws, [0.025, 0.975])
            plain += low <= 50 <= high
        assert plain / 300 < 0.85

    def test_tails_by_hand(self) -> None:
        """n = 5: t(4, 0.975) = 2.776, times sqrt(5/4) = 3.104, Phi(-3.104) = 0.00095."""
        assert tail_mass(alone(5)) == pytest.approx(0.00095, abs=1e-5)
        assert tail_mass(alone(400)) == pytest.approx(0.025, abs=1e-3)
        assert math.isnan(tail_mass(alone(1)))

    def test_one_cluster_has_no_interval(self) -> None:
        found = estimate([[20.0], [40.0]], draw_resamples(["a", "a"]))
        assert found.value == 30
        assert not found.interval.is_finite
        assert estimate_as_dict(found)["low"] is None


class TestDifferences:
    def difference(self, a: list[float], b: list[float]) -> Estimate:
        resamples = alone(len(a))
        one, other = (sampled_mean(scored([[v] for v in side]), resamples) for side in (a, b))
        of = mean_estimate(one, resamples), mean_estimate(other, resamples)
        return difference_estimate(one.minus(other), resamples, of=of)

    def test_a_constant_difference_is_seen_although_both_intervals_overlap(self) -> None:
        base = np.random.default_rng(3).uniform(10, 80, size=40)
        found = self.difference(list(base + 3), list(base))
        assert (found.interval.low, found.interval.high) == pytest.approx((3, 3))
        shuffled = self.difference(list(base + 3), list(base[::-1]))
        assert shuffled.interval.low < 0 < shuffled.interval.high

    def test_two_methods_at_the_ceiling_differ_by_an_unknown_little(self) -> None:
        """Newcombe (1998), method 10, both 24 of 24: 0 -+ 13.8 points."""
        found = self.difference([100.0] * 24, [100.0] * 24)
        assert found.interval.kind == "newcombe"
        assert (found.interval.low, found.interval.high) == pytest.approx((-13.8, 13.8), abs=0.05)

    def test_newcombes_formula_with_both_sides(self) -> None:
        """1 - 0: l1 = 0.862, u2 = 0.138 (Wilson at 24): low = 1 - sqrt(2) * 0.138 = 0.805."""
        found = self.difference([100.0] * 24, [0.0] * 24)
        assert found.interval.low == pytest.approx(80.5, abs=0.05)
        assert found.interval.high == 100
