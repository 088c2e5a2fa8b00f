"""What several configurations answered to one scenario: stored by the sweep, or generated now.

A configuration that the sweep has not run, or not on this scenario, can be generated from the page,
under the sweep's sampling and random numbers, so that it would say the same there. Such an answer
is shown and not kept: nothing but `interp-steer sweep` writes a sweep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from interp_steer.cells import ALIGNED, CELL_COLUMNS, MALICIOUS, NONE, Cell, steered_cell
from interp_steer.errors import InterpSteerError
from interp_steer.explorer.library import ExplorerError, RunView
from interp_steer.explorer.live import LiveRow
from interp_steer.explorer.selection import MOST_COMPARED, Selection
from interp_steer.explorer.stored import KEY_MARK, cell_key, keyed
from interp_steer.scenarios import Scenario
from interp_steer.scopes import Scope
from interp_steer.sweep_rows import sample_key, steering_spec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """One configuration's answer to the scenario."""

    cell: Cell
    """The configuration."""
    row: pd.Series | None
    """Its row of the sweep; None where the sweep has none for this scenario."""
    live: str | None = None
    """What was generated in the sweep's place, so far (untrusted); None where nothing was."""

    @property
    def text(self) -> str | None:
        """The response (untrusted); None where there is none yet."""
        return self.live if self.row is None else str(self.row["response"])


def cells_to_compare(view: RunView, selection: Selection) -> list[Cell]:
    """The configurations of the URL; by default the selected one between the baselines.

    Of the URL, those count that the sweep has or the model can be asked for.

    Raises:
        MissingStageError: the run has no sweep.
    """
    known = keyed(view.stored.cells)
    asked = [known.get(key) or cell_of_key(key, view) for key in selection.compared]
    if found := [cell for cell in asked if cell is not None]:
        return found[:MOST_COMPARED]
    return [
        *(cell for cell in (MALICIOUS,) if cell_key(cell) in known),
        selected_cell(selection),
        *(cell for cell in (ALIGNED,) if cell_key(cell) in known),
    ]


def selected_cell(selection: Selection) -> Cell:
    """The selection as a cell of a sweep."""
    return steered_cell(
        method=selection.method,
        layer=selection.layer,
        alpha=selection.alpha,
        scope=selection.scope,
    )


def cell_of_key(key: str, view: RunView) -> Cell | None:
    """The configuration that `cell_key` wrote as `key`; None where the run cannot generate it."""
    parts = key.split(KEY_MARK)
    if len(parts) != len(CELL_COLUMNS):
        return None
    row: dict[str, object] = dict(zip(CELL_COLUMNS, parts, strict=True))
    try:
        row |= {name: float(str(row[name])) if row[name] else None for name in ("layer", "alpha")}
        cell = Cell.from_row(row)
        if cell.is_steered:
            Scope.parse(cell.scope)
    except (InterpSteerError, ValueError, OverflowError):
        return None
    has_layer = cell.layer is None or cell.layer in view.layers
    return cell if has_layer and is_generable(cell) and cell_key(cell) == key else None


def is_generable(cell: Cell) -> bool:
    """Whether the explorer can generate it: controls and prefilled threats need the sweep's own."""
    return cell.control == NONE and cell.prefill is None


def answers(
    view: RunView,
    cells: Sequence[Cell],
    scenario: str,
    *,
    live: Mapping[str, str] | None = None,
) -> list[Answer]:
    """What each configuration answered.

    Args:
        view: the run.
        cells: configurations.
        scenario: scenario id.
        live: what was generated for this scenario, by cell key.
    """
    rows, found = view.stored.rows_of(scenario), []
    for cell in cells:
        key = cell_key(cell)
        mine = rows[rows["key"] == key]
        row = None if mine.empty else mine.iloc[0]
        found.append(Answer(cell=cell, row=row, live=(live or {}).get(key)))
    return found


def scenario_to_compare(view: RunView, selection: Selection) -> str:
    """The URL's scenario; by default the first that most configurations answered."""
    scenarios = view.stored.swept_scenarios
    return selection.scenario if selection.scenario in scenarios else scenarios[0]


def missing_cells(found: Sequence[Answer]) -> list[Cell]:
    """The configurations that have no answer yet and can be generated."""
    return [answer.cell for answer in found if answer.text is None and is_generable(answer.cell)]


def rows_to_generate(
    cells: Sequence[Cell], scenario: Scenario, selection: Selection
) -> list[LiveRow]:
    """One row a configuration, with the scenario's prompt and random numbers in the sweep.

    Raises:
        ExplorerError: nothing to generate.
    """
    if not cells:
        raise ExplorerError("the sweep has every answer that is compared: nothing to generate")
    return [
        LiveRow(
            label=cell.label,
            prompt=scenario.prompt(cell.side),
            spec=steering_spec(cell),
            read_layer=selection.layer,
            scenario=scenario.id,
            side=cell.side,
            sample_key=sample_key(scenario.id, 0),
        )
        for cell in cells
    ]
