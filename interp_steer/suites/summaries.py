"""From a suite's rows to what is shown: means with intervals, as a table and as a figure's numbers.

Clusters are resampled (scenarios that share a prompt or an entity, or single questions), never
rows. All configurations of a suite are drawn together, so that a change against the unsteered model
is paired. Intervals hold the configurations fixed: that an operating point was chosen elsewhere is
not in them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from interp_steer.analysis.bootstrap import Bounds, ClusterBootstrap
from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.cells import CELL_COLUMNS, Cell
from interp_steer.files import atomic_write_bytes
from interp_steer.intervals import PERCENT, SHARE, Estimate
from interp_steer.suites.configurations import Configurations, printed_name
from interp_steer.suites.evaluation import Evaluation
from interp_steer.table_files import Column, Table, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number of a suite's rows."""

    name: str
    """Its column."""
    title: str
    """Head of a table and title of a panel, with the unit."""
    bounds: Bounds | None = None
    """Its range, where it has one."""
    digits: int = 1
    """Decimals in print."""


TRAIT = Measure(name="trait", title="trait (0-100)", bounds=PERCENT)
COHERENCE = Measure(name="coherence", title="coherence (0-100)", bounds=PERCENT)


def share(name: str, title: str) -> Measure:
    """A measure that is a share, 0-1."""
    return Measure(name=name, title=f"{title} (share)", bounds=SHARE, digits=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a suite found, before anything is written."""

    tables: tuple[Table, ...]
    """For the terminal, and as CSV, Markdown and LaTeX."""
    figure: pd.DataFrame | None = None
    """Numbers of the suite's figure (`plots.suites.SUITE_COLUMNS`, or `plots.suite_points`'s
    `POINT_COLUMNS`), where it has one."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""


def rows_of_cells(rows: pa.Table, cells: Iterable[Cell]) -> pd.DataFrame:
    """The rows of some configurations, with their `cell`; others of the suite are left out."""
    frame = rows.to_pandas()
    found = [Cell.from_row(row) for row in rows.select(CELL_COLUMNS).to_pylist()]
    frame["cell"] = found
    wanted = set(cells)
    return rows_where(frame, [cell in wanted for cell in found]).reset_index(drop=True)


def cells_of(frame: pd.DataFrame) -> list[Cell]:
    """The configuration of every row of a frame from `rows_of_cells`."""
    return frame["cell"].tolist()


def rows_of_cell(frame: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The rows of one configuration."""
    return rows_where(frame, [other == cell for other in cells_of(frame)])


def estimates(frame: pd.DataFrame, measures: Sequence[Measure]) -> dict[str, Estimate]:
    """The mean of each measure over the rows of a frame that has the column `cluster`."""
    boot = ClusterBootstrap(frame["cluster"].astype(str).tolist())
    return {m.name: boot.mean(numbers(frame, m.name), bounds=m.bounds) for m in measures}


def paired_change(frame: pd.DataFrame, base: pd.DataFrame, measure: Measure) -> Estimate:
    """Mean of a measure less that of the same items in `base` (columns `item` and `cluster`).

    Items of one of the two alone are left out, and so is what was not measured.
    """
    own, other = (_by_item(one, measure) for one in (frame, base))
    cluster = dict(zip(texts(frame, "item"), texts(frame, "cluster"), strict=True))
    both = [item for item in own if item in other]
    boot = ClusterBootstrap([cluster[item] for item in both])
    return boot.mean(np.array([own[item] - other[item] for item in both], dtype=np.float64))


def _by_item(frame: pd.DataFrame, measure: Measure) -> dict[str, float]:
    """The mean of each item, over what was measured of it."""
    values: dict[str, list[float]] = {}
    for item, value in zip(texts(frame, "item"), numbers(frame, measure.name), strict=True):
        values.setdefault(item, []).append(float(value))
    known = {item: [v for v in some if math.isfinite(v)] for item, some in values.items()}
    return {item: sum(some) / len(some) for item, some in known.items() if some}


def configuration_columns() -> tuple[Column, ...]:
    """The columns that name a configuration in print."""
    return (
        Column(name="configuration", title="configuration"),
        Column(name="layer", title="layer"),
        Column(name="alpha", title="α", digits=None),
        Column(name="operating_point", title="operating point"),
    )


def configuration_values(cell: Cell, chosen: Configurations) -> dict[str, Value]:
    """Their values."""
    return {
        "configuration": printed_name(cell),
        "layer": cell.layer,
        "alpha": cell.alpha,
        "operating_point": "yes" if chosen.is_point(cell) else "",
    }


def measure_columns(measures: Sequence[Measure]) -> tuple[Column, ...]:
    """The columns of measures, and of n."""
    shown = (Column(name=m.name, title=m.title, digits=m.digits) for m in measures)
    return (*shown, Column(name="n", title="n"))


def figure_row(panel: str, series: str, x: float, estimate: Estimate, n: int) -> dict[str, Any]:
    """One point of a suite's figure."""
    return {
        "panel": panel,
        "series": series,
        "x": float(x),
        "value": estimate.value,
        "low": estimate.interval.low,
        "high": estimate.interval.high,
        "n": n,
    }


def point_row(panel: str, group: str, series: str, estimate: Estimate, n: int) -> dict[str, Any]:
    """One point of a suite's figure whose configurations have no order."""
    return {
        "panel": panel,
        "group": group,
        "series": series,
        "value": estimate.value,
        "low": estimate.interval.low,
        "high": estimate.interval.high,
        "n": n,
    }


def write_summary(evaluation: Evaluation, summary: Summary) -> str:
    """Write the tables beside the rows, as CSV, Markdown and LaTeX; return them as text."""
    parts: list[str] = []
    with evaluation.store.lock():
        for table in summary.tables:
            stem = evaluation.store.path / table.name
            for ending, text in (
                (".csv", table.as_csv()),
                (".md", table.as_markdown()),
                (".tex", table.as_latex()),
            ):
                atomic_write_bytes(stem.with_suffix(ending), text.encode("utf-8"))
            parts.append(table.as_markdown().rstrip())
    parts += [f"note: {note}" for note in summary.notes]
    return "\n\n".join([*parts, f"written: {evaluation.store.path}/"])
