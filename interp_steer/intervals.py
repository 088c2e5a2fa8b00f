"""Confidence intervals: bootstrap percentiles that respect few clusters, and Wilson at a bound.

What an interval covers is in its kind. A *cluster* bootstrap is of a configuration nobody chose; a
*conditional* one is of a configuration as it was chosen, and leaves out the luck of choosing it; a
*selection* bootstrap chooses anew in every resample. At 0 or 100 % a bootstrap has no width, though
the next scenario may well differ: there the interval is at least as wide as Wilson's.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, stdtrit

from interp_steer.statistics import (
    Estimate,
    Interval,
    IntervalKind,
    Resamples,
    Sampled,
    StatisticsError,
    recovered,
)

PERCENT = (0.0, 100.0)
"""Range of trait and coherence."""
SHARE = (0.0, 1.0)
"""Range of a share."""


def wilson(share: float, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, both in 0-1.

    centre = (p + z^2 / 2n) / (1 + z^2 / n); half width = z sqrt(p (1 - p) / n + z^2 / 4n^2) /
    (1 + z^2 / n), z the normal quantile (Wilson 1927).

    Args:
        share: the observed proportion p, 0-1.
        n: independent trials (here: clusters, not rows).
        level: nominal coverage.

    Raises:
        StatisticsError: n < 1, or a share outside 0-1.

    Examples:
        >>> interval = wilson(1.0, 5)
        >>> round(interval.low, 2), interval.high
        (0.57, 1.0)
    """
    if n < 1 or not 0 <= share <= 1:
        raise StatisticsError(f"wilson needs n >= 1 and a share in 0-1, got n={n}, share={share}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if share == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if share == 1 else min(1.0, (centre + half) / scale)
    return Interval(low=low, high=high, level=level, kind="wilson")


def tail_mass(resamples: Resamples, level: float = 0.95) -> float:
    """Mass to cut off each end of the bootstrap draws: "expanded percentiles".

    Phi(-t sqrt(n / (n - 1))), t the Student quantile with clusters - strata degrees of freedom, n
    the clusters of the smallest stratum (Hesterberg 2015, "What teachers should know about the
    bootstrap", sec. 5.3). Plain percentiles (0.025) of few clusters are too narrow: the bootstrap
    divides by n where a sample's variance divides by n - 1. NaN for fewer than two clusters.
    """
    n = resamples.smallest_stratum
    if n < 2:
        return math.nan
    t = stdtrit(resamples.n_clusters - resamples.n_strata, 0.5 + level / 2)
    return float(ndtr(-t * math.sqrt(n / (n - 1))))


def bootstrap_interval(
    draws: Float[np.ndarray, "resample"],
    resamples: Resamples,
    *,
    kind: IntervalKind = "cluster_bootstrap",
    level: float = 0.95,
) -> Interval:
    """Expanded percentiles of the draws that are finite; NaN where there are none."""
    tail = tail_mass(resamples, level)
    finite = draws[np.isfinite(draws)]
    if not len(finite) or math.isnan(tail):
        return Interval(low=math.nan, high=math.nan, level=level, kind=kind)
    low, high = np.quantile(finite, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high), level=level, kind=kind)


def mean_estimate(
    sampled: Sampled,
    resamples: Resamples,
    *,
    kind: IntervalKind = "cluster_bootstrap",
    bounds: tuple[float, float] | None = PERCENT,
    level: float = 0.95,
) -> Estimate:
    """A mean with its bootstrap interval; at a bound never narrower than Wilson's.

    Args:
        sampled: the mean in every resample.
        resamples: what it was resampled with.
        kind: what the resamples include.
        bounds: range of the score; None for a quantity without a ceiling.
        level: nominal coverage.
    """
    interval = bootstrap_interval(sampled.draws, resamples, kind=kind, level=level)
    if bounds is not None and sampled.value in bounds:
        low, high = bounds
        share = (sampled.value - low) / (high - low)
        at_bound = wilson(share, resamples.n_clusters, level=level)
        ends = [low + end * (high - low) for end in (at_bound.low, at_bound.high)]
        interval = _hull(interval, ends, "wilson")
    return Estimate(value=sampled.value, interval=interval)


def recovered_estimate(
    share: Sampled,
    resamples: Resamples,
    *,
    steered: Estimate,
    malicious: float,
    aligned: float,
    kind: IntervalKind = "cluster_bootstrap",
) -> Estimate:
    """Recovered share with its interval; numerator and denominator were resampled together.

    Where the steered trait is 0 or 100 in every row, the bounds of its interval are carried through
    the formula with the baselines at their means, and the wider end of both intervals is kept.
    """
    level = steered.interval.level
    interval = bootstrap_interval(share.draws, resamples, kind=kind, level=level)
    if steered.interval.kind == "wilson" and math.isfinite(share.value):
        bounds = (steered.interval.low, steered.interval.high)
        ends = [recovered(steered=end, malicious=malicious, aligned=aligned) for end in bounds]
        interval = _hull(interval, ends, "wilson")
    return Estimate(value=share.value, interval=interval)


def difference_estimate(
    difference: Sampled,
    resamples: Resamples,
    *,
    of: tuple[Estimate, Estimate],
    kind: IntervalKind = "cluster_bootstrap",
) -> Estimate:
    """A paired difference a - b with its bootstrap interval.

    Where a or b stands at a bound, the interval is at least Newcombe's (1998, method 10):
    d - sqrt((a - low_a)^2 + (high_b - b)^2) to d + sqrt((high_a - a)^2 + (b - low_b)^2).

    Args:
        difference: a - b in every resample.
        resamples: what it was resampled with.
        of: a and b.
        kind: what the resamples include.
    """
    a, b = of
    interval = bootstrap_interval(difference.draws, resamples, kind=kind, level=a.interval.level)
    if "wilson" in (a.interval.kind, b.interval.kind):
        below = math.hypot(a.value - a.interval.low, b.interval.high - b.value)
        above = math.hypot(a.interval.high - a.value, b.value - b.interval.low)
        ends = [difference.value - below, difference.value + above]
        interval = _hull(interval, ends, "newcombe")
    return Estimate(value=difference.value, interval=interval)


def estimate_as_dict(estimate: Estimate) -> Mapping[str, object]:
    """Value and interval as plain JSON; a number that is not finite becomes null."""
    interval = estimate.interval
    return {
        "value": finite_or_none(estimate.value),
        "low": finite_or_none(interval.low),
        "high": finite_or_none(interval.high),
        "level": interval.level,
        "kind": interval.kind,
    }


def finite_or_none(value: float) -> float | None:
    """The number as JSON has it."""
    return value if math.isfinite(value) else None


def _hull(interval: Interval, ends: list[float], kind: IntervalKind) -> Interval:
    """From the lowest to the highest of all ends that are defined."""
    known = [end for end in (*ends, interval.low, interval.high) if math.isfinite(end)]
    if not known:
        return interval
    return Interval(low=min(known), high=max(known), level=interval.level, kind=kind)
