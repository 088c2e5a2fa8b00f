"""Recovered share of the gap, and the resamples that every interval is made from.

Rows of one scenario are not independent, and neither are scenarios that share a system prompt or an
entity: whole clusters are resampled (see `scenario_clusters`), never rows. Every quantity of one
comparison is resampled with the *same* draws, because the rows are paired (one scenario faces every
configuration with the same random numbers). A resample says how much a number would move with other
scenarios of the same kind; it says nothing about another model, judge or threat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from interp_steer.errors import InterpSteerError

N_RESAMPLES = 1000
"""Bootstrap samples behind every interval."""


IntervalKind = Literal[
    "cluster_bootstrap", "conditional_bootstrap", "selection_bootstrap", "wilson", "newcombe"
]


class StatisticsError(InterpSteerError):
    """Scores from which the statistic cannot be formed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A confidence interval, in the unit of what it is about; NaN where it is not defined."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""
    level: float = 0.95
    """Nominal coverage."""
    kind: IntervalKind
    """How it was made, and whether that includes a choice (see `intervals`)."""

    @property
    def is_finite(self) -> bool:
        """Whether it is defined: a bootstrap of a single cluster is not."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its interval."""

    value: float
    """The point estimate."""
    interval: Interval
    """Its interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one configuration, summed within scenarios."""

    sums: Float[np.ndarray, "scenario"]
    """Sum of the scores of each scenario."""
    counts: Float[np.ndarray, "scenario"]
    """Scored rows of each scenario."""

    @property
    def mean(self) -> float:
        """Mean over rows."""
        return float(self.sums.sum() / self.counts.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A statistic with its value in every bootstrap sample."""

    value: float
    """On the scenarios themselves."""
    draws: Float[np.ndarray, "resample"]
    """On each bootstrap sample of them; `Sampled` of one `Resamples` are paired draw by draw."""

    def minus(self, other: "Sampled") -> "Sampled":
        """The paired difference."""
        return Sampled(value=self.value - other.value, draws=self.draws - other.draws)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resamples:
    """How often each scenario is drawn in each bootstrap sample."""

    weights: Float[np.ndarray, "resample scenario"]
    """Draws of each scenario's cluster."""
    n_clusters: int
    """Clusters in all."""
    n_strata: int
    """Parts that are resampled each on its own (the two halves of a two-fold protocol)."""
    smallest_stratum: int
    """Clusters of the smallest part."""


def resample_weights(
    n_clusters: int, *, n_resamples: int = N_RESAMPLES, seed: int = 42
) -> Float[np.ndarray, "resample cluster"]:
    """How often each cluster is drawn in each of `n_resamples` bootstrap samples.

    The weights depend on the arguments alone: whoever uses the same ones is paired.

    Raises:
        StatisticsError: no cluster.
    """
    if n_clusters < 1:
        raise StatisticsError("a bootstrap needs at least one cluster, got none")
    generator = np.random.default_rng(seed)
    share = np.full(n_clusters, 1 / n_clusters)
    return generator.multinomial(n_clusters, share, size=n_resamples).astype(np.float64)


def draw_resamples(
    clusters: Sequence[str],
    *,
    strata: Sequence[int] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 42,
) -> Resamples:
    """Draw clusters with replacement, within each stratum as many as it has.

    The draws depend on the arguments alone: whoever uses the same ones is paired.

    Args:
        clusters: cluster of each scenario.
        strata: part of each scenario, from 0; one part by default. A cluster lies in one part.
        n_resamples: bootstrap samples.
        seed: seed of the draws.

    Raises:
        StatisticsError: no scenario, or a cluster that lies in two strata.
    """
    if not len(clusters):
        raise StatisticsError("a bootstrap needs at least one cluster, got none")
    part = np.zeros(len(clusters), dtype=np.int64) if strata is None else np.asarray(strata)
    names = np.asarray(clusters)
    weights = np.zeros((n_resamples, len(clusters)))
    sizes: list[int] = []
    for stratum in np.unique(part):
        _, where = np.unique(names[part == stratum], return_inverse=True)
        sizes.append(int(where.max()) + 1)
        drawn = resample_weights(sizes[-1], n_resamples=n_resamples, seed=seed + len(sizes) - 1)
        weights[:, part == stratum] = drawn[:, where]
    if sum(sizes) != len(set(clusters)):
        raise StatisticsError(
            f"{sum(sizes) - len(set(clusters))} clusters lie in two strata; a cluster must lie in "
            "one (see splits.halve_scenarios)"
        )
    return Resamples(
        weights=weights,
        n_clusters=sum(sizes),
        n_strata=len(sizes),
        smallest_stratum=min(sizes),
    )


def recovered(*, steered: float, malicious: float, aligned: float) -> float:
    """Share of the trait gap that steering closes.

    (steered - malicious) / (aligned - malicious), all three mean traits on the same scenarios
    (method.md, "Threat model"): 0 as bad as unsteered, 1 as good as aligned, NaN without a gap.

    Examples:
        >>> recovered(steered=80.0, malicious=20.0, aligned=100.0)
        0.75
    """
    gap = aligned - malicious
    return (steered - malicious) / gap if gap else math.nan


def sampled_mean(scores: Scores, resamples: Resamples, *, may_have_gaps: bool = False) -> Sampled:
    """Mean over rows, in every bootstrap sample; NaN in a sample without a score.

    Args:
        scores: of one configuration.
        resamples: of its scenarios.
        may_have_gaps: whether a scenario may have no score, because the judge gave none.

    Raises:
        StatisticsError: the resamples are of another number of scenarios, or one has no row.
    """
    weights = resamples.weights
    if weights.shape[1] != len(scores.sums):
        raise StatisticsError(
            f"bootstrap weights are for {weights.shape[1]} scenarios, scores for "
            f"{len(scores.sums)}; draw the resamples from the clusters of these scenarios"
        )
    if not may_have_gaps and (scores.counts == 0).any():
        raise StatisticsError(
            f"{int((scores.counts == 0).sum())} of {len(scores.counts)} scenarios have no row; "
            "run the sweep again, it resumes and adds what is missing"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (weights @ scores.sums) / (weights @ scores.counts)
    return Sampled(value=scores.mean, draws=draws)


def sampled_recovered(*, steered: Sampled, malicious: Sampled, aligned: Sampled) -> Sampled:
    """Recovered share with numerator and denominator resampled together; NaN without a gap."""
    gap = aligned.draws - malicious.draws
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (steered.draws - malicious.draws) / gap
    draws[~np.isfinite(draws)] = np.nan
    value = recovered(steered=steered.value, malicious=malicious.value, aligned=aligned.value)
    return Sampled(value=value, draws=draws)
