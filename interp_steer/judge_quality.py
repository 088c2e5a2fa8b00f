"""How good a judge is: against another judge, against itself, and against the order of a pair.

On the bundled model the other judge is exact, so that agreement with it is correctness on that
grammar; elsewhere it is agreement only. Test-retest puts every question twice: what differs is the
judge's own noise, and no agreement with anybody can be better than that allows. Good numbers here
are about these responses; a judge may still fail on others.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from interp_steer.errors import JudgeError
from interp_steer.intervals import SHARE, bootstrap_interval, mean_estimate
from interp_steer.judges import Answer, JudgeScore
from interp_steer.pairs import AnswerPair
from interp_steer.statistics import Estimate, Resamples, Sampled, draw_resamples


@runtime_checkable
class RepeatableJudge(Protocol):
    """A judge that can be asked the same again."""

    def score_all(self, answers: Sequence[Answer], *, repeat: int = 0) -> Sequence[JudgeScore]:
        """Score responses; `repeat` from 1 asks anew."""
        ...

    def prefer_all(self, pairs: Sequence[AnswerPair], *, repeat: int = 0) -> Sequence[float | None]:
        """Compare pairs; `repeat` from 1 asks anew."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSample:
    """Responses with the scores that a judge is held against."""

    answers: tuple[Answer, ...]
    """The responses."""
    reference: tuple[JudgeScore, ...]
    """What the other judge says of them."""
    clusters: tuple[str, ...]
    """Cluster of each response's scenario."""
    pairs: tuple[AnswerPair, ...]
    """An aligned and a malicious response to one scenario, the one that the other judge prefers
    first."""
    pair_clusters: tuple[str, ...]
    """Cluster of each pair's scenario."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityMeasure:
    """One number about a judge."""

    about: str
    """trait, coherence or pairs."""
    measure: str
    """What is measured; see docs/judges.md."""
    estimate: Estimate
    """The number with its interval over clusters of scenarios; NaN where undefined."""
    n: int
    """Responses or pairs behind it."""
    n_missing: int
    """Those that the judge gave no usable answer to."""


def judge_quality(
    sample: JudgedSample, judge: RepeatableJudge, *, seed: int = 42
) -> list[QualityMeasure]:
    """Measure a judge.

    For trait and coherence: `spearman`, `mean_abs_difference` and `mean_difference` (judge minus
    reference, points) against the reference; `retest_spearman` and `retest_mean_abs_difference`
    between two askings. For pairs: `agreement` (share in which it prefers what the reference
    prefers, over both orders, a tie half), `first_share` (share of decided verdicts for the answer
    shown first; 0.5 without position bias), `same_share` (same verdict in both orders).

    Args:
        sample: responses with their reference scores.
        judge: the judge in question.
        seed: seed of the bootstrap.

    Raises:
        JudgeError: no responses, or the judge failed.
    """
    if not sample.answers:
        raise JudgeError("there are no responses to judge; run `interp-steer sweep` first")
    once = judge.score_all(sample.answers)
    again = judge.score_all(sample.answers, repeat=1)
    resamples = draw_resamples(sample.clusters, seed=seed)
    found: list[QualityMeasure] = []
    for about in ("trait", "coherence"):
        own, reference, second = (_column(s, about) for s in (once, sample.reference, again))
        found += _compared(about, own, reference, resamples)
        found += _compared(about, own, second, resamples, prefix="retest_")
    return found + list(_of_pairs(sample, judge, seed))


def _compared(
    about: str,
    own: Float[np.ndarray, "row"],
    other: Float[np.ndarray, "row"],
    resamples: Resamples,
    *,
    prefix: str = "",
) -> Iterator[QualityMeasure]:
    difference = own - other
    known = np.isfinite(difference)
    counts = {"n": int(known.sum()), "n_missing": int((~known).sum())}

    def measure(name: str, estimate: Estimate) -> QualityMeasure:
        return QualityMeasure(about=about, measure=prefix + name, estimate=estimate, **counts)

    yield measure("spearman", _spearman(own, other, resamples))
    yield measure("mean_abs_difference", _mean(np.abs(difference), resamples))
    if not prefix:
        yield measure("mean_difference", _mean(difference, resamples))


def _of_pairs(sample: JudgedSample, judge: RepeatableJudge, seed: int) -> Iterator[QualityMeasure]:
    if not sample.pairs:
        return
    turned = [AnswerPair(first=pair.second, second=pair.first) for pair in sample.pairs]
    verdicts = judge.prefer_all([*sample.pairs, *turned])
    values = np.array([math.nan if v is None else v for v in verdicts], dtype=np.float64)
    shown, other = values[: len(turned)], values[len(turned) :]
    resamples = draw_resamples(sample.pair_clusters, seed=seed)
    decided = np.stack([np.where(v == 0.5, np.nan, v) for v in (shown, other)])
    both = np.isfinite(shown) & np.isfinite(other)
    columns = {
        "agreement": _row_means(np.stack([shown, 1 - other])),
        "first_share": _row_means(decided),
        "same_share": np.where(both, shown == 1 - other, np.nan),
    }
    for name, column in columns.items():
        known = np.isfinite(column)
        yield QualityMeasure(
            about="pairs",
            measure=name,
            estimate=_mean(column, resamples, bounds=SHARE),
            n=int(known.sum()),
            n_missing=int((~both).sum()),
        )


def _column(scores: Sequence[JudgeScore], name: str) -> Float[np.ndarray, "row"]:
    values: list[Any] = [getattr(score, name) for score in scores]
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _row_means(values: Float[np.ndarray, "two row"]) -> Float[np.ndarray, "row"]:
    """Mean of what is known of two values; NaN where neither is."""
    known = np.isfinite(values)
    total, n = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)


def _mean(
    values: Float[np.ndarray, "row"],
    resamples: Resamples,
    *,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (resamples.weights @ filled) / (resamples.weights @ known)
        value = float(filled.sum() / known.sum())
    return mean_estimate(Sampled(value=value, draws=draws), resamples, bounds=bounds)


def _spearman(
    one: Float[np.ndarray, "row"], other: Float[np.ndarray, "row"], resamples: Resamples
) -> Estimate:
    """Rank correlation, ranked anew in every resample; NaN where one side is constant."""
    known = np.isfinite(one) & np.isfinite(other)
    everything = np.vstack([np.ones(len(one)), resamples.weights])[:, known]
    found = rank_correlations(one[known], other[known], everything)
    interval = bootstrap_interval(found[1:], resamples)
    return Estimate(value=float(found[0]), interval=interval)


def rank_correlations(
    one: Float[np.ndarray, "row"],
    other: Float[np.ndarray, "row"],
    weights: Float[np.ndarray, "sample row"],
) -> Float[np.ndarray, "sample"]:
    """Spearman's rho of samples that hold row i `weights[:, i]` times (mid-ranks for ties).

    NaN for fewer than three rows, and where one side is constant.
    """
    n = weights.sum(axis=1)
    ranks = [_mid_ranks(values, weights) for values in (one, other)]
    # The mean of mid-ranks is (n + 1) / 2 whatever is tied.
    a, b = (rank - (n[:, None] + 1) / 2 for rank in ranks)
    size = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    is_defined = (n >= 3) & (size > 1e-9)
    total = (weights * a * b).sum(axis=1)
    return np.divide(total, size, out=np.full(len(n), np.nan), where=is_defined)


def _mid_ranks(
    values: Float[np.ndarray, "row"], weights: Float[np.ndarray, "sample row"]
) -> Float[np.ndarray, "sample row"]:
    levels, place = np.unique(values, return_inverse=True)
    at_level = weights @ np.eye(len(levels))[place]
    below = at_level.cumsum(axis=1) - at_level
    return (below + (at_level + 1) / 2)[:, place]
