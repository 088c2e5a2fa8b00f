"""How far to go along a Newton step of a logistic regression: to the minimum on that line.

Where rows can be separated, the whole step raises every margin by about one, and the optimum may be
ten away; the minimum along the line is there at once, and costs no factor. Many samples are
searched together. That the objective goes down on each line is checked, so steps cannot cycle.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

_MAX_TRIALS = 40
_FLAT = 0.01
"""Slope at the end, over that at the start, at which the minimum is near enough."""
_LONGEST = 4.0
"""Largest growth of the size from one trial to the next."""
_SHORTEST = 1e-10
"""Size below which a step is none."""
_SLACK = 1 + 16 * float(np.finfo(np.float64).eps)
"""Rounding of the objective: a step that is right to the last digit may seem to raise it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """One line a sample: sum pulls * log(1 + exp(-margins - t * moves)) + |w + t d|^2 / 2."""

    pulls: Float[np.ndarray, "sample row"]
    """Weight of each row's loss."""
    margins: Float[np.ndarray, "sample row"]
    """Signed decision values at t = 0."""
    moves: Float[np.ndarray, "sample row"]
    """What they grow by at t = 1."""
    ww: Float[np.ndarray, "sample"]
    """|w|^2"""
    wd: Float[np.ndarray, "sample"]
    """w . d"""
    dd: Float[np.ndarray, "sample"]
    """|d|^2"""

    def only(self, kept: Int[np.ndarray, "some"]) -> "Lines":
        """Some of the lines."""
        return Lines(**{name: getattr(self, name)[kept] for name in Lines.__slots__})

    def objectives(self, sizes: Float[np.ndarray, "sample"]) -> Float[np.ndarray, "sample"]:
        """The objective of each at t = `sizes`."""
        losses = np.logaddexp(0.0, -(self.margins + sizes[:, None] * self.moves))
        penalties = self.ww / 2 + sizes * self.wd + sizes**2 * self.dd / 2
        return np.einsum("ij,ij->i", self.pulls, losses) + penalties

    def bends(self, sizes: Float[np.ndarray, "sample"]) -> "Bends":
        """First and second derivative at t = `sizes`."""
        margins = self.margins + sizes[:, None] * self.moves
        wrong = self.pulls * expit(-margins) * self.moves
        return Bends(
            slopes=self.wd + sizes * self.dd - wrong.sum(axis=1),
            curvature=self.dd + np.einsum("ij,ij,ij->i", wrong, expit(margins), self.moves),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bends:
    """Derivatives along each line."""

    slopes: Float[np.ndarray, "sample"]
    """First."""
    curvature: Float[np.ndarray, "sample"]
    """Second, positive."""


def minimise(
    lines: Lines, slopes: Float[np.ndarray, "sample"], *, is_near: Bool[np.ndarray, "sample"]
) -> Float[np.ndarray, "sample"]:
    """Return the size of each step; 0 where the line does not go down.

    Args:
        lines: where to search.
        slopes: of each at 0.
        is_near: where rounding decides and the whole step is to be taken.
    """
    sizes = np.ones(len(slopes))
    sizes[~is_near & ~(slopes < 0)] = 0.0
    searched = np.flatnonzero(~is_near & (slopes < 0))
    if searched.size:
        some = lines.only(searched)
        sizes[searched] = _lowered(some, slopes[searched], _minima(some, slopes[searched]))
    return sizes


def _minima(lines: Lines, slopes: Float[np.ndarray, "sample"]) -> Float[np.ndarray, "sample"]:
    """Newton's method in one dimension, bisecting where it leaves what is known of the minimum."""
    sizes = np.ones(len(slopes))
    low, high = np.zeros(len(slopes)), np.full(len(slopes), np.inf)
    left = np.arange(len(slopes))
    for _ in range(_MAX_TRIALS):
        at = sizes[left]
        bends = lines.only(left).bends(at)
        is_short = bends.slopes < 0
        low[left] = np.where(is_short, at, low[left])
        high[left] = np.where(is_short, high[left], at)
        is_open = ~(np.abs(bends.slopes) <= _FLAT * np.abs(slopes[left]))
        if not is_open.any():
            break
        guess = at - bends.slopes / bends.curvature
        below, above = low[left], np.minimum(high[left], _LONGEST * at)
        is_inside = (guess > below) & (guess < above)
        other = np.where(np.isinf(high[left]), above, (below + above) / 2)
        sizes[left[is_open]] = np.where(is_inside, guess, other)[is_open]
        left = left[is_open]
    return sizes


def _lowered(
    lines: Lines, slopes: Float[np.ndarray, "sample"], sizes: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "sample"]:
    """Halve sizes until the objective decreases (Armijo); 0 where it never does."""
    ceilings = lines.objectives(np.zeros(len(sizes))) * _SLACK
    while True:
        too_high = ~(lines.objectives(sizes) <= ceilings + 1e-4 * sizes * slopes)
        sizes = np.where(too_high, np.where(sizes > _SHORTEST, sizes / 2, 0.0), sizes)
        if not sizes[too_high].any():
            return sizes
