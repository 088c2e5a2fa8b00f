"""What does every swept configuration score, and how much of the trait does it recover?

    python -m analyses.layer_alpha_scores RUN

layer_alpha_scores: one row a cell and set of scenarios; baselines, controls and guards too.
  side, threat, control, direction, method, layer, alpha, scope (see docs/artifacts.md; null layer
  and alpha for a baseline); scenarios (selection: those that chose; reporting: the others); trait,
  coherence (0-100) and recovered (share of the gap between the cell's own unsteered baseline and
  the aligned one, on the same scenarios; null without a threat), each with _low and _high (95 %,
  clusters resampled, conditional on the cell); n_tokens (mean length); n_rows; n_scenarios;
  n_missing (rows that the judge could not score); is_operating_point.

Rows on selection scenarios flatter whatever was chosen there. A few seconds.
"""

import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp_steer.analysis.bootstrap import mean_columns
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.run_rows import Baselines, by_cell, chosen_cells, sweep_frame
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.cells import Cell
from interp_steer.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """What does every swept configuration score, and how much of the trait does it recover?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """Scores of every cell."""
    frame = sweep_frame(run)
    baselines, chosen = Baselines(frame), chosen_cells(run)
    records = [
        _record(cell, name, rows, baselines) | {"is_operating_point": cell in chosen}
        for cell, name, rows in by_cell(frame)
    ]
    table = pd.DataFrame(records)
    table = table.astype({"layer": "Int64", "alpha": "float64"})
    n_missing = int(table["n_missing"].sum())
    notes = (f"{n_missing} rows have no score and are left out",) if n_missing else ()
    if not chosen:
        notes += ("no operating points yet (`interp-steer select`)",)
    return Findings(
        tables={"": table},
        inputs=(run.sweep_folder, run.operating_points_file),
        notes=notes,
    )


def _record(cell: Cell, scenarios: str, rows: pd.DataFrame, baselines: Baselines) -> dict[str, Any]:
    scored = rows.dropna(subset=["trait", "coherence"])
    means = mean_columns(rows, ["trait", "coherence"])
    counts = {name: means.pop(name) for name in ("n_rows", "n_scenarios")}
    return {
        **cell.as_row(),
        "scenarios": scenarios,
        **means,
        **baselines.recovered(cell, scored),
        "n_tokens": float(rows["n_tokens"].mean()),
        **counts,
        "n_missing": len(rows) - len(scored),
    }


ANALYSIS = Analysis(name="layer_alpha_scores", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
