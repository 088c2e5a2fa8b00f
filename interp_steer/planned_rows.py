"""How many generations a study will make, counted by the functions that plan a real one.

What stands beside the operating points is counted as if every method, scope and threat had one of
its own, which is the most there can be.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from interp_steer.assignments import everywhere
from interp_steer.candidates import candidates
from interp_steer.cells import Cell
from interp_steer.config import SweepConfig
from interp_steer.operating_points import Chosen
from interp_steer.scenarios import Scenario, Split
from interp_steer.selection import CellScore, Choice
from interp_steer.sweep_plan import (
    beside_blocks,
    grid_cells,
    grid_record,
    planned_split,
    screen_blocks,
)
from interp_steer.sweep_rows import Block


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCount:
    """Generations of a study."""

    cells: int
    """Configurations of the grid."""
    training: int
    """Training responses, both sides."""
    baselines: int
    """Unsteered responses to the test scenarios."""
    grid: int
    """Responses to the grid."""
    beside: int
    """Finalists, controls, mean difference, defence and guards, at most."""

    @property
    def sweep(self) -> int:
        """Rows of the sweep."""
        return self.baselines + self.grid + self.beside


def count_rows(
    scenarios: Sequence[Scenario],
    config: SweepConfig,
    *,
    layers: Sequence[int],
    responses_per_scenario: int = 1,
    seed: int = 42,
) -> RowCount:
    """Count what `fit` and `sweep` would generate.

    Args:
        scenarios: of one trait, both splits.
        config: of the sweep.
        layers: those that get a probe, all of the model's.
        responses_per_scenario: of `fit`.
        seed: of the split.

    Raises:
        GridError: the grid does not fit; see `sweep_plan.grid_record`.
        SelectionError: too few test scenarios for the protocol.
    """
    test = tuple(scenario for scenario in scenarios if scenario.split == "test")
    grid = grid_cells(grid_record(config, layers))
    split = planned_split(test, config, seed=seed)
    baselines, screened = screen_blocks(grid, split)
    reporting = [scenario.id for scenario in split.reporting]
    points = [
        Chosen(
            choice=Choice(
                group=group.group,
                best=tuple(_unscored(cell) for cell in group.cells[: config.finalists]),
                keeps_coherence=True,
            ),
            in_sample_recovered=0.0,
            assignment=everywhere(group.cells[0], reporting),
            folds=None,
        )
        for group in candidates(grid)
    ]
    known = set(_rows(baselines)) | set(_rows(screened))
    beside = {row for block in beside_blocks(points, split, config) for row in _rows(block)}
    n_train = sum(scenario.split == "train" for scenario in scenarios)
    return RowCount(
        cells=len(grid),
        training=2 * n_train * responses_per_scenario,
        baselines=_n_rows(baselines),
        grid=len(known) - _n_rows(baselines),
        beside=len(beside - known),
    )


def _unscored(cell: Cell) -> CellScore:
    return CellScore(cell=cell, trait=0.0, coherence=0.0, n_rows=0)


def _rows(block: Block) -> Iterator[tuple[Cell, str]]:
    """Every row of a block, as the cell and the scenario that tell it from others."""
    return product(block.cells, (scenario.id for scenario in block.scenarios))


def _n_rows(block: Block) -> int:
    return len(block.cells) * len(block.scenarios)


def stand_in_scenarios(n_train: int, n_test: int, *, n_categories: int = 8) -> tuple[Scenario, ...]:
    """Scenarios that only their number says anything about, for a plan without a file."""
    train: tuple[Split, int] = ("train", n_train)
    test: tuple[Split, int] = ("test", n_test)
    kinds: list[tuple[Split, int]] = [
        (split, index) for split, n in (train, test) for index in range(n)
    ]
    return tuple(
        Scenario(
            id=f"{split}-{index}",
            trait="planned",
            split=split,
            category=f"category {index % n_categories}",
            system_aligned=f"aligned {split} {index}",
            system_malicious=f"malicious {split} {index}",
            user=(f"request {split} {index}",),
        )
        for split, index in kinds
    )
