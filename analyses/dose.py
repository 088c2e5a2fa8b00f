"""How much does a given displacement of the residual stream buy?

    python -m analyses.dose RUN

dose: one row a steered cell and set of scenarios.
  method, layer, alpha, scope, threat, side, control, direction; scenarios; target_distance (mean
  |rho' - rho| over tokens in scope, activation units), target_distance_fired, relative_l2,
  fired_share; trait, coherence (0-100); each with _low and _high (95 %, clusters resampled);
  recovered; n_rows; n_scenarios.
dose_correlation: one row a method, scope, threat and layer (null: over all layers).
  spearman (rank correlation of mean target distance and mean trait over cells), n_cells.

Distances of different layers are in different units of activation: compare within a layer. Refused
where the sweep holds no target_distance. A few seconds.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp_steer.analysis.bootstrap import mean_columns
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.run_rows import (
    Baselines,
    by_cell,
    on_most_scenarios,
    require_measure,
    sweep_frame,
)
from interp_steer.analysis.scan_effects import rank_correlation
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.cells import Cell
from interp_steer.runs import Run

MEASURES = ["target_distance", "target_distance_fired", "relative_l2", "fired_share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """How much does a given displacement of the residual stream buy?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """Dose and response of every steered cell."""
    frame = sweep_frame(run)
    require_measure(frame, "target_distance", run)
    steered = frame[(frame["method"] != "none") & (frame["control"] == "none")]
    steered = steered[(steered["threat"] != "none") & (steered["direction"] == "aligned")]
    baselines = Baselines(frame)
    table = pd.DataFrame(
        [_record(cell, name, rows, baselines) for cell, name, rows in by_cell(steered)]
    )
    return Findings(
        tables={"": table, "correlation": pd.DataFrame(list(_correlations(table)))},
        inputs=(run.sweep_folder,),
    )


def _record(cell: Cell, scenarios: str, rows: pd.DataFrame, baselines: Baselines) -> dict[str, Any]:
    return {
        **{n: getattr(cell, n) for n in ("method", "layer", "alpha", "scope", "threat", "side")},
        "control": cell.control,
        "direction": cell.direction,
        "scenarios": scenarios,
        **mean_columns(rows, [*MEASURES, "trait", "coherence"]),
        **baselines.recovered(cell, rows),
    }


def _correlations(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    chosen = on_most_scenarios(table)
    keys = ["method", "scope", "threat"]
    layered = chosen.groupby([*keys, "layer"], sort=True)
    groups = [*chosen.assign(every=None).groupby(keys, sort=True), *layered]
    for key, cells in groups:
        record = dict(zip([*keys, "layer"], [*key, None][:4], strict=True))
        value = rank_correlation(cells["target_distance"].tolist(), cells["trait"].tolist())
        yield {**record, "spearman": value, "n_cells": len(cells)}


ANALYSIS = Analysis(name="dose", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
