"""Many logistic regressions on samples of the same rows, each to its exact optimum, at once.

Folds, jackknives, bootstraps and shuffled labels fit the same rows again and again. The objective
is that of `logistic`, where a row drawn k times weighs c * k, and every optimum lies in the span of
the rows: the samples share coordinates and Gram matrix. Newton steps are found for all samples at
once by conjugate gradients (`newton_cg`) and, for samples that need too many of them, by a factor
each (`newton_factors`). Weights are the unknowns all along and gradients come from the rows, so a
rounded step costs further steps, not accuracy. A sample leaves the batch when it is done; one that
does not get to the tolerance is solved again by `logistic.solve_logistic`, alone, so that none ends
worse than there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from interp_steer.logistic import TOLERANCE, solve_logistic
from interp_steer.newton_cg import NewtonSystems, row_dots, solve_systems
from interp_steer.newton_factors import GramFactor, HessianFactor, SharedRows, newton_factor
from interp_steer.newton_line import Lines, minimise
from interp_steer.resamples import Resamples

_MAX_STEPS = 50
"""Steps before a sample is left to `solve_logistic`; ten are usual."""
_BLOCK_BYTES = 128 * 2**20
"""Memory of the factors that are held at once."""
_FEW = 32
"""Dimensions below which a factor takes less time than any iteration."""
_FORCING = (1e-3, 0.03)
"""Least and largest tolerance of an iterated step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optima:
    """Weights and intercepts of many logistic regressions; see `logistic.Optimum`."""

    weights: Float[np.ndarray, "sample rank"]
    """w, log-odds per activation unit."""
    intercepts: Float[np.ndarray, "sample"]
    """b, log-odds at the origin of the coordinates that the rows were given in."""
    relative_gradients: Float[np.ndarray, "sample"]
    """Norm of each objective's gradient over the size of the terms that cancel in it."""

    @property
    def converged(self) -> Bool[np.ndarray, "sample"]:
        """Whether the relative gradient is at most `TOLERANCE`."""
        return self.relative_gradients <= TOLERANCE


def solve_resamples(
    rows: Float[np.ndarray, "row rank"], resamples: Resamples, *, c: float = 1.0
) -> Optima:
    """Return the optimum of every sample, whatever the other samples (to the last digits).

    Args:
        rows: float64, in coordinates as `logistic.Span` gives them: centred, few dimensions.
        resamples: which rows, how often and with which labels.
        c: scikit-learn's C, the weight of the summed log-loss.

    Raises:
        ProbeError: a sample without rows of one of the labels.
    """
    resamples.check_sides()
    found = Optima(
        weights=np.zeros((len(resamples), rows.shape[1])),
        intercepts=np.zeros(len(resamples)),
        relative_gradients=np.full(len(resamples), np.inf),
    )
    shared = SharedRows.of(rows)
    for block in _blocks(resamples, rank=rows.shape[1]):
        _Batch(shared, resamples, block, c=c).solve(found)
    for sample in np.flatnonzero(~found.converged).tolist():
        alone = solve_logistic(rows[resamples.drawn(sample)], resamples.labels(sample), c=c)
        found.weights[sample], found.intercepts[sample] = alone.weights, alone.intercept
        found.relative_gradients[sample] = alone.relative_gradient
    return found


def _blocks(resamples: Resamples, *, rank: int) -> Iterator[Int[np.ndarray, "some"]]:
    """Samples whose factors fit into `_BLOCK_BYTES` together."""
    block_of = np.cumsum(8 * _dimensions(resamples.counts, rank) ** 2) // _BLOCK_BYTES
    for block in np.unique(block_of):
        yield np.flatnonzero(block_of == block)


def _dimensions(counts: Int[np.ndarray, "sample row"], rank: int) -> Int[np.ndarray, "sample"]:
    """Of the factor of each sample."""
    return np.minimum((counts > 0).sum(axis=1), rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """Where some samples of a batch are; names as in `logistic`."""

    of: Int[np.ndarray, "some"]  # their places in the batch
    weights: Float[np.ndarray, "some rank"]
    intercepts: Float[np.ndarray, "some"]
    margins: Float[np.ndarray, "some row"]
    residuals: Float[np.ndarray, "some row"]
    curvature: Float[np.ndarray, "some row"]
    gradient: Float[np.ndarray, "some rank"]
    relative_gradients: Float[np.ndarray, "some"]

    def only(self, kept: Bool[np.ndarray, "some"]) -> "_State":
        return _State(**{name: getattr(self, name)[kept] for name in _State.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A whole Newton step from a state."""

    weights: Float[np.ndarray, "some rank"]
    intercepts: Float[np.ndarray, "some"]
    margins: Float[np.ndarray, "some row"]
    slopes: Float[np.ndarray, "some"]  # of the objective, at the start


class _Batch:
    """Samples that are solved together."""

    def __init__(
        self,
        shared: SharedRows,
        resamples: Resamples,
        samples: Int[np.ndarray, "some"],
        *,
        c: float,
    ) -> None:
        counts = resamples.counts[samples]
        self.shared, self.samples, self.pulls = shared, samples, c * counts
        self.signs = np.where(resamples.is_aligned[samples], 1.0, -1.0)
        self.drawn = [np.flatnonzero(one) for one in counts]
        self.is_factored = _dimensions(counts, shared.rows.shape[1]) < _FEW
        self.factors: dict[int, GramFactor | HessianFactor] = {}

    def solve(self, found: Optima) -> None:
        """Put the optima into `found`, or how far a sample got."""
        of, previous = np.arange(len(self.samples)), np.full(len(self.samples), np.inf)
        weights = np.zeros((len(of), self.shared.rows.shape[1]))
        above = np.where(self.signs > 0, self.pulls, 0.0).sum(axis=1)
        intercepts = np.log(above / (self.pulls.sum(axis=1) - above))
        for _ in range(_MAX_STEPS):
            # Whatever overflows does not converge here, and is solved again.
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                state = self.at(of, weights, intercepts)
                error, places = state.relative_gradients, self.samples[of]
                found.weights[places], found.intercepts[places] = weights, intercepts
                found.relative_gradients[places] = error
                # As in `logistic`: below the tolerance, go on while steps still gain precision.
                state = state.only(~((error <= TOLERANCE) & (error >= previous / 2)))
                if not state.of.size:
                    return
                step = self.step(state)
                sizes = self.sizes(state, step)
            goes_on = sizes > 0
            of, previous = state.of[goes_on], state.relative_gradients[goes_on]
            weights = (state.weights + sizes[:, None] * step.weights)[goes_on]
            intercepts = (state.intercepts + sizes * step.intercepts)[goes_on]

    def at(
        self,
        of: Int[np.ndarray, "some"],
        weights: Float[np.ndarray, "some rank"],
        intercepts: Float[np.ndarray, "some"],
    ) -> _State:
        rows, signs, pulls = self.shared.rows, self.signs[of], self.pulls[of]
        margins = signs * (weights @ rows.T + intercepts[:, None])
        wrong = expit(-margins)  # accurate however small, unlike 1 - expit(margins)
        residuals = pulls * signs * wrong
        gradient = weights - residuals @ rows
        pull = np.abs(residuals)
        scale = pull @ self.shared.lengths + np.linalg.norm(weights, axis=1)
        error = np.linalg.norm(gradient, axis=1) / np.where(scale > 0, scale, 1.0)
        balance = np.abs(residuals.sum(axis=1)) / pull.sum(axis=1)
        return _State(
            of=of,
            weights=weights,
            intercepts=intercepts,
            margins=margins,
            residuals=residuals,
            curvature=pulls * wrong * expit(margins),
            gradient=gradient,
            relative_gradients=np.maximum(error, balance),
        )

    def step(self, state: _State) -> _Step:
        """Newton's step of every sample, the intercept eliminated."""
        rows, total = self.shared.rows, state.curvature.sum(axis=1)
        middle = state.curvature @ rows / total[:, None]
        pull = -state.residuals.sum(axis=1)
        gradient = state.gradient - pull[:, None] * middle
        weights = self.by_products(state, middle, gradient)
        is_left = self.is_factored[state.of]
        weights[is_left] = self.by_factors(state.only(is_left), gradient[is_left])
        intercepts = -pull / total - row_dots(middle, weights)
        return _Step(
            weights=weights,
            intercepts=intercepts,
            margins=self.signs[state.of] * (weights @ rows.T + intercepts[:, None]),
            slopes=row_dots(state.gradient, weights) + pull * intercepts,
        )

    def by_products(
        self,
        state: _State,
        middle: Float[np.ndarray, "some rank"],
        gradient: Float[np.ndarray, "some rank"],
    ) -> Float[np.ndarray, "some rank"]:
        """Steps by conjugate gradients; who needs too many iterations is factored from now on."""
        weights, places = np.zeros_like(gradient), ~self.is_factored[state.of]
        systems = NewtonSystems(rows=self.shared.rows, curvature=state.curvature, middles=middle)
        tolerances = np.clip(np.sqrt(state.relative_gradients[places]), *_FORCING)
        found = solve_systems(systems.only(places), -gradient[places], tolerances)
        weights[places] = found.vectors
        self.is_factored[state.of[places][~found.is_solved]] = True
        return weights

    def by_factors(
        self, state: _State, gradient: Float[np.ndarray, "some rank"]
    ) -> Float[np.ndarray, "some rank"]:
        """Steps by a factor each."""
        rows, weights = self.shared.rows, -gradient
        decisions, pulls = gradient @ rows.T, np.zeros_like(state.margins)
        for place in range(len(state.of)):
            factor = self.factor(state, place)
            if isinstance(factor, GramFactor):
                pulls[place, factor.drawn] = factor.pulls(decisions[place])
            else:
                weights[place] = factor.direction(gradient[place])
        return weights + pulls @ rows

    def factor(self, state: _State, place: int) -> GramFactor | HessianFactor:
        """A new factor, or below the tolerance, where curvature stands still, the last one."""
        sample = int(state.of[place])
        if sample not in self.factors or not state.relative_gradients[place] <= TOLERANCE:
            drawn, curvature = self.drawn[sample], state.curvature[place]
            self.factors[sample] = newton_factor(self.shared, drawn, curvature)
        return self.factors[sample]

    def sizes(self, state: _State, step: _Step) -> Float[np.ndarray, "some"]:
        """How far to go along each step; 0 where it does not go down."""
        lines = Lines(
            pulls=self.pulls[state.of],
            margins=state.margins,
            moves=step.margins,
            ww=row_dots(state.weights, state.weights),
            wd=row_dots(state.weights, step.weights),
            dd=row_dots(step.weights, step.weights),
        )
        return minimise(lines, step.slopes, is_near=state.relative_gradients <= TOLERANCE)
