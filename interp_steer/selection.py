"""The operating point of each method, scope and threat: which cell is best where it was chosen.

The scores here are those of the scenarios that chose: they flatter, and `reporting` says what is
worth printing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from interp_steer.candidates import Candidates, Group, best_cells, candidates, unsteered
from interp_steer.cells import ALIGNED, Cell
from interp_steer.scenarios import Scenario
from interp_steer.scoreboard import Scoreboard
from interp_steer.splits import SelectionError
from interp_steer.statistics import recovered


@dataclass(frozen=True, slots=True, kw_only=True)
class CellScore:
    """Mean scores of one cell on some scenarios."""

    cell: Cell
    """The configuration."""
    trait: float
    """Mean trait, 0-100."""
    coherence: float
    """Mean coherence, 0-100."""
    n_rows: int
    """Generations with a trait score, which the mean is over."""
    n_missing: int = 0
    """Generations beside them that the judge could not score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What some scenarios say about one method, scope and threat."""

    group: Group
    """Method, scope and threat."""
    best: tuple[CellScore, ...]
    """Finalists, the best first; the first is the operating point."""
    keeps_coherence: bool
    """False where no cell kept enough coherence: `best` then holds the most coherent cell alone."""

    @property
    def method(self) -> str:
        """swfc, sttp or stmp."""
        return self.group.method

    @property
    def scope(self) -> str:
        """Scope of the edit."""
        return self.group.scope

    @property
    def threat(self) -> str:
        """malicious_prompt or prefill:K."""
        return self.group.threat

    @property
    def cell(self) -> Cell:
        """The operating point."""
        return self.best[0].cell


def choose(
    board: Scoreboard,
    *,
    cells: Sequence[Cell] | None = None,
    per_group: int = 1,
    coherence_share: float = 0.9,
) -> list[Choice]:
    """Choose the operating point of each method, scope and threat on the board's scenarios.

    Args:
        board: rows on the scenarios that choose, the aligned baseline among them.
        cells: who competes; every cell that answered all scenarios by default.
        per_group: at most so many finalists in each group.
        coherence_share: share of the aligned baseline's coherence that a cell must keep.

    Raises:
        SelectionError: no baseline, or no steered cell that answered every scenario.
    """
    complete = board.complete()
    board.require(ALIGNED)
    groups = candidates(complete if cells is None else cells)
    if not groups:
        raise SelectionError(
            "no steered cell has rows on every selection scenario; run `interp-steer sweep` again, "
            "it adds what is missing"
        )
    floor = coherence_share * cell_score(board, ALIGNED).coherence
    return [_choice(board, group, floor=floor, per_group=per_group) for group in groups]


def cell_score(board: Scoreboard, cell: Cell) -> CellScore:
    """Mean scores of one cell over all its scored rows on the board's scenarios.

    Raises:
        SelectionError: it has no rows, or the judge scored none of them.
    """
    trait, n = board.sums("trait", [cell])
    coherence, n_coherence = board.sums("coherence", [cell])
    board.require_scored("trait", [cell], n)
    board.require_scored("coherence", [cell], n_coherence)
    return CellScore(
        cell=cell,
        trait=float(trait.sum() / n.sum()),
        coherence=float(coherence.sum() / n_coherence.sum()),
        n_rows=int(n.sum()),
        n_missing=board.n_missing([cell] * len(board.scenarios), board.scenarios),
    )


def cell_scores(rows: pa.Table, scenarios: Iterable[Scenario]) -> list[CellScore]:
    """Mean trait and coherence of every cell over its rows on `scenarios`."""
    board = Scoreboard(rows, [scenario.id for scenario in scenarios])
    return [cell_score(board, cell) for cell in board.cells]


def baseline(scores: Sequence[CellScore], cell: Cell) -> CellScore:
    """The score of a baseline cell.

    Raises:
        SelectionError: the sweep has no rows of it on these scenarios.
    """
    for score in scores:
        if score.cell == cell:
            return score
    raise SelectionError(
        f"the sweep has no rows of {cell.label} on these scenarios; run `interp-steer sweep` on "
        "this run again, it adds what is missing"
    )


def in_sample_recovered(score: CellScore, board: Scoreboard) -> float:
    """Recovered share of a choice on the very scenarios that chose it (flattering)."""
    return recovered(
        steered=score.trait,
        malicious=cell_score(board, unsteered(score.cell.threat)).trait,
        aligned=cell_score(board, ALIGNED).trait,
    )


def _choice(board: Scoreboard, group: Candidates, *, floor: float, per_group: int) -> Choice:
    """The finalists: the best cell, then the best of the others that keep enough coherence."""
    scores = [cell_score(board, cell) for cell in group.cells]
    trait = np.array([[score.trait for score in scores]])
    coherence = np.array([[score.coherence for score in scores]])
    best: list[CellScore] = []
    keeps_coherence = True
    while len(best) < min(per_group, len(scores)):
        place, keeps = best_cells(
            trait, coherence, floor=np.array([floor]), neighbours=group.neighbours
        )
        if not best:
            keeps_coherence = bool(keeps[0])
        elif not keeps[0]:
            break
        best.append(scores[int(place[0])])
        coherence[0, place[0]] = -np.inf
    finalists = best if keeps_coherence else best[:1]
    return Choice(group=group.group, best=tuple(finalists), keeps_coherence=keeps_coherence)
