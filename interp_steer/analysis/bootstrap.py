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
from jaxtyping import Float, Int

from interp_steer.analysis.frames import numbers
from interp_steer.intervals import (
    PERCENT,
    SHARE,
    bootstrap_interval,
    mean_estimate,
    tail_mass,
    wilson,
)
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

_MOST_GROUPS = 2048
"""Groups whose draws are in memory at once (16 MB)."""


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

    The numbers are those of `mean_columns` for each group alone; a sweep has thousands of groups,
    so all of them are resampled at once.

    Args:
        frame: one row an observation, with columns scenario and cluster; a value that is NaN is
            left out of its own mean.
        by: columns that name a group; null is a value like any other.
        values: columns to average; those named in `BOUNDS` have a range.

    Raises:
        StatisticsError: a row without a cluster.
    """
    ends = [f"{value}{end}" for value in values for end in ("", "_low", "_high")]
    if frame.empty:
        return pd.DataFrame([], columns=[*by, *ends, "n_rows", "n_scenarios"])
    if n_outside := sum(frame["cluster"].isna()):
        raise StatisticsError(f"{n_outside} rows are in no cluster; name the cluster of every row")
    groups = frame.groupby(list(by), dropna=False, sort=True, observed=True)
    sizes = groups.size()
    clusters = frame["cluster"].tolist()
    boot = GroupedBootstrap(groups.ngroup().to_numpy(), clusters, n_groups=len(sizes))
    index = sizes.index
    table = pd.DataFrame({n: index.get_level_values(i).tolist() for i, n in enumerate(by)})
    for name in values:
        table[[name, f"{name}_low", f"{name}_high"]] = boot.means(
            numbers(frame, name), bounds=BOUNDS.get(name)
        )
    n_scenarios = groups["scenario"].nunique().to_numpy()
    return table.assign(n_rows=sizes.to_numpy(), n_scenarios=n_scenarios)


class GroupedBootstrap:
    """Groups of rows, each with the draws that `ClusterBootstrap` would give it alone."""

    def __init__(
        self, of_row: Int[np.ndarray, "row"], clusters: Sequence[str], *, n_groups: int
    ) -> None:
        """Name the group (from 0) and the cluster of each row."""
        codes, names = pd.factorize(np.asarray(clusters, dtype=object), sort=True)
        is_there = np.zeros((n_groups, len(names)), dtype=bool)
        is_there[of_row, codes] = True
        self._of_row, self._n_clusters = of_row, is_there.sum(axis=1)
        # A group's clusters are numbered among themselves, in the order of their names.
        place = is_there.cumsum(axis=1)[of_row, codes] - 1
        self._shape = (n_groups, int(self._n_clusters.max()))
        self._slot = of_row * self._shape[1] + place

    def means(
        self, values: Float[np.ndarray, "row"], *, bounds: Bounds | None = None
    ) -> Float[np.ndarray, "group 3"]:
        """Mean of each group's rows and both ends of its interval; see `ClusterBootstrap.mean`."""
        known = np.isfinite(values)
        sums = self._summed(np.where(known, values, 0.0))
        counts = self._summed(known.astype(np.float64))
        n = counts.sum(axis=1)
        found = np.full((len(n), 3), math.nan)
        found[:, 0] = np.divide(sums.sum(axis=1), n, out=found[:, 0].copy(), where=n > 0)
        for size in np.unique(self._n_clusters):
            resamples = _resamples(int(size), N_RESAMPLES, 42)
            every = np.flatnonzero(self._n_clusters == size)
            for some in np.split(every, range(_MOST_GROUPS, len(every), _MOST_GROUPS)):
                weights = resamples.weights.T
                with np.errstate(divide="ignore", invalid="ignore"):
                    draws = (sums[some, :size] @ weights) / (counts[some, :size] @ weights)
                found[some, 1:] = _ends(draws, resamples)
            if bounds is not None:
                _widen_at(bounds, found, every, n_clusters=int(size))
        return found

    def _summed(self, values: Float[np.ndarray, "row"]) -> Float[np.ndarray, "group cluster"]:
        """Sum within each cluster of each group."""
        n = self._shape[0] * self._shape[1]
        return np.bincount(self._slot, weights=values, minlength=n).reshape(self._shape)


def _ends(
    draws: Float[np.ndarray, "group resample"], resamples: Resamples
) -> Float[np.ndarray, "group 2"]:
    """Both ends of `bootstrap_interval` of every group."""
    ends = np.full((len(draws), 2), math.nan)
    is_whole, tail = np.isfinite(draws).all(axis=1), tail_mass(resamples)
    if not math.isnan(tail):
        ends[is_whole] = np.quantile(draws[is_whole], [tail, 1 - tail], axis=1).T
    for group in np.flatnonzero(~is_whole):
        interval = bootstrap_interval(draws[group], resamples)
        ends[group] = interval.low, interval.high
    return ends


def _widen_at(
    bounds: Bounds,
    found: Float[np.ndarray, "group 3"],
    groups: Int[np.ndarray, "chosen"],
    *,
    n_clusters: int,
) -> None:
    """Make intervals of means at a bound at least as wide as Wilson's, as `mean_estimate` does."""
    low, high = bounds
    for bound in bounds:
        hit = groups[found[groups, 0] == bound]
        at_bound = wilson((bound - low) / (high - low), n_clusters)
        found[hit, 1] = np.fmin(found[hit, 1], low + at_bound.low * (high - low))
        found[hit, 2] = np.fmax(found[hit, 2], low + at_bound.high * (high - low))


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
