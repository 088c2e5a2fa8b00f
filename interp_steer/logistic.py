"""The exact optimum of L2-regularised logistic regression, in raw coordinates.

    minimise  c * sum_i log(1 + exp(-s_i (x_i . w + b))) + |w|^2 / 2,   s_i = +1 or -1

The optimum is unique. Residual streams are far from centred and have more dimensions than there
are responses, where general solvers stop early (scikit-learn's lbfgs at its default tolerance: a
few degrees off in w and far off in b). Three exact steps avoid that. Centring: it changes b alone,
since b is not penalised. Reduction: w is a combination of the centred rows, so a QR basis of their
span loses nothing and leaves as many dimensions as there are rows. Newton with the intercept
eliminated: the remaining matrix is at least the identity, so nothing is ill-conditioned.
Many fits of the same rows are solved together in `logistic_batch`.
An exact optimum is exactly the answer to this question, not evidence that the classes differ: with
fewer rows than dimensions any labels are separated.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_factor, cho_solve, qr
from scipy.special import expit

TOLERANCE = 1e-10
"""Largest relative gradient that counts as converged; the solver reaches about 1e-15."""

_MAX_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Rows in coordinates of their own span: x = origin + basis @ coordinates."""

    origin: Float[np.ndarray, "d_model"]
    """The mean of the rows (any point would do: it cancels exactly)."""
    basis: Float[np.ndarray, "d_model rank"] | None
    """Orthonormal columns; None where the coordinates are already those of the model."""
    coordinates: Float[np.ndarray, "row rank"]
    """The rows, in that basis."""

    @classmethod
    def of(cls, rows: Float[np.ndarray, "row d_model"]) -> "Span":
        """Centre `rows` and, where they are fewer than dimensions, rotate into their span."""
        origin = rows.mean(axis=0)
        centred = rows - origin
        if rows.shape[0] >= rows.shape[1]:
            return cls(origin=origin, basis=None, coordinates=centred)
        # scipy's rather than numpy's, which copies and transposes: half the time.
        pair: Any = qr(centred.T, overwrite_a=True, mode="economic", check_finite=False)
        basis, triangle = pair
        return cls(origin=origin, basis=basis, coordinates=np.ascontiguousarray(triangle.T))

    @classmethod
    def raw(cls, rows: Float[np.ndarray, "row d_model"]) -> "Span":
        """Leave `rows` as they are (for solvers that are not indifferent to the origin)."""
        return cls(origin=np.zeros(rows.shape[1]), basis=None, coordinates=rows)

    def lift(self, vectors: Float[np.ndarray, "*some rank"]) -> Float[np.ndarray, "*some d_model"]:
        """Return one vector, or many, in the coordinates of the model."""
        return vectors if self.basis is None else vectors @ self.basis.T


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """Weights and intercept of a logistic regression."""

    weights: Float[np.ndarray, "d_model"]
    """w, log-odds per activation unit."""
    intercept: float
    """b, log-odds at the origin of the coordinates that the rows were given in."""
    relative_gradient: float
    """Norm of the objective's gradient over the size of the terms that cancel in it."""
    converged: bool
    """Whether `relative_gradient` is at most `TOLERANCE`."""


def fit_logistic(
    rows: Float[np.ndarray, "row d_model"], is_aligned: Bool[np.ndarray, "row"], *, c: float = 1.0
) -> Optimum:
    """Return the optimum for `rows` in raw coordinates (centre, reduce, solve, map back).

    Args:
        rows: float64.
        is_aligned: label of each row; both labels must occur.
        c: scikit-learn's C, the weight of the summed log-loss.
    """
    span = Span.of(rows)
    reduced = solve_logistic(span.coordinates, is_aligned, c=c)
    weights = span.lift(reduced.weights)
    return Optimum(
        weights=weights,
        intercept=reduced.intercept - float(weights @ span.origin),
        relative_gradient=reduced.relative_gradient,
        converged=reduced.converged,
    )


def solve_logistic(
    rows: Float[np.ndarray, "row rank"], is_aligned: Bool[np.ndarray, "row"], *, c: float = 1.0
) -> Optimum:
    """Damped Newton in the coordinates given, which should be centred and of few dimensions."""
    problem = _Problem(rows=rows, signs=np.where(is_aligned, 1.0, -1.0), c=c)
    n_aligned = int(is_aligned.sum())
    weights = np.zeros(rows.shape[1])
    intercept = float(np.log(n_aligned / (len(rows) - n_aligned)))
    previous = np.inf
    for _ in range(_MAX_STEPS):
        state = problem.at(weights, intercept)
        # Below the tolerance steps are full Newton steps: go on while they still gain precision.
        if state.relative_gradient <= TOLERANCE and state.relative_gradient >= previous / 2:
            break
        previous = state.relative_gradient
        weights, intercept = problem.step(state)
    state = problem.at(weights, intercept)
    return Optimum(
        weights=weights,
        intercept=intercept,
        relative_gradient=state.relative_gradient,
        converged=state.relative_gradient <= TOLERANCE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    weights: Float[np.ndarray, "rank"]
    intercept: float
    objective: float
    residuals: Float[np.ndarray, "row"]  # c s_i expit(-s_i f_i): what each row pulls with
    curvature: Float[np.ndarray, "row"]  # c p_i (1 - p_i)
    gradient: Float[np.ndarray, "rank"]
    relative_gradient: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    rows: Float[np.ndarray, "row rank"]
    signs: Float[np.ndarray, "row"]
    c: float

    def objective(self, weights: Float[np.ndarray, "rank"], intercept: float) -> float:
        margins = self.signs * (self.rows @ weights + intercept)
        return self.c * float(np.logaddexp(0.0, -margins).sum()) + float(weights @ weights) / 2

    def at(self, weights: Float[np.ndarray, "rank"], intercept: float) -> _State:
        margins = self.signs * (self.rows @ weights + intercept)
        wrong = expit(-margins)  # accurate however small, unlike 1 - expit(margins)
        residuals = self.c * self.signs * wrong
        gradient = weights - self.rows.T @ residuals
        pull = np.abs(residuals)
        lengths = np.sqrt(np.einsum("ij,ij->i", self.rows, self.rows))
        scale = float(pull @ lengths) + float(np.linalg.norm(weights))
        error = float(np.linalg.norm(gradient)) / scale if scale else 0.0
        return _State(
            weights=weights,
            intercept=intercept,
            objective=self.objective(weights, intercept),
            residuals=residuals,
            curvature=self.c * wrong * expit(margins),
            gradient=gradient,
            relative_gradient=max(error, abs(float(residuals.sum())) / float(pull.sum())),
        )

    def step(self, state: _State) -> tuple[Float[np.ndarray, "rank"], float]:
        """One Newton step with b eliminated, halved until the objective decreases (Armijo)."""
        total = float(state.curvature.sum())
        middle = state.curvature @ self.rows / total
        from_middle = self.rows - middle
        pull = -float(state.residuals.sum())
        weighted = from_middle * np.sqrt(state.curvature)[:, None]
        matrix = weighted.T @ weighted
        matrix[np.diag_indices_from(matrix)] += 1.0
        d_weights = -cho_solve(_factor(matrix), state.gradient - pull * middle)
        d_intercept = -pull / total - float(middle @ d_weights)
        slope = float(state.gradient @ d_weights) + pull * d_intercept
        size = 1.0
        # The objective is rounded: without the slack, steps near the optimum that are right to the
        # last digit would be refused for an increase that is nothing but rounding.
        ceiling = state.objective * (1 + 16 * np.finfo(np.float64).eps)
        while size > 1e-10 and (
            self.objective(state.weights + size * d_weights, state.intercept + size * d_intercept)
            > ceiling + 1e-4 * size * slope
        ):
            size /= 2
        return state.weights + size * d_weights, state.intercept + size * d_intercept


def _factor(matrix: Float[np.ndarray, "n n"]) -> tuple[Float[np.ndarray, "n n"], bool]:
    """Factor the matrix of a step as `cho_factor` does, rounded as it may be.

    Where rows are so large that the identity in it is lost to rounding, directions without a row
    may look indefinite; as much more of the identity as rounding takes costs steps, not accuracy.
    """
    try:
        return cho_factor(matrix)
    except np.linalg.LinAlgError:
        rounding = len(matrix) * float(np.finfo(np.float64).eps) * float(np.trace(matrix))
        return cho_factor(matrix + rounding * np.eye(len(matrix)))
