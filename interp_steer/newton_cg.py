"""Newton steps of many samples by conjugate gradients, for those whose steps need few iterations.

An iteration is two products with the rows, for all samples at once; a factor of one sample costs as
much as twenty or more. Rows of about equal size take about five iterations a step. Where sizes are
very unequal, iterations are many, and such a sample is left to factors (`newton_factors`) from then
on. A step need not be exact, as its gradient is: the tolerance falls with the gradient.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_MAX_ITERATIONS = 15
"""Iterations that cost less than a factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewtonSystems:
    """The matrices I + T' W T: T the rows about their mean under the curvature W of a sample."""

    rows: Float[np.ndarray, "row rank"]
    """Shared by all samples."""
    curvature: Float[np.ndarray, "sample row"]
    """W, zero where a row is not drawn."""
    middles: Float[np.ndarray, "sample rank"]
    """Mean of the rows under W."""

    def only(self, kept: Bool[np.ndarray, "sample"]) -> "NewtonSystems":
        """Some of the samples."""
        curvature, middles = self.curvature[kept], self.middles[kept]
        return NewtonSystems(rows=self.rows, curvature=curvature, middles=middles)

    def times(self, vectors: Float[np.ndarray, "sample rank"]) -> Float[np.ndarray, "sample rank"]:
        """Each matrix times its vector."""
        moved = vectors @ self.rows.T
        moved -= row_dots(self.middles, vectors)[:, None]
        moved *= self.curvature
        return vectors + moved @ self.rows  # the mean drops out: `moved` sums to zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Solutions:
    """What the iterations reached."""

    vectors: Float[np.ndarray, "sample rank"]
    """Approximate solutions."""
    is_solved: Bool[np.ndarray, "sample"]
    """Whether the residual is within the tolerance."""


def solve_systems(
    systems: NewtonSystems,
    right: Float[np.ndarray, "sample rank"],
    tolerances: Float[np.ndarray, "sample"],
) -> Solutions:
    """Solve each system for its right side, to a residual of `tolerances` times that side."""
    squares = row_dots(right, right)
    vectors, is_solved = np.zeros_like(right), squares == 0
    places = np.flatnonzero(squares > 0)
    systems, residuals, squares = systems.only(squares > 0), right[places], squares[places]
    steps, enough = residuals.copy(), tolerances[places] ** 2 * squares
    for _ in range(_MAX_ITERATIONS):
        if not places.size:
            break
        moved = systems.times(steps)
        sizes = squares / row_dots(steps, moved)
        vectors[places] += sizes[:, None] * steps
        residuals -= sizes[:, None] * moved
        before, squares = squares, row_dots(residuals, residuals)
        is_open = squares > enough
        is_solved[places[~is_open]] = True
        steps = residuals + (squares / before)[:, None] * steps
        if not is_open.all():
            places, systems, squares = places[is_open], systems.only(is_open), squares[is_open]
            residuals, steps, enough = residuals[is_open], steps[is_open], enough[is_open]
    return Solutions(vectors=vectors, is_solved=is_solved)


def row_dots(
    one: Float[np.ndarray, "sample rank"], other: Float[np.ndarray, "sample rank"]
) -> Float[np.ndarray, "sample"]:
    """Inner product of each pair of rows."""
    return np.einsum("ij,ij->i", one, other)
