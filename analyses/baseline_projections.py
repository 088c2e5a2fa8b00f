"""Where do the tokens of unsteered responses lie, under the aligned and the malicious prompt?

    python -m analyses.baseline_projections RUN [--scenarios ID ...] [--device cuda]

baseline_projections: one row a token and layer, of the sweep's unsteered baselines.
  scenario, side (whose system prompt), response_index; pos (from 0), token, segment; layer;
  projection (on v_hat, at resid_post, activation units); orthogonal (place along the leading
  principal component of the training response means orthogonal to v_hat, likewise);
  orthogonal_share (of the variance orthogonal to v_hat of those means that lies along it).

They are what a steered response of the same scenario is compared with token by token (figure 8),
and the places from which steering moves single tokens (figure 2). Unlike projections.parquet they
are of test scenarios, which no probe was fitted on. By default
those that were traced, or the first three. Loads the model; some seconds for three scenarios of the
demo's run. Tokens are untrusted text.
"""

import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from interp_steer.analysis.command import Analysis, ModelOption
from interp_steer.analysis.orthogonal import as_directions, layer_axes
from interp_steer.analysis.run_rows import is_cell, sweep_frame
from interp_steer.analysis.tidy_tables import AnalysisError, Findings, require
from interp_steer.cells import ALIGNED, MALICIOUS
from interp_steer.fit_stage import load_probes
from interp_steer.probes import ProbeSet
from interp_steer.projections import projection_batches
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run
from interp_steer.study import Study, reopen_study
from interp_steer.trace_files import read_traces

N_DEFAULT = 3
"""Scenarios of a run without traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ModelOption):
    """Where do the tokens of unsteered responses lie, under either prompt?"""

    scenarios: tuple[str, ...] = ()
    """Test scenarios by id; by default those that were traced, or the first three."""


def find(run: Run, options: Options) -> Findings:
    """Teacher-force the baselines and project every token at every layer that has a probe."""
    frame, probes = sweep_frame(run), load_probes(run)
    answered = sorted(frame.loc[is_cell(frame, ALIGNED), "scenario"].unique())
    if unknown := [name for name in options.scenarios if name not in answered]:
        raise AnalysisError(
            f"the sweep has no unsteered response to {', '.join(unknown)}; it has "
            f"{', '.join(answered[:N_DEFAULT])} and {max(0, len(answered) - N_DEFAULT)} others"
        )
    chosen = list(options.scenarios) or _traced(run, answered) or answered[:N_DEFAULT]
    parts = [
        frame[is_cell(frame, cell) & frame["scenario"].isin(chosen)].assign(prompt=side)
        for side, cell in (("aligned", ALIGNED), ("malicious", MALICIOUS))
    ]
    rows = [row for part in parts for row in part.to_dict("records") if len(row["token_ids"])]
    if not rows:
        raise AnalysisError("every unsteered response to these scenarios is empty; name others")
    fit = f"interp-steer fit --out {run.path} --model ... --scenarios ..."
    require(run.residuals_file, "residuals", command=fit)
    axes = dict(layer_axes(probes, load_residuals(run.residuals_file)))
    study = reopen_study(run.path, place=options.place)
    table = _projected(study, rows, probes)
    across = _projected(study, rows, as_directions(probes, axes))["projection"]
    origins = table["layer"].map({layer: axis.origin for layer, axis in axes.items()})
    shares = table["layer"].map({layer: axis.share for layer, axis in axes.items()})
    return Findings(
        tables={"": table.assign(orthogonal=across - origins, orthogonal_share=shares)},
        inputs=(run.sweep_folder, run.probes_file, run.residuals_file, run.traces_folder),
        config={"shown": chosen},
    )


def _projected(study: Study, rows: list[dict[str, Any]], directions: ProbeSet) -> pd.DataFrame:
    """One row a token and layer, by sequence, layer and position."""
    by_id = {scenario.id: scenario for scenario in study.scenarios}
    batches = projection_batches(
        study.lm,
        [
            study.lm.tokenize(by_id[row["scenario"]].prompt(row["prompt"])).with_response(
                [int(token) for token in row["token_ids"]]
            )
            for row in rows
        ],
        directions,
        scenario_ids=[row["scenario"] for row in rows],
        sides=[row["prompt"] for row in rows],
        response_indices=[int(row["response_index"]) for row in rows],
    )
    return pa.Table.from_batches(list(batches)).to_pandas()


def _traced(run: Run, answered: list[str]) -> list[str]:
    """Traced scenarios that have baselines."""
    files = sorted(run.traces_folder.glob("*.parquet"))
    traced = {name for file in files for name in read_traces(file)["scenario"].unique().to_pylist()}
    return [name for name in answered if name in traced]


ANALYSIS = Analysis(name="baseline_projections", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
