"""Separating planes: the methods that turn labelled rows into a unit normal and a boundary.

    logistic                  the optimum of L2 logistic regression, to machine precision
    logistic_sklearn_default  scikit-learn's LogisticRegression(C=c), which stops where it stops
    mean_difference           normal along mu+ - mu- ("CAA"); the boundary is midway between the
                              projected class means, for want of one that the method defines

All methods answer in the same form, so that statistics, cross-fitting and gate are shared. That a
plane separates the rows it was fitted to means little (see `readability`).
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from interp_steer.errors import ProbeError
from interp_steer.logistic import Span
from interp_steer.logistic_batch import solve_resamples
from interp_steer.resamples import Resamples

FitMethod = Literal["logistic", "logistic_sklearn_default", "mean_difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """The points x with normal . x = offset; aligned is where normal . x is larger."""

    normal: Float[np.ndarray, "rank"]
    """Unit normal; zero where the classes have the same mean and no direction exists."""
    offset: float
    """Place of the plane along the normal, activation units."""
    converged: bool
    """False where an iterative solver says that it stopped before its optimum."""

    def margins(self, rows: Float[np.ndarray, "row rank"]) -> Float[np.ndarray, "row"]:
        """Signed distances normal . x - offset."""
        return rows @ self.normal - self.offset


def span_for(rows: Float[np.ndarray, "row d_model"], method: FitMethod) -> Span:
    """Return the coordinates in which `method` is to be fitted.

    The exact methods are indifferent to translation and rotation and get few, centred dimensions;
    scikit-learn's solver is not, and gets the rows as they are.
    """
    return Span.raw(rows) if method == "logistic_sklearn_default" else Span.of(rows)


def fit_plane(
    rows: Float[np.ndarray, "row rank"],
    is_aligned: Bool[np.ndarray, "row"],
    *,
    method: FitMethod,
    c: float,
) -> Plane:
    """Fit one plane to all rows, which are those of `span_for`; both sides must occur."""
    every = np.ones((1, len(rows)), dtype=bool)
    return fit_planes(rows, Resamples.subsets(every, is_aligned), method=method, c=c)[0]


def fit_planes(
    rows: Float[np.ndarray, "row rank"], resamples: Resamples, *, method: FitMethod, c: float
) -> list[Plane]:
    """Fit one plane to each of many samples of the same rows, which are those of `span_for`.

    A span of all rows serves every sample. `logistic` solves all samples together; scikit-learn's
    takes them one by one.

    Raises:
        ProbeError: a sample without rows of one of the sides, or a fit without a direction.
    """
    resamples.check_sides()
    if method == "logistic_sklearn_default":
        samples = [(resamples.drawn(i), resamples.labels(i)) for i in range(len(resamples))]
        return [_sklearn_default(rows[drawn], labels, c) for drawn, labels in samples]
    differences = _mean_differences(rows, resamples)
    is_apart = np.abs(differences).max(axis=1) > 0
    some, apart = resamples.only(is_apart), differences[is_apart]
    is_midway = method == "mean_difference"
    found = _midway(rows, some, apart) if is_midway else _optimal(rows, some, c)
    # Where both means are the same, and only there, w = 0 is the optimum, exactly.
    return [
        next(found) if is_there else Plane(normal=nothing, offset=0.0, converged=True)
        for is_there, nothing in zip(is_apart.tolist(), differences, strict=True)
    ]


def _optimal(
    rows: Float[np.ndarray, "row rank"], resamples: Resamples, c: float
) -> Iterator[Plane]:
    found = solve_resamples(rows, resamples, c=c)
    return map(_plane, found.weights, found.intercepts.tolist(), found.converged.tolist())


def _midway(
    rows: Float[np.ndarray, "row rank"],
    resamples: Resamples,
    differences: Float[np.ndarray, "sample rank"],
) -> Iterator[Plane]:
    shares = _shares(resamples, aligned=True) + _shares(resamples, aligned=False)
    for difference, middle in zip(differences, shares @ rows / 2, strict=True):
        normal = difference / np.linalg.norm(difference)
        yield Plane(normal=normal, offset=float(middle @ normal), converged=True)


def _mean_differences(
    rows: Float[np.ndarray, "row rank"], resamples: Resamples
) -> Float[np.ndarray, "sample rank"]:
    """`mean_difference` of every sample."""
    shares = _shares(resamples, aligned=True) - _shares(resamples, aligned=False)
    found = shares @ rows
    largest = np.where(resamples.counts > 0, np.abs(rows).max(axis=1), 0.0).max(axis=1)
    may_be_rounding = np.abs(found).max(axis=1) <= 1e-10 * largest
    for sample in np.flatnonzero(may_be_rounding).tolist():
        found[sample] = mean_difference(rows[resamples.drawn(sample)], resamples.labels(sample))
    return found


def _shares(resamples: Resamples, *, aligned: bool) -> Float[np.ndarray, "sample row"]:
    """The weight of each row in the mean of one side of each sample."""
    counts = np.where(resamples.is_aligned == aligned, resamples.counts, 0)
    return counts / counts.sum(axis=1, keepdims=True)


def mean_difference(
    rows: Float[np.ndarray, "row rank"], is_aligned: Bool[np.ndarray, "row"]
) -> Float[np.ndarray, "rank"]:
    """mean+ - mean-, exactly zero where it is no more than rounding."""
    # About the common mean, so that a large offset of all rows does not cost precision.
    centred = rows - rows.mean(axis=0)
    difference = centred[is_aligned].mean(axis=0) - centred[~is_aligned].mean(axis=0)
    rounding = 1e-13 * float(np.abs(rows).max(initial=0.0))
    return np.where(np.abs(difference).max() <= rounding, 0.0, difference)


def _sklearn_default(
    rows: Float[np.ndarray, "row d_model"], is_aligned: Bool[np.ndarray, "row"], c: float
) -> Plane:
    difference = mean_difference(rows, is_aligned)
    if not difference.any():
        return Plane(normal=difference, offset=0.0, converged=True)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=c).fit(rows, is_aligned)
    stopped_early = any(issubclass(entry.category, ConvergenceWarning) for entry in caught)
    return _plane(model.coef_[0], float(model.intercept_[0]), not stopped_early)


def _plane(weights: Float[np.ndarray, "rank"], intercept: float, converged: bool) -> Plane:
    length = float(np.linalg.norm(weights))
    if not 0 < length < math.inf:
        raise ProbeError(
            f"a fit ended at weights of norm {length:g}, which are no direction: activations or c "
            "are too small or too large for its solver; use method 'logistic', another c, or "
            "activations in other units"
        )
    return Plane(normal=weights / length, offset=-intercept / length, converged=converged)
