"""The win rate that would be seen if both answers were equally long.

Judges prefer longer answers, and steering changes length. A logistic model of the outcome,

    P(win) = sigmoid(theta + phi * tanh(d / s)),        d = length steered - length unsteered

with s the root mean square of d, separates the two: the length-controlled win rate is
100 * sigmoid(theta), the win rate at d = 0. Ties count as half a win and half a loss. The model of
AlpacaEval 2.0 has a further term for the difficulty of an instruction, fitted over a leaderboard
of models; with one model against itself there is nothing to fit it from, and it is left out. A
small ridge keeps the fit finite where length separates wins from losses.

Source: Dubois et al., arXiv 2404.04475, section 3.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from interp_steer.intervals import bootstrap_interval
from interp_steer.statistics import Estimate, draw_resamples

RIDGE = 1e-2
"""Penalty on phi^2."""
RIDGE_THETA = 1e-6
"""Penalty on theta^2, for samples in which all outcomes are alike."""
N_STEPS = 40
"""Newton steps of length 1 at most: enough to reach the ends (theta of 15 is 100.0 %)."""


def length_controlled_rate(
    wins: Float[np.ndarray, "item"], difference: Float[np.ndarray, "item"]
) -> float:
    """Win rate in percent at equal length.

    Args:
        wins: 1 win, 0.5 tie, 0 loss.
        difference: length of the answer less that of the one it is compared with.
    """
    return float(_rates(wins, difference, np.ones((1, len(wins))))[0])


def length_controlled_estimate(
    wins: Float[np.ndarray, "item"], difference: Float[np.ndarray, "item"], *, seed: int = 42
) -> Estimate:
    """The same with its interval: items are resampled and the model is fitted anew each time.

    Raises:
        StatisticsError: no items.
    """
    resamples = draw_resamples([str(i) for i in range(len(wins))], seed=seed)
    interval = bootstrap_interval(_rates(wins, difference, resamples.weights), resamples)
    return Estimate(value=length_controlled_rate(wins, difference), interval=interval)


def _rates(
    wins: Float[np.ndarray, "item"],
    difference: Float[np.ndarray, "item"],
    weights: Float[np.ndarray, "sample item"],
) -> Float[np.ndarray, "sample"]:
    """Fit every sample by Newton's method, all at once; steps are bounded, for separated ones."""
    spread = np.sqrt((weights @ difference**2) / weights.sum(axis=1))
    shaped = np.tanh(difference / np.where(spread > 0, spread, np.inf)[:, None])
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(N_STEPS):
        chance = expit(theta[:, None] + phi[:, None] * shaped)
        slope, bend = weights * (chance - wins), weights * chance * (1.0 - chance)
        gradient = (
            slope.sum(axis=1) + 2 * RIDGE_THETA * theta,
            (slope * shaped).sum(axis=1) + 2 * RIDGE * phi,
        )
        a = bend.sum(axis=1) + 2 * RIDGE_THETA
        b = (bend * shaped).sum(axis=1)
        c = (bend * shaped**2).sum(axis=1) + 2 * RIDGE
        determinant = a * c - b**2
        steps = (
            (c * gradient[0] - b * gradient[1]) / determinant,
            (a * gradient[1] - b * gradient[0]) / determinant,
        )
        longest = np.maximum(1.0, np.hypot(*steps))
        theta, phi = theta - steps[0] / longest, phi - steps[1] / longest
    return 100.0 * expit(theta)
