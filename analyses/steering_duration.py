"""How long must one steer: the first K tokens, or throughout? And against a prefilled start?

    python -m analyses.steering_duration RUN

steering_duration: one row a configuration, scope, threat and set of scenarios.
  method, layer, alpha (null, and method none, for the unsteered baseline); threat
  (malicious_prompt, prefill:P) and prefill (P, 0 without); scope; k (tokens that are steered, null
  for scopes without a limit and for baselines); scenarios; trait, coherence (0-100), recovered;
  trait_lost (continuous steering in scope `response` minus this row, same scenarios, paired), each
  with _low and _high (95 %, clusters resampled); n_rows; n_scenarios.

Shown are configurations that have rows of first:K or of a prefilled threat, with all their other
scopes. Refused, with the command that adds rows, where there are none. A few seconds.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import ClusterBootstrap, as_columns, mean_columns, undefined
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.duration_grid import duration_command
from interp_steer.analysis.run_rows import Baselines, by_cell, sweep_frame
from interp_steer.analysis.tidy_tables import AnalysisError, Findings
from interp_steer.cells import Cell
from interp_steer.runs import Run
from interp_steer.scopes import Scope

CONFIGURATION = ["method", "layer", "alpha"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """How long must one steer: the first K tokens, or throughout?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """Scores by number of steered tokens, continuous steering and baselines beside them."""
    frame = sweep_frame(run)
    plain = frame[(frame["control"] == "none") & (frame["threat"] != "none")]
    plain = plain[plain["direction"].isin(["aligned", "none"])]
    is_short = plain["scope"].str.startswith("first:")
    is_prefilled = plain["threat"].str.startswith("prefill:") & (plain["method"] != "none")
    if not (is_short | is_prefilled).any():
        raise AnalysisError(
            "the sweep has no rows of scope first:K and none under prefill:K; add some with "
            f"`{duration_command(run)}`, best to a copy of the run"
        )
    wanted = plain.loc[is_short | is_prefilled, CONFIGURATION].drop_duplicates()
    configurations = pd.MultiIndex.from_frame(wanted)
    shown = pd.MultiIndex.from_frame(plain[CONFIGURATION]).isin(configurations)
    unsteered = (plain["method"] == "none") & (plain["side"] != "defended")
    rows = plain[shown | unsteered]
    baselines = Baselines(frame)
    table = pd.DataFrame(
        [_record(cell, name, group, rows, baselines) for cell, name, group in by_cell(rows)]
    )
    kinds = {"layer": "Int64", "k": "Int64", "alpha": "float64"}
    return Findings(tables={"": table.astype(kinds)}, inputs=(run.sweep_folder,))


def _record(
    cell: Cell, scenarios: str, group: pd.DataFrame, rows: pd.DataFrame, baselines: Baselines
) -> dict[str, Any]:
    return {
        "method": cell.method,
        "layer": cell.layer,
        "alpha": cell.alpha,
        "threat": cell.threat,
        "prefill": cell.prefill or 0,
        "scope": cell.scope,
        "k": Scope.parse(cell.scope).k if cell.is_steered else None,
        "scenarios": scenarios,
        **mean_columns(group, ["trait", "coherence"]),
        **baselines.recovered(cell, group),
        **_lost(cell, group, rows),
    }


def _lost(cell: Cell, group: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    """Trait of continuous steering minus this cell's, on the scenarios that both answered."""
    same = (rows["scope"] == "response") & (rows["threat"] == cell.threat)
    for name in CONFIGURATION:
        same &= rows[name] == getattr(cell, name)
    keys = ["scenario", "response_index"]
    both = group.merge(rows.loc[same, [*keys, "trait"]], on=keys, suffixes=("", "_throughout"))
    if both.empty or not cell.is_steered:
        return undefined("trait_lost")
    lost = (both["trait_throughout"] - both["trait"]).to_numpy(np.float64)
    return as_columns("trait_lost", ClusterBootstrap(both["cluster"].tolist()).mean(lost))


ANALYSIS = Analysis(name="steering_duration", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
