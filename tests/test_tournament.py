"""Bradley-Terry ratings: against another algorithm, laws, planted strengths, and their controls."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_steer.tournament import (
    MEAN_RATING,
    Games,
    TournamentError,
    elo,
    order_effect,
    rate,
    win_share,
)


def mm_elo(wins: np.ndarray) -> np.ndarray:
    """Hunter's MM algorithm without a prior, as an independent maximum of the likelihood."""
    n, strength = wins + wins.T, np.ones(len(wins))
    for _ in range(5000):
        with np.errstate(divide="ignore"):
            below = (n / (strength[:, None] + strength)).sum(axis=1)
        strength = wins.sum(axis=1) / below
        strength /= np.exp(np.log(strength).mean())
    return 1500 + 400 * np.log10(strength)


def played(
    preference: Any, *, n_players: int, n_scenarios: int, seed: int = 0, both: bool = False
) -> Games:
    """All pairs on all scenarios; `preference(rng, first, second)` decides."""
    rng = np.random.default_rng(seed)
    rows = []
    for scenario in range(n_scenarios):
        for i in range(n_players):
            for j in range(i):
                first, second = (i, j) if rng.random() < 0.5 else (j, i)
                rows.append((scenario, first, second, preference(rng, first, second)))
                if both:
                    rows.append((scenario, second, first, preference(rng, second, first)))
    columns = np.array(rows, dtype=np.float64).T
    return Games(
        players=tuple(f"p{i}" for i in range(n_players)),
        scenarios=tuple(f"s{i}" for i in range(n_scenarios)),
        scenario=columns[0].astype(np.int64),
        first=columns[1].astype(np.int64),
        second=columns[2].astype(np.int64),
        preference=columns[3],
        is_asked=np.ones(len(rows), dtype=bool),
    )


def alone(games: Games) -> list[str]:
    return list(games.scenarios)


class TestRatings:
    def test_agree_with_the_mm_algorithm(self) -> None:
        """200-odd games a pair: the prior moves a rating by 1.3 points at most (measured)."""
        rng = np.random.default_rng(3)
        wins = rng.integers(80, 160, size=(5, 5)) / 2.0
        np.fill_diagonal(wins, 0)
        assert np.abs(elo(wins) - mm_elo(wins)).max() < 2.0

    def test_three_to_one_is_191_points(self) -> None:
        found = elo(np.array([[0.0, 3000.0], [1000.0, 0.0]]))
        assert found[0] - found[1] == pytest.approx(400 * math.log10(3), abs=0.5)

    def test_a_player_who_wins_everything_has_a_finite_rating(self) -> None:
        found = elo(np.array([[0.0, 400.0], [0.0, 0.0]]))
        assert 500 < found[0] - found[1] < 2500

    @settings(max_examples=15)
    @given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 6))
    def test_do_not_depend_on_names_and_turn_round_with_the_verdicts(
        self, seed: int, n: int
    ) -> None:
        rng = np.random.default_rng(seed)
        wins = rng.integers(0, 40, size=(n, n)) / 2.0
        np.fill_diagonal(wins, 0)
        found, order = elo(wins), rng.permutation(n)
        assert found.mean() == pytest.approx(MEAN_RATING)
        assert elo(wins[np.ix_(order, order)]) == pytest.approx(found[order], abs=0.01)
        assert elo(wins.T) == pytest.approx(2 * MEAN_RATING - found, abs=0.01)

    def test_find_planted_strengths_within_their_intervals(self) -> None:
        planted = np.array([1700.0, 1550.0, 1450.0, 1300.0])

        def by_strength(rng: Any, first: int, second: int) -> float:
            return float(rng.random() < 1 / (1 + 10 ** ((planted[second] - planted[first]) / 400)))

        games = played(by_strength, n_players=4, n_scenarios=150, seed=5)
        found = rate(games, alone(games), n_resamples=100)
        assert [r.player for r in found] == ["p0", "p1", "p2", "p3"]
        for rating, truth in zip(found, planted, strict=True):
            assert rating.rating.interval.low < truth < rating.rating.interval.high
            assert rating.rating.interval.high - rating.rating.interval.low < 110
            assert rating.wins + rating.losses == 450

    def test_are_flat_where_verdicts_are_chance(self) -> None:
        games = played(lambda rng, *_: float(rng.random() < 0.5), n_players=3, n_scenarios=80)
        for rating in rate(games, alone(games), n_resamples=60):
            assert rating.rating.interval.low < 1500 < rating.rating.interval.high

    def test_have_no_interval_where_all_scenarios_are_one_cluster(self) -> None:
        def better(rng: Any, first: int, _: int) -> float:
            return float(rng.random() < (0.8 if first == 0 else 0.2))

        games = played(better, n_players=2, n_scenarios=60)
        assert rate(games, alone(games), n_resamples=20)[0].rating.interval.is_finite
        assert not rate(games, ["c"] * 60, n_resamples=20)[0].rating.interval.is_finite

    def test_ties_are_half_a_win_each_and_gaps_nobodys(self) -> None:
        def verdict(_: Any, first: int, second: int) -> float:
            if {first, second} == {0, 1}:
                return 0.5
            return math.nan if 0 in (first, second) else float(second == 2)

        games = played(verdict, n_players=3, n_scenarios=10)
        found = {r.player: r for r in rate(games, alone(games), n_resamples=20)}
        assert (found["p0"].ties, found["p0"].n_missing) == (10, 10)
        assert (found["p1"].wins, found["p1"].ties, found["p2"].losses) == (10, 10, 10)
        # 10 games a pair: the prior pulls the one who also won a little less than the other.
        assert found["p0"].rating.value == pytest.approx(found["p1"].rating.value, abs=20)
        assert found["p1"].rating.value > found["p2"].rating.value + 500

    def test_a_share_counts_ties_half(self) -> None:
        games = played(lambda *_: 0.5, n_players=2, n_scenarios=8)
        assert win_share(games, 0, 1, alone(games)).value == 0.5


class TestOrder:
    def test_a_judge_who_likes_what_comes_first_is_caught(self) -> None:
        games = played(lambda *_: 1.0, n_players=3, n_scenarios=60, both=True)
        found = order_effect(games, alone(games))
        assert found.first_share is not None and found.first_share.value == 1.0
        assert found.same_share is not None and found.same_share.value == 0.0
        assert (found.n_decided, found.n_both) == (360, 180)
        for rating in rate(games, alone(games), n_resamples=20):
            assert rating.rating.value == pytest.approx(1500, abs=1e-6)

    def test_a_judge_who_reads_is_not(self) -> None:
        games = played(
            lambda _, first, second: float(first < second), n_players=3, n_scenarios=60, both=True
        )
        found = order_effect(games, alone(games))
        assert found.first_share is not None and found.first_share.value == 0.5
        assert found.same_share is not None and found.same_share.value == 1.0

    def test_without_decisions_there_is_no_share(self) -> None:
        games = played(lambda *_: 0.5, n_players=2, n_scenarios=5)
        found = order_effect(games, alone(games))
        assert (found.first_share, found.same_share, found.n_decided) == (None, None, 0)


def test_a_tournament_of_one_or_without_verdicts_is_refused() -> None:
    with pytest.raises(TournamentError, match="no usable verdict on any of 5 pairs"):
        played(lambda *_: math.nan, n_players=2, n_scenarios=5)
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(TournamentError, match="two players, got 1"):
        Games(
            players=("a",),
            scenarios=("s",),
            scenario=one,
            first=one,
            second=one,
            preference=np.ones(1),
            is_asked=np.ones(1, dtype=bool),
        )
