"""What do measures without a judge say of every configuration, layer by layer?

    python -m analyses.judge_free_by_layer RUN

judge_free_by_layer: one row a cell, set of scenarios and measure (figures C.3 and C.5, tidy).
  side, threat, control, direction, method, layer, alpha, scope; scenarios (selection or reporting);
  measure (see docs/artifacts.md: cross_entropy in nats a token under the unsteered model with the
  aligned prompt, and cross_entropy_reference, the aligned baseline's own; embedding_cosine;
  target_distance and relative_l2 over tokens in scope and over fired ones; fired_share and by
  segment; repeated_4grams, distinct_1, distinct_2; kl_to_unsteered of guards; n_tokens, the
  length; cross_entropy_excess, the paired difference of the first two); value, value_low,
  value_high (95 %, clusters resampled); n_rows with a value; n_scenarios.

Measures that the run lacks (older versions, no embedder) are named on stderr and in the sidecar. A
few seconds.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import ClusterBootstrap, as_columns
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.run_rows import absent_measures, by_cell, sweep_frame
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.measures import MEASURE_COLUMNS
from interp_steer.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """What do measures without a judge say of every configuration, layer by layer?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """Means of every measure that has values."""
    frame = sweep_frame(run)
    absent = absent_measures(frame)
    excess = frame["cross_entropy"] - frame["cross_entropy_reference"]
    frame = frame.assign(cross_entropy_excess=excess)
    wanted = ("n_tokens", *MEASURE_COLUMNS, "cross_entropy_excess")
    records = [
        {**cell.as_row(), "scenarios": scenarios, **record}
        for cell, scenarios, rows in by_cell(frame)
        for record in _means(rows, wanted)
    ]
    table = pd.DataFrame(records).astype({"layer": "Int64", "alpha": "float64"})
    notes = ()
    if absent:
        notes = (
            f"the sweep has no {', '.join(absent)} (made before they were recorded, or what they "
            "need was not there)",
        )
    return Findings(tables={"": table}, inputs=(run.sweep_folder,), notes=notes)


def _means(rows: pd.DataFrame, measures: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every measure that has a value in some row."""
    boot = ClusterBootstrap(rows["cluster"].tolist())
    for name in measures:
        values = rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
        known = np.isfinite(values)
        if known.any():
            yield {
                "measure": name,
                **as_columns("value", boot.mean(values)),
                "n_rows": int(known.sum()),
                "n_scenarios": rows.loc[known, "scenario"].nunique(),
            }


ANALYSIS = Analysis(name="judge_free_by_layer", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
