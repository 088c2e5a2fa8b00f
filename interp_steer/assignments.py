"""Which cell's row stands for each scenario: the common form of everything that is measured.

A baseline has one cell everywhere; an operating point has one cell, or, two-fold, the one that the
other half chose; a control, a mean difference or a guard is the same assignment with every cell
changed alike. What a sweep must run and what a report looks up are thereby the same by
construction.
"""

from collections.abc import Callable, Iterable, Mapping

from interp_steer.cells import CONTROL_KINDS, MEAN_DIFFERENCE, Cell
from interp_steer.scenarios import Side

Assignment = Mapping[str, Cell]
"""By scenario id, the cell whose rows stand for it."""

GUARD_SIDES: tuple[Side, ...] = ("aligned", "neutral")
"""Prompts without a threat, under which a guard should cost nothing."""


def everywhere(cell: Cell, scenarios: Iterable[str]) -> Assignment:
    """One cell for every scenario."""
    return dict.fromkeys(scenarios, cell)


def restricted(assignment: Assignment, scenarios: Iterable[str]) -> Assignment:
    """The part of an assignment on some scenarios."""
    return {s: assignment[s] for s in scenarios if s in assignment}


def changed(assignment: Assignment, change: Callable[[Cell], Cell]) -> Assignment:
    """Every cell changed alike."""
    return {scenario: change(cell) for scenario, cell in assignment.items()}


def control_assignments(assignment: Assignment, *, n_draws: int) -> dict[str, list[Assignment]]:
    """By kind of control, one assignment for each draw."""
    return {
        kind: [with_control(assignment, f"{kind}:{draw}") for draw in range(n_draws)]
        for kind in CONTROL_KINDS
        if n_draws
    }


def with_control(assignment: Assignment, control: str = MEAN_DIFFERENCE) -> Assignment:
    """Same gate and signed shift, edited along another direction."""
    return changed(assignment, lambda cell: cell.with_control(control))


def as_guard(assignment: Assignment, side: Side) -> Assignment:
    """The same edits under a prompt without a threat."""
    return changed(assignment, lambda cell: cell.as_guard(side))


def by_cell(assignments: Iterable[Assignment]) -> dict[Cell, tuple[str, ...]]:
    """Every cell of some assignments with the scenarios that it must answer."""
    wanted: dict[Cell, dict[str, None]] = {}
    for assignment in assignments:
        for scenario, cell in assignment.items():
            wanted.setdefault(cell, {})[scenario] = None
    return {cell: tuple(scenarios) for cell, scenarios in wanted.items()}
