"""Intervals for any column of a table that is a mean or a ratio of means, cluster by cluster.

`scoreboard` and `reporting` measure trait and coherence of cells; analyses also need intervals of
nats, distances and shares, of ratios and of differences. Clusters are drawn, never rows, and
everything that one `ClusterBootstrap` measures is drawn together, hence paired. A single cluster
leaves nothing to resample: its interval is NaN, not of width zero. Intervals are of the rows as
they are, conditional on how their configurations were chosen.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp_steer.intervals import PERCENT, SHARE, bootstrap_interval, mean_estimate
from interp_steer.statistics import (
    N_RESAMPLES,
    Estimate,
    Resamples,
    Sampled,
    StatisticsError,
    draw_resamples,
)

Bounds = tuple[float, float]

BOUNDS: Mapping[str, Bounds] = {"trait": PERCENT, "coherence": PERCENT, "share": SHARE}
"""Range of the columns that have one: at its ends an interval is at least as wide as Wilson's."""


class ClusterBootstrap:
    """Rows with their clusters, and one set of bootstrap draws for whatever is measured on them."""

    def __init__(
        self, clusters: Sequence[str], *, n_resamples: int = N_RESAMPLES, seed: int = 42
    ) -> None:
        """Name the cluster of each row.

        Raises:
            StatisticsError: no rows.
        """
        if not len(clusters):
            raise StatisticsError("a bootstrap needs at least one row, got none")
        of_row, names = pd.factorize(np.asarray(clusters, dtype=object), sort=True)
        self.names: tuple[str, ...] = tuple(names.tolist())
        self.of_row = of_row
        self.resamples = _resamples(len(self.names), n_resamples, seed)

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.names)

    def summed(self, values: Float[np.ndarray, "row"]) -> Float[np.ndarray, "cluster"]:
        """Sum within each cluster."""
        return np.bincount(self.of_row, weights=values, minlength=self.n_clusters)

    def totals(self, values: Float[np.ndarray, "row"]) -> Float[np.ndarray, "resample"]:
        """Sum over the rows of each bootstrap sample."""
        return self.resamples.weights @ self.summed(values)

    def mean(self, values: Float[np.ndarray, "row"], *, bounds: Bounds | None = None) -> Estimate:
        """Mean over rows; rows that are NaN are left out (all of them: NaN).

        Args:
            values: one number a row.
            bounds: range of the numbers, where they have one.
        """
        known = np.isfinite(values)
        sampled = self.sampled_ratio(np.where(known, values, 0.0), known.astype(np.float64))
        return mean_estimate(sampled, self.resamples, bounds=bounds)

    def ratio(
        self, numerator: Float[np.ndarray, "row"], denominator: Float[np.ndarray, "row"]
    ) -> Estimate:
        """Ratio of the sums of two columns, resampled together; NaN where the lower sum is 0."""
        return self.estimate(self.sampled_ratio(numerator, denominator))

    def sampled_ratio(
        self, numerator: Float[np.ndarray, "row"], denominator: Float[np.ndarray, "row"]
    ) -> Sampled:
        """The ratio of sums, and its value in each bootstrap sample."""
        below = float(denominator.sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = self.totals(numerator) / self.totals(denominator)
        return Sampled(value=float(numerator.sum()) / below if below else math.nan, draws=draws)

    def estimate(self, sampled: Sampled) -> Estimate:
        """A value with the interval of its draws, those that are finite."""
        interval = bootstrap_interval(sampled.draws, self.resamples)
        return Estimate(value=sampled.value, interval=interval)


@lru_cache(maxsize=64)
def _resamples(n: int, n_resamples: int, seed: int) -> Resamples:
    resamples = draw_resamples([str(i) for i in range(n)], n_resamples=n_resamples, seed=seed)
    resamples.weights.flags.writeable = False  # shared by whoever has as many clusters
    return resamples


def as_columns(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as three columns: NAME, NAME_low, NAME_high."""
    interval = estimate.interval
    return {name: estimate.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def undefined(name: str) -> dict[str, float]:
    """The three columns of an estimate that does not exist: NaN."""
    return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)


def grouped_means(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """One row a group: `by`, each value's mean with its interval, n_rows and n_scenarios.

    Args:
        frame: one row an observation, with columns scenario and cluster; a value that is NaN is
            left out of its own mean.
        by: columns that name a group; null is a value like any other.
        values: columns to average; those named in `BOUNDS` have a range.
    """
    records = [key | mean_columns(group, values) for key, group in named_groups(frame, by)]
    ends = [f"{value}{end}" for value in values for end in ("", "_low", "_high")]
    return pd.DataFrame(records, columns=[*by, *ends, "n_rows", "n_scenarios"])


def named_groups(
    frame: pd.DataFrame, by: Sequence[str]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Each group of `frame.groupby(by)`, null keys too, with its key as a mapping."""
    for key, rows in frame.groupby(list(by), dropna=False, sort=True, observed=True):
        yield dict(zip(by, cast(tuple[Any, ...], key), strict=True)), rows


def mean_columns(rows: pd.DataFrame, values: Sequence[str]) -> dict[str, Any]:
    """Means of one group with their intervals, and how many rows and scenarios are behind them."""
    boot = ClusterBootstrap(rows["cluster"].tolist())
    record: dict[str, Any] = {}
    for name in values:
        column = rows[name].to_numpy(dtype=np.float64, na_value=math.nan)
        record |= as_columns(name, boot.mean(column, bounds=BOUNDS.get(name)))
    return record | {"n_rows": len(rows), "n_scenarios": rows["scenario"].nunique()}
