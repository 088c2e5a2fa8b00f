"""How sure a layer's readability is: intervals over clusters, and what no trait at all would give.

The cross-fitted margins of a layer are resampled by cluster without fitting again, so an interval
is that of these directions on other scenarios. The null fits again: labels are swapped in exactly
half of the scenarios, which balances the trait and keeps everything else, and the same folds score
the same figures. A layer that beats its null is readable there, not steerable.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from interp_steer.analysis.bootstrap import ClusterBootstrap
from interp_steer.intervals import SHARE
from interp_steer.planes import FitMethod, fit_planes, mean_difference, span_for
from interp_steer.readability import (
    Folds,
    Readability,
    crossfit_margins,
    crossfit_samples,
    readability,
)
from interp_steer.resamples import Resamples, joined
from interp_steer.statistics import Estimate, Sampled

MEASURES = ("accuracy", "auroc", "cohens_d")
"""Figures of `Readability` with an interval."""


def layer_margins(
    rows: Float[np.ndarray, "response d_model"],
    is_aligned: Bool[np.ndarray, "response"],
    folds: Folds,
    *,
    method: FitMethod,
    c: float,
) -> Float[np.ndarray, "response"]:
    """Cross-fitted margins of one layer, as `fit_probes` makes them."""
    return _margins_by_labels(rows, is_aligned[None], folds, method=method, c=c)[0]


def _margins_by_labels(
    rows: Float[np.ndarray, "response d_model"],
    labels: Bool[np.ndarray, "draw response"],
    folds: Folds,
    *,
    method: FitMethod,
    c: float,
) -> Float[np.ndarray, "draw response"]:
    """Cross-fitted margins for each of many sets of labels, all fits in one batch."""
    span = span_for(rows, method)
    samples = joined([crossfit_samples(folds, one) for one in labels])
    planes = fit_planes(span.coordinates, samples, method=method, c=c)
    margins = np.stack([plane.margins(span.coordinates) for plane in planes])
    by_draw = margins.reshape(len(labels), folds.n_folds, len(rows))
    return np.stack([crossfit_margins(folds, of_folds) for of_folds in by_draw])


def readability_estimates(
    margins: Float[np.ndarray, "response"],
    is_aligned: Bool[np.ndarray, "response"],
    boot: ClusterBootstrap,
) -> dict[str, Estimate]:
    """Each figure of `readability` with its cluster-bootstrap interval."""
    said = readability(margins, is_aligned)
    right = ((margins >= 0) == is_aligned).astype(np.float64)
    return {
        "accuracy": boot.mean(right, bounds=SHARE),
        "auroc": boot.estimate(
            Sampled(value=said.auroc, draws=_auroc_draws(margins, is_aligned, boot))
        ),
        "cohens_d": boot.estimate(
            Sampled(value=said.cohens_d, draws=_effect_draws(margins, is_aligned, boot))
        ),
    }


def _auroc_draws(
    margins: Float[np.ndarray, "response"],
    is_aligned: Bool[np.ndarray, "response"],
    boot: ClusterBootstrap,
) -> Float[np.ndarray, "resample"]:
    above, below = margins[is_aligned], margins[~is_aligned]
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    one, other = boot.of_row[is_aligned], boot.of_row[~is_aligned]
    by_cluster = np.zeros((boot.n_clusters, boot.n_clusters))
    np.add.at(by_cluster, (one[:, None], other[None]), wins)
    weights = boot.resamples.weights
    pairs = boot.totals(is_aligned.astype(float)) * boot.totals((~is_aligned).astype(float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((weights @ by_cluster) * weights).sum(axis=1) / pairs


def _effect_draws(
    margins: Float[np.ndarray, "response"],
    is_aligned: Bool[np.ndarray, "response"],
    boot: ClusterBootstrap,
) -> Float[np.ndarray, "resample"]:
    means, squares, counts = [], [], []
    # About the common mean: squares of a large offset would cost precision.
    centred = margins - margins.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        for side in (is_aligned, ~is_aligned):
            n, total = boot.totals(side.astype(float)), boot.totals(np.where(side, centred, 0.0))
            means.append(total / n)
            squares.append(boot.totals(np.where(side, centred**2, 0.0)) - total**2 / n)
            counts.append(n)
        within = squares[0] + squares[1]
        # Rounding is all the spread there is where a draw repeats one cluster: NaN, as it is in
        # `readability`, and left out of the interval.
        within = np.where(within > 1e-12 * boot.totals(centred**2), within, np.nan)
        spread = np.sqrt(within / (counts[0] + counts[1]))
        return (means[0] - means[1]) / spread


def swapped_labels(
    is_aligned: Bool[np.ndarray, "response"], scenarios: Sequence[str], *, draw: int, seed: int
) -> Bool[np.ndarray, "response"]:
    """Labels with both sides swapped in half of the scenarios (rounded down).

    The scenarios are those of `shuffled_label_direction` with the same draw and seed.
    """
    names = sorted(set(scenarios))
    order = np.random.default_rng([seed, draw]).permutation(len(names))
    swapped = {names[place] for place in order[: len(names) // 2]}
    return is_aligned ^ np.array([scenario in swapped for scenario in scenarios])


def null_readability(
    rows: Float[np.ndarray, "response d_model"],
    is_aligned: Bool[np.ndarray, "response"],
    scenarios: Sequence[str],
    folds: Folds,
    *,
    method: FitMethod,
    c: float,
    n_draws: int,
    seed: int,
) -> list[Readability]:
    """Cross-fitted readability of labels that know nothing of the trait, once a draw."""
    if not n_draws:
        return []
    labels = np.stack(
        [swapped_labels(is_aligned, scenarios, draw=draw, seed=seed) for draw in range(n_draws)]
    )
    margins = _margins_by_labels(rows, labels, folds, method=method, c=c)
    return [readability(one, these) for one, these in zip(margins, labels, strict=True)]


def cosine_error(
    rows: Float[np.ndarray, "response d_model"],
    is_aligned: Bool[np.ndarray, "response"],
    boot: ClusterBootstrap,
    *,
    method: FitMethod,
    c: float,
    n_groups: int,
) -> float:
    """Standard error of the cosine of the fitted direction and the mean difference.

    Delete-a-group jackknife, sqrt((g - 1) / g * sum (theta_i - mean)^2), the direction fitted anew
    without each group of clusters. (Not a bootstrap: rows drawn twice leave fewer different ones,
    which pulls every direction towards the mean difference.) NaN with fewer than two groups.
    """
    n_groups = min(n_groups, boot.n_clusters)
    group = np.random.default_rng(0).permutation(boot.n_clusters)[boot.of_row] % max(n_groups, 1)
    without = group != np.arange(n_groups)[:, None]
    samples = Resamples.subsets(without, is_aligned)
    samples = samples.only(~samples.one_sided())
    if len(samples) < 2:
        return math.nan
    span = span_for(rows, method)
    planes = fit_planes(span.coordinates, samples, method=method, c=c)
    normals = span.lift(np.stack([plane.normal for plane in planes]))
    drawn = [(samples.drawn(i), samples.labels(i)) for i in range(len(samples))]
    differences = [mean_difference(rows[these], labels) for these, labels in drawn]
    found = np.array([_cosine(*pair) for pair in zip(normals, differences, strict=True)])
    return math.sqrt((len(samples) - 1) * float(found.var()))


def _cosine(one: Float[np.ndarray, "d_model"], other: Float[np.ndarray, "d_model"]) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else math.nan
