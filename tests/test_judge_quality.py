"""How good a judge is: planted judges of known quality, each with its control."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from interp_steer.errors import JudgeError
from interp_steer.judge_quality import (
    JudgedSample,
    QualityMeasure,
    judge_quality,
    rank_correlations,
)
from interp_steer.judges import Answer, JudgeScore
from interp_steer.pairs import AnswerPair
from judge_cases import answer

N = 60


@dataclass
class Planted:
    """Says the number in the response plus noise; likes the first of a pair with some chance."""

    noise: float = 0.0
    first: float = 0.0
    missing: float = 0.0
    reads: bool = True

    def score_all(self, answers: Sequence[Answer], *, repeat: int = 0) -> list[JudgeScore]:
        rng = np.random.default_rng(repeat)
        found = []
        for one in answers:
            truth = float(one.text) if self.reads else rng.uniform(0, 100)
            value = float(np.clip(truth + self.noise * rng.normal(), 0, 100))
            gone = rng.random() < self.missing
            found.append(JudgeScore(trait=None if gone else value, coherence=50.0))
        return found

    def prefer_all(self, pairs: Sequence[AnswerPair], *, repeat: int = 0) -> list[float | None]:
        rng = np.random.default_rng(repeat + 7)
        return [
            1.0 if rng.random() < self.first else float(float(p.first.text) > float(p.second.text))
            for p in pairs
        ]


def sample() -> JudgedSample:
    values = np.linspace(0, 100, N)
    pairs = [AnswerPair(first=answer(str(90 + i / 10)), second=answer(str(i))) for i in range(30)]
    return JudgedSample(
        answers=tuple(answer(str(v)) for v in values),
        reference=tuple(JudgeScore(trait=float(v), coherence=float(100 - v)) for v in values),
        clusters=tuple(f"c{i}" for i in range(N)),
        pairs=tuple(pairs),
        pair_clusters=tuple(f"c{i}" for i in range(30)),
    )


def measured(judge: Any) -> dict[str, QualityMeasure]:
    return {f"{m.about} {m.measure}": m for m in judge_quality(sample(), judge)}


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlations_of_weights_are_those_of_repeated_rows(levels: int) -> None:
    rng = np.random.default_rng(levels)
    one, other = rng.integers(0, levels, size=(2, 40)).astype(np.float64)
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=20).astype(np.float64)
    expected = [
        spearmanr(np.repeat(one, w.astype(int)), np.repeat(other, w.astype(int))).statistic
        for w in weights
    ]
    assert rank_correlations(one, other, weights) == pytest.approx(np.array(expected), abs=1e-12)


class TestQuality:
    def test_a_perfect_judge(self) -> None:
        found = measured(Planted())
        for name in ("trait spearman", "trait retest_spearman"):
            assert found[name].estimate.value == pytest.approx(1.0)
        for name in ("trait mean_abs_difference", "trait retest_mean_abs_difference"):
            assert found[name].estimate.value == 0.0
        for name, value in (("agreement", 1.0), ("first_share", 0.5), ("same_share", 1.0)):
            assert found[f"pairs {name}"].estimate.value == value
        assert found["trait spearman"].n == N and found["trait spearman"].n_missing == 0

    def test_a_noisy_judge_is_as_noisy_as_it_is(self) -> None:
        """|difference of two normals| has mean 2 s / sqrt(pi) = 11.3 for s = 10; clipping shrinks
        it a little at both ends."""
        found = measured(Planted(noise=10.0))
        retest = found["trait retest_mean_abs_difference"].estimate
        assert 8.5 < retest.value < 13.5 and retest.interval.low < 11.3 < retest.interval.high + 2
        assert 0.85 < found["trait spearman"].estimate.value < 0.99

    def test_a_judge_who_does_not_read_agrees_with_nobody(self) -> None:
        interval = measured(Planted(reads=False))["trait spearman"].estimate.interval
        assert interval.low < 0 < interval.high and interval.high - interval.low < 0.8

    def test_a_constant_judge_has_no_rank_correlation(self) -> None:
        found = measured(Planted())
        assert np.isnan(found["coherence spearman"].estimate.value)
        assert found["coherence mean_difference"].estimate.value == pytest.approx(0.0, abs=1e-9)
        assert found["coherence mean_abs_difference"].estimate.value == pytest.approx(
            np.abs(50 - np.linspace(0, 100, N)).mean()
        )

    def test_position_bias_is_found(self) -> None:
        found = measured(Planted(first=1.0))
        assert found["pairs first_share"].estimate.value == 1.0
        assert found["pairs same_share"].estimate.value == 0.0
        assert found["pairs agreement"].estimate.value == 0.5

    def test_gaps_are_counted_and_left_out(self) -> None:
        found = measured(Planted(missing=0.3))["trait spearman"]
        assert found.n + found.n_missing == N and 8 < found.n_missing < 30
        assert found.estimate.value == pytest.approx(1.0)

    def test_nothing_to_judge_is_refused(self) -> None:
        nothing = JudgedSample(answers=(), reference=(), clusters=(), pairs=(), pair_clusters=())
        with pytest.raises(JudgeError, match="no responses to judge"):
            judge_quality(nothing, Planted())
