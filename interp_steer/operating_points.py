"""The plan of a report, and the operating points that it finds among the rows.

What a sweep was told to run is what a report must find: a grid that is not finished is refused,
never chosen from, because the cells that happen to be there are not a fair sample. An earlier grid
of the same run competes too, but only as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from interp_steer.assignments import Assignment, everywhere
from interp_steer.candidates import Candidates, candidates, unsteered
from interp_steer.cells import ALIGNED, Cell
from interp_steer.config import Extra
from interp_steer.measuring import Measurer
from interp_steer.scenario_clusters import ScenarioClusters, cluster_scenarios
from interp_steer.scoreboard import Scoreboard
from interp_steer.selection import Choice, choose, in_sample_recovered
from interp_steer.splits import ScenarioSplit
from interp_steer.statistics import N_RESAMPLES
from interp_steer.two_fold import TwoFold, two_fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a report is made from, besides the rows."""

    split: ScenarioSplit
    """Which scenarios choose, report, and answer the extras."""
    coherence_share: float = 0.9
    """Share of the aligned baseline's coherence that an operating point must keep."""
    finalists: int = 1
    """Cells of each group that were run on the reporting scenarios (protocol `split`)."""
    control_draws: int = 0
    """Draws of each kind of control at each operating point."""
    extras: tuple[Extra, ...] = ()
    """Baselines and guards that were run."""
    screened: tuple[Cell, ...] | None = None
    """The grid of the last sweep, which must be complete; None lets every complete cell compete."""
    earlier: tuple[tuple[Cell, ...], ...] = ()
    """Grids of earlier sweeps; one competes where all of its cells are complete."""
    is_strict: bool = True
    """Whether extras that lack rows are refused; otherwise they are left out, and named."""
    n_resamples: int = N_RESAMPLES
    """Bootstrap samples behind every interval."""
    seed: int = 42
    """Seed of the bootstrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """An operating point and the rows that report it."""

    choice: Choice
    """The operating point, chosen on all selection scenarios."""
    in_sample_recovered: float
    """Recovered share on those scenarios (flattering)."""
    assignment: Assignment
    """For each reporting scenario the cell that was chosen without it."""
    folds: TwoFold | None
    """What the halves chose; None in the protocol `split`."""


class PointFinder:
    """Boards, competitors and choices of one plan."""

    def __init__(self, rows: pa.Table, plan: Plan) -> None:
        self.plan, split = plan, plan.split
        self.board = Scoreboard(rows, [s.id for s in split.selection])
        reporting = self.board
        if not split.halves:
            reporting = Scoreboard(rows, [s.id for s in split.reporting])
        self.clusters: ScenarioClusters = cluster_scenarios(split.scenarios)
        self.halves = tuple(tuple(s.id for s in half) for half in split.halves)
        self.measurer = Measurer(
            reporting,
            self.clusters.of,
            halves=self.halves,
            n_resamples=plan.n_resamples,
            seed=plan.seed,
        )
        self.left_out: list[str] = []
        """What takes no part, and why; for the reader."""
        self.groups: Sequence[Candidates] = candidates(self._competitors())

    def points(self) -> list[Chosen]:
        """One for each method, scope and threat.

        Raises:
            SelectionError: the sweep is incomplete, by the name of what is missing.
        """
        self.board.require(ALIGNED, *(unsteered(g.group.threat) for g in self.groups))
        choices = choose(
            self.board,
            cells=[cell for group in self.groups for cell in group.cells],
            per_group=1 if self.halves else max(1, self.plan.finalists),
            coherence_share=self.plan.coherence_share,
        )
        by_group = {group.group: group for group in self.groups}
        return [self._chosen(choice, by_group[choice.group]) for choice in choices]

    def _chosen(self, choice: Choice, group: Candidates) -> Chosen:
        ids = [scenario.id for scenario in self.plan.split.reporting]
        folds, assignment = None, everywhere(choice.cell, ids)
        if self.halves:
            first = set(self.halves[0])
            folds = two_fold(
                self.board,
                group,
                self.measurer.resamples(self.board.scenarios),
                half=np.array([int(s not in first) for s in self.board.scenarios]),
                coherence_share=self.plan.coherence_share,
            )
            assignment = folds.assignment(self.halves)
        return Chosen(
            choice=choice,
            in_sample_recovered=in_sample_recovered(choice.best[0], self.board),
            assignment=assignment,
            folds=folds,
        )

    def _competitors(self) -> list[Cell]:
        """Cells that may be chosen; a split lets whoever answered every selection scenario."""
        complete = self.board.complete()
        if self.plan.screened is None:
            return complete
        self.board.require(*self.plan.screened)
        if not self.halves:
            return complete
        there = set(complete)
        grids = [self.plan.screened]
        for grid in self.plan.earlier:
            if there.issuperset(grid):
                grids.append(grid)
            else:
                self.left_out.append(
                    f"an earlier grid of {len(grid)} cells, of which "
                    f"{len(set(grid) - there)} lack rows on some of these scenarios"
                )
        return list(dict.fromkeys(cell for grid in grids for cell in grid))
