"""How well a direction separates the two sides: on the responses it was fitted to, and on others.

With fewer responses than dimensions a probe separates anything: pure noise at 50 responses a class
gives an in-sample Cohen's d of about 5.6 at d_model 128. The cross-fitted figures are the ones to
believe: every response is scored by a direction fitted without its scenario (and, where system
prompts repeat, without its system prompt). They say that the trait is linearly readable at a layer,
not that the model uses it there.
"""

import logging
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from interp_steer.errors import ProbeError
from interp_steer.resamples import Resamples

logger = logging.getLogger(__name__)

SidePair = tuple[Sequence[str], Sequence[str]]
"""One name per aligned response, and one per malicious response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readability:
    """Separation of the two sides along a direction; margins are signed distances to m."""

    cohens_d: float
    """(mean margin aligned - mean margin malicious) / pooled std; NaN where that std is zero."""
    accuracy: float
    """Share of responses on their side of the boundary (rho >= m is aligned), 0 to 1."""
    auroc: float
    """Probability that an aligned response lies above a malicious one (ties half), 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """Which fold holds each response out, and how that was decided."""

    of_response: Int[np.ndarray, "response"]
    """Fold of each response, from 0."""
    n_folds: int
    """Number of folds, at most the number of groups."""
    n_groups: int
    """Number of groups, none of which is split."""
    grouped_by: str
    """What a group is, in words (recorded in the probes' conventions)."""


def readability(
    margins: Float[np.ndarray, "response"], is_aligned: Bool[np.ndarray, "response"]
) -> Readability:
    """Summarise `margins` (rho - m).

    d = (mean+ - mean-) / sqrt((n+ s+^2 + n- s-^2) / (n+ + n-)), s with ddof = 0.

    Examples:
        >>> margins = np.array([3.0, 1.0, 2.0, -2.0])
        >>> found = readability(margins, np.array([True, True, False, False]))
        >>> round(found.cohens_d, 2), found.accuracy, found.auroc
        (1.26, 0.75, 0.75)
    """
    above, below = margins[is_aligned], margins[~is_aligned]
    spread = math.sqrt((above.size * above.var() + below.size * below.var()) / margins.size)
    # A spread at the level of rounding is that of identical responses.
    resolved = spread > 1e-12 * float(np.abs(margins).max(initial=0.0))
    ranks = float(rankdata(margins)[is_aligned].sum())
    wins = ranks - above.size * (above.size + 1) / 2
    return Readability(
        cohens_d=float(above.mean() - below.mean()) / spread if resolved else math.nan,
        accuracy=float(((margins >= 0) == is_aligned).mean()),
        auroc=wins / (above.size * below.size),
    )


def crossfit_samples(folds: Folds, is_aligned: Bool[np.ndarray, "response"]) -> Resamples:
    """Return one sample a fold, to fit on: the responses that it does not hold out.

    Raises:
        ProbeError: the responses outside some fold are all of one side.
    """
    kept = folds.of_response != np.arange(folds.n_folds)[:, None]
    samples = Resamples.subsets(kept, is_aligned)
    if (bad := np.flatnonzero(samples.one_sided())).size:
        raise ProbeError(
            f"cross-fitting needs both sides outside every fold, but outside fold {bad[0]} only "
            "one is left; give scenarios with responses of both sides, or more scenarios"
        )
    return samples


def crossfit_margins(
    folds: Folds, margins: Float[np.ndarray, "fold response"]
) -> Float[np.ndarray, "response"]:
    """Score every response by the direction of the folds that do not hold it.

    Directions of different folds are unit vectors with boundaries of their own, so margins share
    one unit (activation units from m) and are pooled over folds; per-fold standardisation would
    divide by the spread of a handful of held-out responses.

    Args:
        folds: who is held out when.
        margins: of all responses, from the plane fitted to each of `crossfit_samples`.
    """
    return margins[folds.of_response, np.arange(len(folds.of_response))]


def make_folds(
    scenario_ids: SidePair, system_ids: SidePair | None = None, *, n_folds: int = 5, seed: int = 42
) -> Folds:
    """Deal groups of responses into folds, balancing both sides.

    A group is a connected component: responses that share a scenario or a system prompt are never
    parted. Where system prompts connect everything (each scenario answered under all of them), no
    two groups are left; then scenarios alone group, a warning is logged and `grouped_by` says so.
    Where groups are fewer than `n_folds`, every group is a fold.

    Args:
        scenario_ids: scenario of each aligned and of each malicious response.
        system_ids: system prompt (or its name) of each, where they repeat across scenarios.
        n_folds: at least 2.
        seed: decides, with the ids alone, which group goes where.

    Raises:
        ProbeError: fewer than two scenarios or folds.
    """
    scenarios = [*scenario_ids[0], *scenario_ids[1]]
    is_aligned = np.arange(len(scenarios)) < len(scenario_ids[0])
    if n_folds < 2:
        raise ProbeError(f"cross-fitting needs at least 2 folds, got n_folds={n_folds}")
    if (n_scenarios := len(set(scenarios))) < 2:
        raise ProbeError(
            f"cross-fitting holds out whole scenarios and needs at least 2, got {n_scenarios}; "
            "collect responses to more scenarios"
        )
    groups, grouped_by = _group(scenarios, system_ids)
    names = sorted(set(groups))
    n_folds = min(n_folds, len(names))
    counts = {name: np.zeros(2, dtype=np.int64) for name in names}
    for group, aligned in zip(groups, is_aligned, strict=True):
        counts[group][int(aligned)] += 1
    fold_of = _deal(counts, n_folds, seed)
    return Folds(
        of_response=np.array([fold_of[group] for group in groups]),
        n_folds=n_folds,
        n_groups=len(names),
        grouped_by=grouped_by,
    )


def _group(scenarios: list[str], system_ids: SidePair | None) -> tuple[list[str], str]:
    if system_ids is None:
        return scenarios, "scenario"
    systems = [*system_ids[0], *system_ids[1]]
    groups = _components(
        [("scenario", scenario) for scenario in scenarios], [("system", name) for name in systems]
    )
    if len(set(groups)) >= 2:
        return groups, "scenario and system prompt"
    logger.warning(
        "system prompts connect all scenarios, so none can be held out; cross-fitting is grouped "
        "by scenario alone and does not show that the probe carries over to other system prompts"
    )
    return scenarios, "scenario (system prompts connect all scenarios)"


def _components(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[str]:
    """Name each pair (left[i], right[i]) by the smallest left node it is connected to."""
    parent: dict[Hashable, Hashable] = {node: node for node in (*left, *right)}

    def root(node: Hashable) -> Hashable:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for one, other in zip(left, right, strict=True):
        parent[root(other)] = root(one)
    smallest: dict[Hashable, str] = {}
    for node in sorted(set(left), key=str, reverse=True):
        smallest[root(node)] = str(node)
    return [smallest[root(node)] for node in left]


def _deal(counts: dict[str, Int[np.ndarray, "2"]], n_folds: int, seed: int) -> dict[str, int]:
    """Largest groups first, each to the fold that leaves the two sides most evenly spread."""
    order = np.random.default_rng(seed).permutation(len(counts))
    shuffled = [list(counts)[place] for place in order]
    shuffled.sort(key=lambda name: -int(counts[name].sum()))
    filled = np.zeros((n_folds, 2), dtype=np.int64)
    fold_of: dict[str, int] = {}
    for name in shuffled:
        # What adding to a fold costs in the sum of squares of (fold, side) counts.
        fold = int(np.argmin(((2 * filled + counts[name]) * counts[name]).sum(axis=1)))
        fold_of[name] = fold
        filled[fold] += counts[name]
    return fold_of
