"""Recovered share of the gap, and intervals that respect what was sampled.

Rows of one scenario are not independent, so scenarios are resampled, not rows; every quantity of
one comparison is resampled with the *same* draws, because the rows are paired (one scenario faces
every configuration with the same random numbers). An interval here is conditional on the
configuration it describes: it says nothing about the luck of choosing it. At 0 or 100 % the
bootstrap has no width, and a Wilson interval takes its place.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Float

from interp_steer.errors import InterpSteerError

IntervalKind = Literal["cluster_bootstrap", "wilson"]


class StatisticsError(InterpSteerError):
    """Scores from which the statistic cannot be formed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A confidence interval, in the unit of what it is about."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""
    level: float = 0.95
    """Nominal coverage."""
    kind: IntervalKind
    """How it was made: scenarios resampled, or Wilson's formula at 0 or 100 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its interval."""

    value: float
    """The point estimate."""
    interval: Interval
    """Its interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterScores:
    """Scores summed within clusters; what a cluster bootstrap needs and nothing more."""

    sums: Float[np.ndarray, "cluster"]
    """Sum of the scores (0-100) of each cluster."""
    counts: Float[np.ndarray, "cluster"]
    """Rows of each cluster."""

    @property
    def mean(self) -> float:
        """Mean over rows."""
        return float(self.sums.sum() / self.counts.sum())


def cluster_scores(
    scores: Sequence[float], clusters: Sequence[str], *, order: Sequence[str]
) -> ClusterScores:
    """Sum `scores` within each cluster named in `order`.

    Args:
        scores: one score a row, 0-100.
        clusters: the cluster (scenario) of each row.
        order: the clusters, each once; fixes the order, so that several `ClusterScores` are paired.

    Raises:
        StatisticsError: a row of an unknown cluster, or a cluster without a row.
    """
    index = {cluster: i for i, cluster in enumerate(order)}
    unknown = sorted(set(clusters) - set(index))
    if unknown:
        raise StatisticsError(f"rows of clusters that are not in `order`: {unknown[:3]}")
    where = np.array([index[cluster] for cluster in clusters], dtype=np.int64)
    counts = np.bincount(where, minlength=len(order)).astype(np.float64)
    if (counts == 0).any():
        missing = [c for c, n in zip(order, counts, strict=True) if n == 0]
        raise StatisticsError(
            f"{len(missing)} of {len(order)} scenarios have no row, e.g. {missing[:3]}; "
            "run the sweep again, it resumes and adds what is missing"
        )
    sums = np.bincount(where, weights=np.asarray(scores, dtype=np.float64), minlength=len(order))
    return ClusterScores(sums=sums, counts=counts)


def recovered(*, steered: float, malicious: float, aligned: float) -> float:
    """Share of the trait gap that steering closes.

    (steered - malicious) / (aligned - malicious), all three mean traits on the same scenarios
    (method.md, "Threat model"): 0 as bad as unsteered, 1 as good as aligned, NaN without a gap.
    """
    gap = aligned - malicious
    return (steered - malicious) / gap if gap else math.nan


def resample_weights(
    n_clusters: int, *, n_resamples: int = 1000, seed: int = 42
) -> Float[np.ndarray, "resample cluster"]:
    """How often each cluster is drawn in each of `n_resamples` bootstrap samples.

    The weights depend on the arguments alone: whoever uses the same ones is paired.
    """
    if n_clusters < 1:
        raise StatisticsError("a bootstrap needs at least one cluster, got none")
    generator = np.random.default_rng(seed)
    share = np.full(n_clusters, 1 / n_clusters)
    return generator.multinomial(n_clusters, share, size=n_resamples).astype(np.float64)


def wilson(share: float, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, both in 0-1.

    centre = (p + z^2 / 2n) / (1 + z^2 / n); half width = z sqrt(p (1 - p) / n + z^2 / 4n^2) /
    (1 + z^2 / n), z the normal quantile (Wilson 1927).

    Args:
        share: the observed proportion p, 0-1.
        n: independent trials (here: clusters, not rows).
        level: nominal coverage.
    """
    if n < 1 or not 0 <= share <= 1:
        raise StatisticsError(f"wilson needs n >= 1 and a share in 0-1, got n={n}, share={share}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    return Interval(low=low, high=high, level=level, kind="wilson")


def mean_estimate(
    scores: ClusterScores, weights: Float[np.ndarray, "resample cluster"], *, level: float = 0.95
) -> Estimate:
    """Mean score (0-100) with its cluster-bootstrap interval, Wilson at 0 or 100."""
    at_bound = _wilson_at_bound(scores, level)
    if at_bound is not None:
        return Estimate(value=scores.mean, interval=at_bound)
    return Estimate(value=scores.mean, interval=_percentiles(_means(scores, weights), level))


def recovered_estimate(
    *,
    steered: ClusterScores,
    malicious: ClusterScores,
    aligned: ClusterScores,
    weights: Float[np.ndarray, "resample cluster"],
    level: float = 0.95,
) -> Estimate:
    """Recovered share with its interval; numerator and denominator are resampled together.

    Where the steered trait is 0 or 100 in every row, its Wilson bounds are carried through the
    formula with the baselines at their means, and the wider end of both intervals is kept.
    """
    mal, ali = malicious.mean, aligned.mean
    value = recovered(steered=steered.mean, malicious=mal, aligned=ali)
    floor = _means(malicious, weights)
    gap = _means(aligned, weights) - floor
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (_means(steered, weights) - floor) / gap
    boot = _percentiles(draws[np.isfinite(draws)], level)
    at_bound = _wilson_at_bound(steered, level)
    if at_bound is None or ali == mal:
        return Estimate(value=value, interval=boot)
    ends = [recovered(steered=s, malicious=mal, aligned=ali) for s in (at_bound.low, at_bound.high)]
    low, high = np.nanmin([*ends, boot.low]), np.nanmax([*ends, boot.high])
    interval = Interval(low=float(low), high=float(high), level=level, kind="wilson")
    return Estimate(value=value, interval=interval)


def estimate_as_dict(estimate: Estimate) -> Mapping[str, object]:
    """Value and interval as plain JSON; a value that is not finite becomes null."""
    interval = estimate.interval
    return {
        "value": _finite(estimate.value),
        "low": _finite(interval.low),
        "high": _finite(interval.high),
        "level": interval.level,
        "kind": interval.kind,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _means(
    scores: ClusterScores, weights: Float[np.ndarray, "resample cluster"]
) -> Float[np.ndarray, "resample"]:
    if weights.shape[1] != len(scores.sums):
        raise StatisticsError(
            f"bootstrap weights are for {weights.shape[1]} clusters, scores for "
            f"{len(scores.sums)}; make the weights with resample_weights(n_clusters)"
        )
    return (weights @ scores.sums) / (weights @ scores.counts)


def _percentiles(draws: Float[np.ndarray, "resample"], level: float) -> Interval:
    if not len(draws):
        return Interval(low=math.nan, high=math.nan, level=level, kind="cluster_bootstrap")
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(low=float(low), high=float(high), level=level, kind="cluster_bootstrap")


def _wilson_at_bound(scores: ClusterScores, level: float) -> Interval | None:
    """Wilson's interval in 0-100 where every row is 0 or every row is 100, else None."""
    if scores.mean not in (0.0, 100.0):
        return None
    bounds = wilson(scores.mean / 100, len(scores.sums), level=level)
    return Interval(low=100 * bounds.low, high=100 * bounds.high, level=level, kind="wilson")
