"""From log-odds to effects: how much of the malicious prompt's work a patch undoes, with intervals.

The effect is a ratio of sums over contrasts, numerator and denominator resampled together by
scenario (a mean of single ratios would be ruled by contrasts whose gap is near zero). The rank
correlation with the sweep compares orders of layers, and few layers make a loose one: its interval
resamples the scan's scenarios and takes the sweep as it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata

from interp_steer.analysis.bootstrap import ClusterBootstrap
from interp_steer.analysis.contrasts import LogOdds
from interp_steer.statistics import Estimate, Sampled

UNITS = ("summed", "per_token")
"""How log-probabilities of a response are put together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectScale:
    """The two ends between which effects are measured: unpatched log-odds under either prompt."""

    boot: ClusterBootstrap
    """Cluster of each contrast, in the order of the log-odds."""
    aligned: LogOdds
    """Under the aligned prompts: effect 1."""
    malicious: LogOdds
    """Under the malicious prompts: effect 0."""

    def effect(self, patched: LogOdds, unit: str) -> Estimate:
        """(LO_patched - LO_malicious) / (LO_aligned - LO_malicious), with its interval."""
        return self.boot.ratio(*self._parts(patched, unit))

    def sampled(self, patched: LogOdds, unit: str) -> Sampled:
        """The effect in each bootstrap sample; the same samples for every patch."""
        return self.boot.sampled_ratio(*self._parts(patched, unit))

    def _parts(
        self, patched: LogOdds, unit: str
    ) -> tuple[Float[np.ndarray, "contrast"], Float[np.ndarray, "contrast"]]:
        low, high, now = (
            getattr(odds, unit).numpy() for odds in (self.malicious, self.aligned, patched)
        )
        return now - low, high - low


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rho (mid-ranks for ties); NaN with fewer than three pairs or a constant side."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if math.isfinite(a + b)]
    if len(pairs) < 3:
        return math.nan
    ranks = np.array([rankdata(side) for side in zip(*pairs, strict=True)])
    if (ranks.std(axis=1) == 0).any():
        return math.nan
    return float(np.corrcoef(ranks)[0, 1])


def rank_correlation_estimate(
    scale: EffectScale, by_layer: Mapping[int, LogOdds], recovery: Mapping[int, float], *, unit: str
) -> Estimate:
    """Rank correlation, across layers, of the effects with the sweep's recovered shares.

    Args:
        scale: the ends of the effect.
        by_layer: patched log-odds of each scanned layer.
        recovery: recovered share of each swept layer; only layers with both count.
        unit: summed or per_token.
    """
    layers = [layer for layer in by_layer if math.isfinite(recovery.get(layer, math.nan))]
    wanted = [recovery[layer] for layer in layers]
    effects = [scale.sampled(by_layer[layer], unit) for layer in layers]
    value = rank_correlation([effect.value for effect in effects], wanted)
    draws = np.empty(0)
    if math.isfinite(value):
        columns = np.stack([effect.draws for effect in effects], axis=1)
        draws = _row_correlations(columns, np.array(wanted))
    return scale.boot.estimate(Sampled(value=value, draws=draws))


def _row_correlations(
    draws: Float[np.ndarray, "resample layer"], wanted: Float[np.ndarray, "layer"]
) -> Float[np.ndarray, "resample"]:
    """Rank correlation of every row with `wanted`; NaN for a constant row."""
    ranks = rankdata(draws, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    order = rankdata(wanted) - (len(wanted) + 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return ranks @ order / np.sqrt((ranks**2).sum(axis=1) * (order**2).sum())


def joined(parts: Sequence[LogOdds]) -> LogOdds:
    """Log-odds of several batches as one."""
    return LogOdds(
        summed=torch.cat([part.summed for part in parts]),
        per_token=torch.cat([part.per_token for part in parts]),
    )
