"""Where does the boundary stand between the sides, and what would its gate let through?

    python -m analyses.boundary_placement RUN

boundary_placement: one row a layer.
  layer; boundary (m), mu_pos, sigma_pos, mu_neg, sigma_neg, delta_mu (activation units);
  place = (m - mu_neg) / delta_mu (0 at the malicious mean, 1 at the aligned one);
  sigmas_below_mu_pos, sigmas_above_mu_neg; expected_aligned, expected_malicious (share below m of
  normal distributions with those means and stds).
boundary_placement_firing: one row a layer, kind of activations, unit and segment.
  activations (aligned, malicious: training responses, unsteered; steered_before, steered_after:
  traced tokens as they arrived at the hook and as they left it); unit (response, token); segment;
  method, scope, alpha (of the traces); share, share_low, share_high (below m: where the gate
  fires; 95 %, clusters resampled); mean, std of the projections; share_above_target (steered:
  at or above mu_pos); n, n_scenarios.

The gate looks at single tokens, the boundary was fitted on means over responses: compare units. A
few seconds.
"""

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from interp_steer.analysis.bootstrap import grouped_means
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.analysis.trace_frames import trace_frame
from interp_steer.analysis.training_data import token_projections, training_data
from interp_steer.probes import LayerProbe, ProbeSet
from interp_steer.runs import Run

KEYS = ["layer", "activations", "unit", "segment", "method", "scope", "alpha"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """Where does the boundary stand between the sides, and what would its gate let through?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """Placement by layer, and firing rates of every kind of activation."""
    data, notes = training_data(run), []
    pooled = data.pooled().rename(columns={"side": "activations"})
    parts = [pooled.assign(unit="response", segment="all")]
    if run.projections_file.exists():
        tokens = token_projections(run).rename(columns={"side": "activations"})
        parts += [tokens.assign(unit="token"), tokens.assign(unit="token", segment="all")]
    else:
        notes.append("no per-token projections: no rates of single tokens (`interp-steer fit`)")
    if any(run.traces_folder.glob("*.parquet")):
        parts += _steered(run)
    else:
        notes.append("no traces: nothing about steered activations (`interp-steer trace`)")
    frame = pd.concat(parts, ignore_index=True)
    for name in KEYS:
        frame[name] = frame.get(name, np.nan)
    return Findings(
        tables={"": _placement(data.probes), "firing": _firing(frame, data.probes)},
        inputs=(
            *(run.probes_file, run.residuals_file, run.responses_file),
            *(run.projections_file, run.traces_folder),
        ),
        notes=tuple(notes),
    )


def _steered(run: Run) -> list[pd.DataFrame]:
    traces = trace_frame(run)
    parts = []
    for when in ("before", "after"):
        part = traces.rename(columns={f"projection_{when}": "projection"})
        part = part.assign(activations=f"steered_{when}", unit="token")
        parts += [part, part.assign(segment="all")]
    return parts


def _placement(probes: ProbeSet) -> pd.DataFrame:
    return pd.DataFrame([_placed(probe) for probe in probes.probes])


def _placed(probe: LayerProbe) -> dict[str, float]:
    m = probe.boundary
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.float64(m - probe.mu_neg) / probe.sigma_neg
        below = np.float64(probe.mu_pos - m) / probe.sigma_pos
    names = ("boundary", "mu_pos", "sigma_pos", "mu_neg", "sigma_neg", "delta_mu")
    return {
        "layer": probe.layer,
        **{name: getattr(probe, name) for name in names},
        "place": (m - probe.mu_neg) / probe.delta_mu if probe.delta_mu else np.nan,
        "sigmas_below_mu_pos": float(below),
        "sigmas_above_mu_neg": float(above),
        "expected_aligned": float(ndtr(-below)),
        "expected_malicious": float(ndtr(above)),
    }


def _firing(frame: pd.DataFrame, probes: ProbeSet) -> pd.DataFrame:
    boundary = {probe.layer: probe.boundary for probe in probes.probes}
    centre = {probe.layer: probe.mu_pos for probe in probes.probes}
    rho = frame["projection"].astype(np.float64)
    is_steered = frame["activations"].str.startswith("steered")
    frame = frame.assign(
        share=(rho < frame["layer"].map(boundary)).astype(np.float64),
        above=(rho >= frame["layer"].map(centre)).where(is_steered).astype(np.float64),
        projection=rho,
    )
    table = grouped_means(frame, KEYS, ["share"])
    groups = frame.groupby(KEYS, dropna=False, sort=True)
    table["mean"] = groups["projection"].mean().to_numpy()
    table["std"] = groups["projection"].std(ddof=0).to_numpy()
    table["share_above_target"] = groups["above"].mean().to_numpy()
    return table.rename(columns={"n_rows": "n"})


ANALYSIS = Analysis(name="boundary_placement", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
