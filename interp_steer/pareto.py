"""Which cells trade trait against coherence without waste: the Pareto front of each group.

A front is a description of the scenarios it was drawn from. Its ends are maxima over many cells and
flatter like every in-sample choice; nothing on it was confirmed on other scenarios.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from interp_steer.candidates import Candidates, Group
from interp_steer.scoreboard import Scoreboard
from interp_steer.selection import CellScore, cell_score


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The cells of one group that no other cell of it beats."""

    group: Group
    """Method, scope and threat."""
    cells: tuple[CellScore, ...]
    """By falling trait and rising coherence; scores are in-sample."""
    n_candidates: int
    """Cells that were compared."""


def pareto_front(scores: Sequence[CellScore]) -> tuple[CellScore, ...]:
    """The scores that no other one dominates, by falling trait.

    One dominates another that has no more trait and no more coherence, and less of one of them.
    Equal scores do not dominate one another: all of them stay.
    """
    front: list[CellScore] = []
    for score in sorted(scores, key=lambda s: (-s.trait, -s.coherence)):
        last = front[-1] if front else None
        equal = last is not None and (last.trait, last.coherence) == (score.trait, score.coherence)
        if last is None or equal or score.coherence > last.coherence:
            front.append(score)
    return tuple(front)


def fronts(board: Scoreboard, groups: Sequence[Candidates]) -> tuple[Front, ...]:
    """The front of every group on the board's scenarios."""
    return tuple(
        Front(
            group=group.group,
            cells=pareto_front([cell_score(board, cell) for cell in group.cells]),
            n_candidates=len(group.cells),
        )
        for group in groups
    )
