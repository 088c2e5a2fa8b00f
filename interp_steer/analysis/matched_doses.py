"""Methods compared at one dose: what each would score if all moved tokens by the same distance.

A method's coefficients trace a curve of mean score over mean target distance. Two methods are
compared where their curves overlap, by straight lines between the coefficients that were run; doses
and scores of one bootstrap sample come from the same clusters, so differences are paired. Between
two coefficients the line is an assumption, and nothing is extrapolated.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp_steer.analysis.bootstrap import ClusterBootstrap
from interp_steer.statistics import Estimate, Sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseCurve:
    """Score over dose of one method, at one layer and scope."""

    doses: tuple[Sampled, ...]
    """Mean target distance of each coefficient, activation units."""
    scores: tuple[Sampled, ...]
    """Mean score of each."""

    @property
    def low(self) -> float:
        """Smallest dose."""
        return min(dose.value for dose in self.doses)

    @property
    def high(self) -> float:
        """Largest dose."""
        return max(dose.value for dose in self.doses)

    def at(self, dose: float) -> Sampled:
        """Score at `dose`, by straight lines between coefficients."""
        known = [
            (d, s)
            for d, s in zip(self.doses, self.scores, strict=True)
            if math.isfinite(d.value + s.value)
        ]
        if not known:
            return Sampled(value=math.nan, draws=np.full(1, math.nan))
        doses, scores = (
            np.stack([np.append(one.value, one.draws) for one in side], axis=1)
            for side in zip(*known, strict=True)
        )
        found = _on_lines(dose, doses, scores)
        return Sampled(value=float(found[0]), draws=found[1:])


def _on_lines(
    dose: float, doses: Float[np.ndarray, "row alpha"], scores: Float[np.ndarray, "row alpha"]
) -> Float[np.ndarray, "row"]:
    """`np.interp` row by row: straight lines between doses, flat beyond the outer ones."""
    order = np.argsort(doses, axis=1)
    x, y = (np.take_along_axis(values, order, axis=1) for values in (doses, scores))
    above = (x <= dose).sum(axis=1, keepdims=True)
    low, high = (np.clip(above + step, 0, x.shape[1] - 1) for step in (-1, 0))
    x_low, x_high, y_low, y_high = (
        np.take_along_axis(values, place, axis=1)[:, 0]
        for values in (x, y)
        for place in (low, high)
    )
    width = x_high - x_low
    share = np.divide(dose - x_low, width, out=np.zeros_like(width), where=width > 0)
    return y_low + np.clip(share, 0.0, 1.0) * (y_high - y_low)


def dose_curve(rows: pd.DataFrame, boot: ClusterBootstrap, *, score: str) -> DoseCurve:
    """The curve of one method from its rows (columns alpha, target_distance and `score`).

    Args:
        rows: rows of the method; those of `boot`, in its order, with others' rows left NaN.
        boot: clusters of all rows of the comparison, so that curves are paired.
        score: column to average.
    """
    doses, scores = [], []
    for alpha in sorted(rows["alpha"].dropna().unique()):
        mine = (rows["alpha"] == alpha).to_numpy()
        doses.append(_mean(rows, "target_distance", mine, boot))
        scores.append(_mean(rows, score, mine, boot))
    return DoseCurve(doses=tuple(doses), scores=tuple(scores))


def _mean(rows: pd.DataFrame, name: str, mine: np.ndarray, boot: ClusterBootstrap) -> Sampled:
    values = rows[name].to_numpy(dtype=np.float64, na_value=math.nan)
    known = mine & np.isfinite(values)
    return boot.sampled_ratio(np.where(known, values, 0.0), known.astype(np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedPair:
    """Two methods at one dose."""

    method: str
    """The first."""
    other_method: str
    """The second."""
    dose: float
    """Mean target distance, activation units."""
    score: Estimate
    """Of the first."""
    other_score: Estimate
    """Of the second."""
    difference: Estimate
    """First minus second, paired."""


def matched_pairs(
    curves: Mapping[str, DoseCurve], boot: ClusterBootstrap, *, n_doses: int
) -> Iterator[MatchedPair]:
    """Compare every two methods at `n_doses` doses evenly spaced where their curves overlap."""
    for one, other in combinations(curves, 2):
        for dose in _overlap([curves[one], curves[other]], n_doses):
            first, second = curves[one].at(dose), curves[other].at(dose)
            yield MatchedPair(
                method=one,
                other_method=other,
                dose=dose,
                score=boot.estimate(first),
                other_score=boot.estimate(second),
                difference=boot.estimate(first.minus(second)),
            )


def _overlap(curves: Sequence[DoseCurve], n_doses: int) -> list[float]:
    low, high = max(c.low for c in curves), min(c.high for c in curves)
    if not low <= high:  # no common dose, or one that is not known
        return []
    return sorted(set(np.linspace(low, high, n_doses).tolist()))
