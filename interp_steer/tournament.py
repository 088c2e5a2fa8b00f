"""Ratings from pairwise comparisons: Bradley-Terry by maximum likelihood, on the scale of ELO.

    P(i beats j) = 1 / (1 + exp(-(b_i - b_j)))        rating_i = 1500 + 400 / ln 10 (b_i - mean b)

A tie is half a win for either side. A rating is relative to who else plays and to one judge; a gap
of 400 means ten to one, and says nothing of how large the difference is that the judge saw.

Source: Bradley and Terry 1952; Hunter 2004, "MM algorithms for generalized Bradley-Terry models".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int
from sklearn import config_context
from sklearn.linear_model import LogisticRegression

from interp_steer.errors import InterpSteerError
from interp_steer.intervals import SHARE, bootstrap_interval, mean_estimate
from interp_steer.statistics import (
    N_RESAMPLES,
    Estimate,
    Resamples,
    Sampled,
    draw_resamples,
)

MEAN_RATING = 1500.0
"""Mean rating of the players."""
ELO_PER_LOGIT = 400.0 / math.log(10.0)
"""Points of a rating for a log-odds of 1."""
PRIOR_VARIANCE = 10.0
"""Of the strengths b, whose prior is normal about 0: C of scikit-learn's logistic regression. Its
standard deviation is 549 points; hundreds of games outweigh it, and it keeps the rating of a player
who wins every game finite."""


class TournamentError(InterpSteerError):
    """Comparisons from which nobody can be rated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Games:
    """Comparisons of players, each on one scenario."""

    players: tuple[str, ...]
    """Who played."""
    scenarios: tuple[str, ...]
    """Scenarios that were played on."""
    scenario: Int[np.ndarray, "game"]
    """Place of each game's scenario."""
    first: Int[np.ndarray, "game"]
    """Place of the player whose answer was shown first."""
    second: Int[np.ndarray, "game"]
    """Place of the other player."""
    preference: Float[np.ndarray, "game"]
    """1 where the first won, 0 where the second did, 0.5 for a tie, NaN where nobody knows."""
    is_asked: np.ndarray
    """Whether a judge saw the two; equal texts tie unseen."""

    def __post_init__(self) -> None:
        if len(self.players) < 2:
            raise TournamentError(
                f"a tournament needs two players, got {len(self.players)}; widen --scopes"
            )
        if not np.isfinite(self.preference).any():
            raise TournamentError(
                f"the judge gave no usable verdict on any of {len(self.preference)} pairs; see to "
                "the judge and run the same command again"
            )

    @property
    def is_known(self) -> np.ndarray:
        """Which games have a verdict."""
        return np.isfinite(self.preference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One player's place."""

    player: str
    """Who."""
    rating: Estimate
    """On the scale of ELO, mean 1500."""
    wins: int
    """Games won."""
    ties: int
    """Games tied."""
    losses: int
    """Games lost."""
    n_missing: int
    """Games without a verdict, which count for nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEffect:
    """What the order in which answers are shown does to a judge."""

    first_share: Estimate | None
    """Share of wins that went to the answer shown first, 0-1: 0.5 without a bias, since orders are
    drawn at random; None where nothing was decided."""
    n_decided: int
    """Games that a judge saw and that somebody won."""
    same_share: Estimate | None
    """Share of pairs shown in both orders that got the same verdict, 0-1; None without such."""
    n_both: int
    """Pairs shown in both orders."""


def rate(
    games: Games,
    clusters: Sequence[str],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 42,
) -> tuple[Rating, ...]:
    """Rate the players, the strongest first, with 95 % intervals over clusters of scenarios.

    Args:
        games: who won against whom.
        clusters: cluster of each of `games.scenarios`, resampled as a whole.
        n_resamples: bootstrap samples.
        seed: seed of the draws.
    """
    resamples = draw_resamples(clusters, n_resamples=n_resamples, seed=seed)
    won = _wins_by_scenario(games)
    value = elo(won.sum(axis=0))
    with config_context(assume_finite=True, skip_parameter_validation=True):
        draws = np.stack([elo(np.tensordot(w, won, axes=1)) for w in resamples.weights])
    ratings = [
        _rating(games, place, Sampled(value=float(value[place]), draws=draws[:, place]), resamples)
        for place in range(len(games.players))
    ]
    return tuple(sorted(ratings, key=lambda rating: -rating.rating.value))


def elo(wins: Float[np.ndarray, "player player"]) -> Float[np.ndarray, "player"]:
    """Ratings that make these wins likeliest, up to the prior (see `PRIOR_VARIANCE`).

    Args:
        wins: row i, column j: how often i beat j, ties half.
    """
    n = len(wins)
    pairs = list(combinations(range(n), 2))
    design = np.zeros((len(pairs), n))
    for row, (i, j) in enumerate(pairs):
        design[row, i], design[row, j] = 1.0, -1.0
    weights = np.array([[wins[i, j], wins[j, i]] for i, j in pairs])
    model = LogisticRegression(
        C=PRIOR_VARIANCE, fit_intercept=False, solver="newton-cholesky", tol=1e-8, max_iter=200
    )
    outcomes = np.repeat([1, 0], len(pairs))
    model.fit(np.vstack([design, design]), outcomes, sample_weight=weights.T.ravel())
    strengths = model.coef_[0]
    return MEAN_RATING + ELO_PER_LOGIT * (strengths - strengths.mean())


def win_share(games: Games, one: int, other: int, clusters: Sequence[str]) -> Estimate:
    """Share of two players' games that the first of them won, ties half, with its interval."""
    won = _wins_by_scenario(games)
    ahead, behind = won[:, one, other], won[:, other, one]
    return _share(ahead, ahead + behind, draw_resamples(clusters))


def order_effect(games: Games, clusters: Sequence[str]) -> OrderEffect:
    """How much the order in which answers were shown decided."""
    resamples = draw_resamples(clusters)
    n = len(games.scenarios)
    decided = games.is_known & games.is_asked & (games.preference != 0.5)
    wins = np.bincount(games.scenario, weights=decided * (games.preference == 1), minlength=n)
    total = np.bincount(games.scenario, weights=decided, minlength=n)
    same, both = _verdicts_in_both_orders(games)
    return OrderEffect(
        first_share=_share(wins, total, resamples) if total.any() else None,
        n_decided=int(total.sum()),
        same_share=_share(same, both, resamples) if both.any() else None,
        n_both=int(both.sum()),
    )


def _verdicts_in_both_orders(
    games: Games,
) -> tuple[Float[np.ndarray, "scenario"], Float[np.ndarray, "scenario"]]:
    """By scenario: pairs with the same verdict in both orders, and pairs with two verdicts."""
    n = len(games.scenarios)
    same, both = np.zeros(n), np.zeros(n)
    seen: dict[tuple[int, int, int], list[float]] = {}
    for place in np.flatnonzero(games.is_known & games.is_asked):
        key = (int(games.scenario[place]), int(games.first[place]), int(games.second[place]))
        seen.setdefault(key, []).append(float(games.preference[place]))
    for (scenario, first, second), verdicts in seen.items():
        turned = seen.get((scenario, second, first), []) if first < second else []
        for one, other in zip(verdicts, turned, strict=False):
            both[scenario] += 1
            same[scenario] += one == 1 - other
    return same, both


def _wins_by_scenario(games: Games) -> Float[np.ndarray, "scenario player player"]:
    won = np.zeros((len(games.scenarios), len(games.players), len(games.players)))
    known = games.is_known
    at, first, second = games.scenario[known], games.first[known], games.second[known]
    np.add.at(won, (at, first, second), games.preference[known])
    np.add.at(won, (at, second, first), 1 - games.preference[known])
    return won


def _share(
    part: Float[np.ndarray, "scenario"], whole: Float[np.ndarray, "scenario"], resamples: Resamples
) -> Estimate:
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (resamples.weights @ part) / (resamples.weights @ whole)
        value = float(part.sum() / whole.sum())
    return mean_estimate(Sampled(value=value, draws=draws), resamples, bounds=SHARE)


def _rating(games: Games, place: int, sampled: Sampled, resamples: Resamples) -> Rating:
    mine = (games.first == place) | (games.second == place)
    score = np.where(games.first == place, games.preference, 1 - games.preference)[mine]
    return Rating(
        player=games.players[place],
        rating=Estimate(value=sampled.value, interval=bootstrap_interval(sampled.draws, resamples)),
        wins=int((score == 1).sum()),
        ties=int((score == 0.5).sum()),
        losses=int((score == 0).sum()),
        n_missing=int(np.isnan(score).sum()),
    )
