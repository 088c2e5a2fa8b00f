"""Two-fold selection: each half of the scenarios chooses for the other, and both are pooled.

No scenario reports a cell that it helped to choose, and yet every scenario reports. The interval
repeats the whole procedure in every bootstrap sample: both halves are resampled and choose anew, so
that it holds the luck of the choice as well as that of the scenarios. What it describes is the
procedure with half of the scenarios, not one fixed cell; the operating point, chosen on all
scenarios, is expected to do at least about as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp_steer.candidates import Candidates, Group, best_cells
from interp_steer.cells import ALIGNED, Cell
from interp_steer.scoreboard import Scoreboard
from interp_steer.statistics import Resamples, Sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldChoice:
    """What one half chose for the other."""

    cell: Cell
    """Its choice."""
    keeps_coherence: bool
    """False where no cell kept enough coherence on this half."""
    same_in_resamples: float
    """Share of bootstrap samples, 0-1, in which this half chooses the same cell again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoFold:
    """One group's choices, and the pooled scores of each on the half that did not choose it."""

    group: Group
    """Method, scope and threat."""
    folds: tuple[FoldChoice, FoldChoice]
    """What the first half chose, and what the second."""
    trait: Sampled
    """Pooled mean trait; the draws choose anew."""
    coherence: Sampled
    """Pooled mean coherence, likewise."""

    def assignment(self, halves: Sequence[Sequence[str]]) -> Mapping[str, Cell]:
        """For each scenario the cell that the other half chose."""
        chooser = {0: self.folds[1], 1: self.folds[0]}
        return {scenario: chooser[half].cell for half in (0, 1) for scenario in halves[half]}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Half:
    """Sums over one half, for the scenarios themselves (sample 0) and every resample of them."""

    trait: Float[np.ndarray, "sample cell"]
    coherence: Float[np.ndarray, "sample cell"]
    n: Float[np.ndarray, "sample cell"]
    n_coherence: Float[np.ndarray, "sample cell"]
    aligned_coherence: Float[np.ndarray, "sample"]

    def best(self, group: Candidates, share: float) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(invalid="ignore"):  # 0 / 0: a judge may have scored no row of a cell
            means = self.trait / self.n, self.coherence / self.n_coherence
        return best_cells(
            *means,
            floor=share * self.aligned_coherence,
            neighbours=group.neighbours,
        )


def two_fold(
    board: Scoreboard,
    group: Candidates,
    resamples: Resamples,
    *,
    half: Int[np.ndarray, "scenario"],
    coherence_share: float = 0.9,
) -> TwoFold:
    """Choose on each half, report on the other, pool; again in every resample.

    Args:
        board: rows of every candidate and of the aligned baseline on every scenario.
        group: who competes.
        resamples: of the board's scenarios, with the halves as strata.
        half: 0 or 1 for each of the board's scenarios.
        coherence_share: share of the aligned baseline's coherence that a cell must keep.
    """
    everything = np.vstack([np.ones(len(board.scenarios)), resamples.weights])
    halves = [_half(board, group, everything, half == part) for part in (0, 1)]
    (first, first_keeps), (second, second_keeps) = (h.best(group, coherence_share) for h in halves)
    # the first half's choice is judged on the second half, and the other way round
    judged = ((halves[1], first), (halves[0], second))

    def pooled(name: str) -> np.ndarray:
        return np.add(*(_at(getattr(h, name), best) for h, best in judged))

    with np.errstate(invalid="ignore"):
        trait = pooled("trait") / pooled("n")
        coherence = pooled("coherence") / pooled("n_coherence")
    return TwoFold(
        group=group.group,
        folds=(_fold(group, first, first_keeps), _fold(group, second, second_keeps)),
        trait=Sampled(value=float(trait[0]), draws=trait[1:]),
        coherence=Sampled(value=float(coherence[0]), draws=coherence[1:]),
    )


def _half(
    board: Scoreboard,
    group: Candidates,
    weights: Float[np.ndarray, "sample scenario"],
    here: np.ndarray,
) -> _Half:
    def summed(column: str, cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray]:
        sums, counts = board.sums(column, cells)
        return weights[:, here] @ sums[:, here].T, weights[:, here] @ counts[:, here].T

    trait, n = summed("trait", group.cells)
    coherence, n_coherence = summed("coherence", group.cells)
    aligned, n_aligned = summed("coherence", [ALIGNED])
    with np.errstate(invalid="ignore"):
        aligned_coherence = (aligned / n_aligned)[:, 0]
    return _Half(
        trait=trait,
        coherence=coherence,
        n=n,
        n_coherence=n_coherence,
        aligned_coherence=aligned_coherence,
    )


def _at(
    table: Float[np.ndarray, "sample cell"], place: Int[np.ndarray, "sample"]
) -> Float[np.ndarray, "sample"]:
    return table[np.arange(len(place)), place]


def _fold(group: Candidates, best: np.ndarray, keeps: np.ndarray) -> FoldChoice:
    return FoldChoice(
        cell=group.cells[int(best[0])],
        keeps_coherence=bool(keeps[0]),
        same_in_resamples=float((best[1:] == best[0]).mean()),
    )
