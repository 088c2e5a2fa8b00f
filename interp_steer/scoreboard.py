"""The rows of a sweep as arrays, cell by scenario, so that choosing and resampling are arithmetic.

A table of rows is turned into sums and counts once; means, choices and bootstrap draws of hundreds
of cells are matrix products from there. Nothing is filled in: a cell without a row on a scenario
has count 0 there, and who needs that row must refuse or leave the cell out. A row whose judge gave
no usable number is there all the same: it is left out of that column's sums, and counted.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from interp_steer.cells import ALIGNED, CELL_COLUMNS, Cell
from interp_steer.splits import SelectionError
from interp_steer.statistics import Scores

JUDGED = ("trait", "coherence")
"""Columns in which a judge may have left gaps (NaN)."""


class Scoreboard:
    """Scores of every cell on every one of some scenarios, summed over responses."""

    def __init__(self, rows: pa.Table, scenarios: Sequence[str]) -> None:
        """Index the rows.

        Args:
            rows: sweep rows; those on other scenarios are left out.
            scenarios: ids, each once; fixes the order of the columns.
        """
        self.scenarios = tuple(scenarios)
        self._column_of = {scenario: place for place, scenario in enumerate(self.scenarios)}
        self._rows = rows.filter(pc.field("scenario").isin(self.scenarios))
        self.cells, self._cell_of_row = _cells(self._rows)
        self._row_of = {cell: place for place, cell in enumerate(self.cells)}
        places = [self._column_of[scenario] for scenario in self._rows["scenario"].to_pylist()]
        self._scenario_of_row = np.array(places, dtype=np.int64)
        self._sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        here = np.full(len(self._scenario_of_row), True)
        self.n_rows: Float[np.ndarray, "cell scenario"] = self._summed(here * 1.0, here)[1]
        """Rows of each cell on each scenario, scored or not."""

    def has(self, column: str) -> bool:
        """Whether the rows have this column at all (older sweeps lack measures)."""
        return column in self._rows.column_names

    def answered(self, cell: Cell) -> frozenset[str]:
        """Scenarios that the cell has rows on."""
        if cell not in self._row_of:
            return frozenset()
        counts = self.n_rows[self._row_of[cell]]
        return frozenset(s for s, n in zip(self.scenarios, counts, strict=True) if n)

    def complete(self) -> list[Cell]:
        """Cells that answered every scenario, as often as the aligned baseline did."""
        if ALIGNED not in self._row_of:
            return []
        counts = self.n_rows
        full = (counts > 0) & (counts == counts[self._row_of[ALIGNED]])
        return [cell for cell, whole in zip(self.cells, full.all(axis=1), strict=True) if whole]

    def require(self, *cells: Cell) -> None:
        """Refuse unless every one of `cells` has rows on every scenario.

        Raises:
            SelectionError: naming the first that lacks some, and how many cells do.
        """
        missing = {c: len(self.scenarios) - len(self.answered(c)) for c in dict.fromkeys(cells)}
        lacking = [(cell, n) for cell, n in missing.items() if n]
        if lacking:
            cell, n = lacking[0]
            count = f"; so do {len(lacking) - 1} more of {len(missing)} cells" * (len(lacking) > 1)
            raise SelectionError(
                f"the sweep is incomplete: it lacks rows of {cell.label} on {n} of "
                f"{len(self.scenarios)} scenarios{count}. Run `interp-steer sweep` on this run "
                "again, it adds what is missing"
            )

    def scores(self, column: str, cells: Sequence[Cell], scenarios: Sequence[str]) -> Scores | None:
        """Scores of one cell a scenario: `cells[i]` on `scenarios[i]`.

        Returns:
            None where the column is not there or some scenario has no value in it; a judge's column
            may have gaps, where the count is 0.

        Raises:
            SelectionError: a cell has no rows at all, or the judge scored none of these.
        """
        if not self.has(column):
            return None
        sums, counts = self._table(column)
        at = (self._rows_of(cells), self._columns_of(scenarios))
        if column in JUDGED:
            self.require_scored(column, dict.fromkeys(cells), counts[at])
        elif (counts[at] == 0).any():
            return None
        return Scores(sums=sums[at], counts=counts[at])

    def n_missing(self, cells: Sequence[Cell], scenarios: Sequence[str]) -> int:
        """Rows of `cells[i]` on `scenarios[i]` that lack a trait, or a coherence where more do."""
        at = (self._rows_of(cells), self._columns_of(scenarios))
        return max(int((self.n_rows[at] - self._table(name)[1][at]).sum()) for name in JUDGED)

    def require_scored(
        self, column: str, cells: Iterable[Cell], counts: Float[np.ndarray, "*any"]
    ) -> None:
        """Refuse unless the judge gave at least one number.

        Raises:
            SelectionError: naming a cell.
        """
        if not counts.any():
            raise SelectionError(
                f"the judge gave no usable {column} for any row of {next(iter(cells)).label} on "
                f"{len(self.scenarios)} scenarios, so that nothing can be said about it; see to "
                "the judge and score the rows again in a new run directory"
            )

    def sums(
        self, column: str, cells: Sequence[Cell]
    ) -> tuple[Float[np.ndarray, "cell scenario"], Float[np.ndarray, "cell scenario"]]:
        """Sums and counts of a column for each of `cells` on every scenario."""
        sums, counts = self._table(column)
        places = self._rows_of(cells)
        return sums[places], counts[places]

    def _rows_of(self, cells: Sequence[Cell]) -> Int[np.ndarray, "cell"]:
        self.require(*(cell for cell in cells if cell not in self._row_of))
        return np.array([self._row_of[cell] for cell in cells], dtype=np.int64)

    def _columns_of(self, scenarios: Iterable[str]) -> Int[np.ndarray, "scenario"]:
        return np.array([self._column_of[scenario] for scenario in scenarios], dtype=np.int64)

    def _table(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        if column not in self._sums:
            values = self._rows[column].cast(pa.float64()).to_numpy()
            self._sums[column] = self._summed(values, np.isfinite(values))
        return self._sums[column]

    def _summed(
        self, values: Float[np.ndarray, "row"], known: Bool[np.ndarray, "row"]
    ) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(self.cells), len(self.scenarios))
        at = (self._cell_of_row * shape[1] + self._scenario_of_row)[known]
        size = shape[0] * shape[1]
        counts = np.bincount(at, minlength=size).astype(np.float64)
        sums = np.bincount(at, weights=values[known], minlength=size)
        return sums.reshape(shape), counts.reshape(shape)


def _cells(rows: pa.Table) -> tuple[tuple[Cell, ...], Int[np.ndarray, "row"]]:
    """The cells of the rows, in the order of their columns, and the place of each row's cell."""
    frame = rows.select(CELL_COLUMNS).to_pandas()
    codes = frame.groupby(list(CELL_COLUMNS), dropna=False, sort=True).ngroup().to_numpy()
    _, first = np.unique(codes, return_index=True)
    cells = tuple(Cell.from_row(rows_at) for rows_at in frame.iloc[first].to_dict("records"))
    return cells, codes.astype(np.int64)
