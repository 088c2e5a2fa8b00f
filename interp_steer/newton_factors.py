"""Factors of the Newton step of a logistic regression on some of many shared rows.

With the intercept eliminated the step is d = -(I + T' W T)^-1 q: T the rows about their mean under
the curvature W, q the gradient there. Two ways to the same d, the cheaper one is taken: factor that
matrix, in as many dimensions as the rows have, or, by Woodbury's identity,

    d = -q + X' y,   (1/W + K) y + mu 1 = X q,   sum y = 0,   K = X X'

in as many as rows are drawn, where K is the same for every sample and no product of matrices is
left. K has the square of the rows' condition number: on rows of very unequal size the second way
gives a rounded direction, and `logistic_batch` sees to it that this costs steps, not accuracy.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import get_lapack_funcs

# LAPACK's own routines: scipy's wrappers check and copy, which at this size takes as long.
_POTRF, _POTRS = get_lapack_funcs(("potrf", "potrs"), dtype=np.float64)

_LEAST = 1e-290
"""Curvature of a row that has none left, so that 1/W is a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRows:
    """Rows, with what every sample of them needs."""

    rows: Float[np.ndarray, "row rank"]
    """X; centred, in few dimensions."""
    gram: Float[np.ndarray, "row row"]
    """K = X X'."""
    lengths: Float[np.ndarray, "row"]
    """Norm of each row."""

    @classmethod
    def of(cls, rows: Float[np.ndarray, "row rank"]) -> "SharedRows":
        """Prepare `rows`."""
        return cls(rows=rows, gram=rows @ rows.T, lengths=np.linalg.norm(rows, axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class GramFactor:
    """Cholesky factor of 1/W + K on the rows drawn."""

    drawn: Int[np.ndarray, "drawn"]
    """Their places."""
    lower: Float[np.ndarray, "drawn drawn"]
    """The factor."""
    of_ones: Float[np.ndarray, "drawn"]
    """(1/W + K)^-1 1, for the intercept."""

    @classmethod
    def of(
        cls,
        shared: SharedRows,
        drawn: Int[np.ndarray, "drawn"],
        curvature: Float[np.ndarray, "row"],
    ) -> "GramFactor":
        """Factor at the curvature of all rows, zero where a row is not drawn."""
        n, gram = len(drawn), shared.gram
        matrix = gram.copy() if n == len(gram) else gram.take(drawn, axis=0).take(drawn, axis=1)
        matrix.flat[:: n + 1] += 1 / np.maximum(curvature[drawn], _LEAST)
        lower = _cholesky(matrix)
        return cls(drawn=drawn, lower=lower, of_ones=_solve(lower, np.ones(n)))

    def pulls(self, decision: Float[np.ndarray, "row"]) -> Float[np.ndarray, "drawn"]:
        """The y of the drawn rows for X q = `decision` (to a constant, which mu takes up)."""
        free = _solve(self.lower, decision[self.drawn])
        return free - free.sum() / self.of_ones.sum() * self.of_ones


@dataclass(frozen=True, slots=True, kw_only=True)
class HessianFactor:
    """Cholesky factor of I + T' W T."""

    lower: Float[np.ndarray, "rank rank"]
    """The factor."""

    @classmethod
    def of(
        cls,
        shared: SharedRows,
        drawn: Int[np.ndarray, "drawn"],
        curvature: Float[np.ndarray, "row"],
    ) -> "HessianFactor":
        """Factor at the curvature of all rows, zero where a row is not drawn."""
        rows, kept = shared.rows[drawn], curvature[drawn]
        weighted = (rows - kept @ rows / kept.sum()) * np.sqrt(kept)[:, None]
        matrix = weighted.T @ weighted
        matrix.flat[:: len(matrix) + 1] += 1.0
        return cls(lower=_cholesky(matrix))

    def direction(self, gradient: Float[np.ndarray, "rank"]) -> Float[np.ndarray, "rank"]:
        """The d of q = `gradient`."""
        return -_solve(self.lower, gradient)


def newton_factor(
    shared: SharedRows, drawn: Int[np.ndarray, "drawn"], curvature: Float[np.ndarray, "row"]
) -> GramFactor | HessianFactor:
    """Return the factor that takes less time at `curvature`, zero where a row is not drawn."""
    n_drawn, rank = len(drawn), shared.rows.shape[1]
    # In multiplications; a factor takes a third of the cube, and the Hessian is a product first.
    is_gram = n_drawn**3 / 3 < n_drawn * rank**2 + rank**3 / 3
    return (GramFactor if is_gram else HessianFactor).of(shared, drawn, curvature)


def _cholesky(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Factor in place; NaN where rounding leaves the matrix indefinite."""
    lower, info = _POTRF(matrix.T, lower=1, clean=0, overwrite_a=1)
    return lower if info == 0 else np.full_like(matrix, np.nan)


def _solve(
    lower: Float[np.ndarray, "n n"], right: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    return _POTRS(lower, right, lower=1)[0]
