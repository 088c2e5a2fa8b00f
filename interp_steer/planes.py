"""Separating planes: the methods that turn labelled rows into a unit normal and a boundary.

    logistic                  the optimum of L2 logistic regression, to machine precision
    logistic_sklearn_default  scikit-learn's LogisticRegression(C=c), which stops where it stops
    mean_difference           normal along mu+ - mu- ("CAA"); the boundary is midway between the
                              projected class means, for want of one that the method defines

All methods answer in the same form, so that statistics, cross-fitting and gate are shared. That a
plane separates the rows it was fitted to means little (see `readability`).
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from interp_steer.logistic import Span, solve_logistic

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
    """Fit one plane; both sides must occur in `is_aligned`."""
    difference = mean_difference(rows, is_aligned)
    if not difference.any():  # w = 0 is the optimum exactly if the means coincide
        return Plane(normal=difference, offset=0.0, converged=True)
    if method == "mean_difference":
        normal = difference / np.linalg.norm(difference)
        middle = (rows[is_aligned].mean(axis=0) + rows[~is_aligned].mean(axis=0)) / 2
        return Plane(normal=normal, offset=float(middle @ normal), converged=True)
    if method == "logistic":
        optimum = solve_logistic(rows, is_aligned, c=c)
        return _plane(optimum.weights, optimum.intercept, optimum.converged)
    return _sklearn_default(rows, is_aligned, c)


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
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=c).fit(rows, is_aligned)
    stopped_early = any(issubclass(entry.category, ConvergenceWarning) for entry in caught)
    return _plane(model.coef_[0], float(model.intercept_[0]), not stopped_early)


def _plane(weights: Float[np.ndarray, "rank"], intercept: float, converged: bool) -> Plane:
    length = float(np.linalg.norm(weights))
    return Plane(normal=weights / length, offset=-intercept / length, converged=converged)
