"""Which method does best where all of them move tokens equally far?

    python -m analyses.matched_dose RUN [--doses 5]

matched_dose: one row a threat, scope, layer, measure, pair of methods and dose.
  threat, scope, layer; measure (trait, coherence); method, other_method; dose (mean target
  distance over tokens in scope, activation units, equal for both: scores are interpolated between
  the coefficients that were run, never beyond them); score, other_score, difference (first minus
  second, paired), each with _low and _high (95 %, clusters resampled); n_scenarios.

Pairs of methods whose doses do not overlap have no row. Refused where the sweep holds no
target_distance, or no two methods overlap. Some seconds.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp_steer.analysis.bootstrap import ClusterBootstrap, as_columns
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.matched_doses import dose_curve, matched_pairs
from interp_steer.analysis.run_rows import on_most_scenarios, require_measure, sweep_frame
from interp_steer.analysis.tidy_tables import AnalysisError, Findings
from interp_steer.runs import Run

KEYS = ["threat", "scope", "layer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """Which method does best where all of them move tokens equally far?"""

    doses: int = 5
    """Doses at which two methods are compared, evenly spaced over their overlap."""


def find(run: Run, options: Options) -> Findings:
    """Paired differences at equal dose."""
    frame = sweep_frame(run)
    require_measure(frame, "target_distance", run)
    steered = frame[(frame["method"] != "none") & (frame["control"] == "none")]
    steered = steered[(steered["threat"] != "none") & (steered["direction"] == "aligned")]
    records = [
        record
        for key, rows in on_most_scenarios(steered).groupby(KEYS, sort=True)
        for record in _compared(dict(zip(KEYS, key, strict=True)), rows, options.doses)
    ]
    if not records:
        raise AnalysisError(
            "no two methods overlap in mean target distance at any layer and scope; sweep more "
            f"coefficients (`interp-steer sweep {run.path} --swfc-alphas ... --sttp-alphas ...`)"
        )
    return Findings(tables={"": pd.DataFrame(records)}, inputs=(run.sweep_folder,))


def _compared(where: dict[str, Any], rows: pd.DataFrame, n_doses: int) -> Iterator[dict[str, Any]]:
    boot = ClusterBootstrap(rows["cluster"].tolist())
    for measure in ("trait", "coherence"):
        curves = {
            method: dose_curve(rows.where(rows["method"] == method), boot, score=measure)
            for method in sorted(rows["method"].unique())
        }
        for pair in matched_pairs(curves, boot, n_doses=n_doses):
            yield {
                **where,
                "measure": measure,
                "method": pair.method,
                "other_method": pair.other_method,
                "dose": pair.dose,
                **as_columns("score", pair.score),
                **as_columns("other_score", pair.other_score),
                **as_columns("difference", pair.difference),
                "n_scenarios": rows["scenario"].nunique(),
            }


ANALYSIS = Analysis(name="matched_dose", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
