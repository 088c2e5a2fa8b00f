"""The rows of a run's sweep as a frame for analyses, whatever version wrote them.

Older runs lack measures that newer ones have, screens and confirmations answer different scenarios,
and a recovered share needs the baseline of its own threat. Those three are settled here once. Rows
of the selection scenarios chose the operating points: numbers from them flatter the choice.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np
import pandas as pd
import pyarrow as pa

from interp_steer.analysis.bootstrap import ClusterBootstrap, as_columns, named_groups, undefined
from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.analysis.tidy_tables import AnalysisError
from interp_steer.cells import (
    ALIGNED,
    CELL_COLUMNS,
    MALICIOUS,
    NONE,
    Cell,
    prefilled,
    steered_cell,
)
from interp_steer.measures import MEASURE_COLUMNS
from interp_steer.point_files import read_operating_points
from interp_steer.runs import Run
from interp_steer.scenario_clusters import cluster_scenarios
from interp_steer.study import run_scenarios
from interp_steer.sweep import read_rows

SCENARIO_SETS = ("selection", "reporting")
"""Which scenarios a number is from: those that chose (in the two-fold protocol all of them, each
half for the other), and those that only report."""


def sweep_frame(run: Run) -> pd.DataFrame:
    """Every row of the sweep, with all measures (NaN where the run has none).

    Added columns: `scenarios`, whether the row's scenario chose (selection) or reports (reporting);
    `cluster`, what intervals resample.

    Raises:
        AnalysisError: the run has no sweep.
        RunError: the scenario file is not the run's.
    """
    frame = labelled_rows(read_rows(run), run)
    for name in MEASURE_COLUMNS:
        if name not in frame:
            frame[name] = math.nan
    return frame


def labelled_rows(table: pa.Table | None, run: Run) -> pd.DataFrame:
    """Rows of the run's sweep, in whatever columns, with `scenarios` and `cluster`.

    Raises:
        AnalysisError: there are no rows.
        RunError: the scenario file is not the run's.
    """
    if table is None or not table.num_rows or "sweep" not in run.manifest:
        raise AnalysisError(f"the run has no sweep; run `interp-steer sweep {run.path}` first")
    frame = table.to_pandas()
    choosing = set(map(str, run.manifest["sweep"]["selection"]))
    is_choosing = frame["scenario"].isin(choosing)
    return frame.assign(
        scenarios=np.where(is_choosing, *SCENARIO_SETS),
        cluster=frame["scenario"].map(scenario_clusters(run)),
    )


def scenario_clusters(run: Run) -> dict[str, str]:
    """Cluster of every scenario of the run, training and test clustered each on their own.

    Raises:
        RunError: the scenario file is not the run's.
    """
    scenarios = run_scenarios(run)
    splits = [[s for s in scenarios if s.split == split] for split in ("train", "test")]
    return {k: v for members in splits for k, v in cluster_scenarios(members).of.items()}


def absent_measures(frame: pd.DataFrame) -> list[str]:
    """Measures without a single value."""
    return [name for name in MEASURE_COLUMNS if not np.isfinite(numbers(frame, name)).any()]


def require_measure(frame: pd.DataFrame, name: str, run: Run) -> None:
    """Refuse a sweep without the measure `name`.

    Raises:
        AnalysisError: naming it.
    """
    if not np.isfinite(numbers(frame, name)).any():
        raise AnalysisError(
            f"the sweep has no {name}: it was made before that measure was recorded, or holds "
            f"baselines alone; remove {run.sweep_folder} and run `interp-steer sweep {run.path}` "
            "again"
        )


def is_cell(frame: pd.DataFrame, cell: Cell) -> pd.Series:
    """Which rows are of `cell`."""
    found = pd.Series(True, index=frame.index)
    for column, value in cell.as_row().items():
        same = frame[column].isna() if value is None else frame[column] == value
        found &= same
    return found


def by_cell(frame: pd.DataFrame) -> Iterator[tuple[Cell, str, pd.DataFrame]]:
    """Each cell on each set of scenarios, with its rows."""
    for key, rows in named_groups(frame, [*CELL_COLUMNS, "scenarios"]):
        yield Cell.from_row(key), str(key["scenarios"]), rows


def unsteered(cell: Cell) -> Cell:
    """The baseline that `cell` would be without its edit: same prompt, same threat."""
    if cell.prefill is not None:
        return prefilled(cell.prefill)
    return MALICIOUS if cell.side == "malicious" else Cell(side=cell.side, threat=cell.threat)


class Baselines:
    """Mean trait of each baseline by scenario, for recovered shares."""

    def __init__(self, frame: pd.DataFrame) -> None:
        rows = rows_where(frame, frame["method"] == "none").assign(scenarios="all")
        self._trait = {cell: _means(group) for cell, _, group in by_cell(rows)}

    def recovered(self, cell: Cell, rows: pd.DataFrame) -> dict[str, float]:
        """(steered - unsteered) / (aligned - unsteered) with its interval, paired by scenario.

        Rows without a score, or whose scenario has none in a baseline, are left out. NaN where a
        baseline lacks one of the scenarios altogether (the sweep is unfinished), where there is no
        gap, and for cells without a threat.
        """
        names = texts(rows, "scenario")
        floor, top = self._trait.get(unsteered(cell)), self._trait.get(ALIGNED)
        if floor is None or top is None or cell.threat == NONE:
            return undefined("recovered")
        if not set(names) <= set(floor) & set(top):
            return undefined("recovered")
        low, high = (np.array([side[name] for name in names]) for side in (floor, top))
        gained, gap = numbers(rows, "trait") - low, high - low
        known = np.isfinite(gained) & np.isfinite(gap)
        if not known.any():
            return undefined("recovered")
        boot = ClusterBootstrap(texts(rows_where(rows, known), "cluster"))
        return as_columns("recovered", boot.ratio(gained[known], gap[known]))


def _means(rows: pd.DataFrame) -> dict[str, float]:
    """Mean trait of each scenario over its rows with a score; NaN where it has none."""
    known: dict[str, list[float]] = {}
    for scenario, trait in zip(texts(rows, "scenario"), numbers(rows, "trait"), strict=True):
        found = known.setdefault(scenario, [])
        if math.isfinite(trait):
            found.append(float(trait))
    return {scenario: fmean(traits) if traits else math.nan for scenario, traits in known.items()}


def chosen_cells(run: Run) -> set[Cell]:
    """The operating points of the run; none before `interp-steer select`."""
    if not run.operating_points_file.exists():
        return set()
    remedy = "run `interp-steer select` again"
    found = read_operating_points(run.operating_points_file, remedy=remedy)
    return {
        steered_cell(
            method=point["method"],
            layer=point["layer"],
            alpha=point["alpha"],
            scope=point["scope"],
            threat=point["threat"],
        )
        for point in found["operating_points"]
    }


def steered_rows(frame: pd.DataFrame, *, threat: str = "malicious_prompt") -> pd.DataFrame:
    """Rows that steer towards the trait, along its own direction, under a threat."""
    return rows_where(
        frame,
        (frame["method"] != "none")
        & (frame["control"] == "none")
        & (frame["direction"] == "aligned")
        & (frame["threat"] == threat),
    )


def on_most_scenarios(rows: pd.DataFrame, order: Sequence[str] = SCENARIO_SETS) -> pd.DataFrame:
    """Rows of the set of scenarios that the most cells answered (the screen's, as a rule)."""
    counts = rows.drop_duplicates([*CELL_COLUMNS, "scenarios"])["scenarios"].value_counts()
    if counts.empty:
        return rows
    best = max(order, key=lambda name: (counts.get(name, 0), -order.index(name)))
    return rows_where(rows, rows["scenarios"] == best)
