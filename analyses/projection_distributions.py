"""How do projections on v_hat distribute, a response at a time and token by token?

    python -m analyses.projection_distributions RUN [--layers 2 4] [--bins 60]

projection_distributions: one row a layer, unit, side and segment.
  layer; unit (response: mean over its tokens; token); side; segment (all, or a token's segment);
  n, n_scenarios; mean, mean_low, mean_high, std; q01 ... q99; share_below_boundary; boundary (m),
  mu_pos, sigma_pos, mu_neg, sigma_neg (of responses), cohens_d (cross-fitted).
projection_distributions_pooled: one row a response and layer.
  side, scenario, response_index, layer, projection, margin (rho - m).
projection_distributions_histogram: one row a bin.
  layer, unit, side, segment, bin_low, bin_high, count, density (per activation unit); bins are
  shared by all sides and segments of one layer and unit.

Projections are in activation units, at resid_post. Tokens of one response are not independent:
intervals resample clusters. A few seconds.
"""

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import ClusterBootstrap, as_columns
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.analysis.training_data import token_projections, training_data
from interp_steer.probes import ProbeSet
from interp_steer.runs import Run

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
KEYS = ["layer", "unit", "side", "segment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """How do projections on v_hat distribute, a response at a time and token by token?"""

    layers: tuple[int, ...] = ()
    """Layers; all that have a probe by default."""
    bins: int = 60
    """Bins of each histogram."""


def find(run: Run, options: Options) -> Findings:
    """Summaries, pooled projections and histograms."""
    data = training_data(run)
    pooled = data.pooled(options.layers)
    everything = [pooled.assign(unit="response", segment="all")]
    notes: tuple[str, ...] = ()
    if run.projections_file.exists():
        tokens = token_projections(run).assign(unit="token")
        tokens = tokens[tokens["layer"].isin(pooled["layer"].unique())]
        everything += [tokens, tokens.assign(segment="all")]
    else:
        notes = (
            f"no {run.projections_file.name}: nothing about single tokens (`interp-steer fit`)",
        )
    frame = pd.concat([part[[*KEYS, "projection", "scenario", "cluster"]] for part in everything])
    return Findings(
        tables={
            "": _summaries(frame, data.probes),
            "pooled": pooled.drop(columns="cluster"),
            "histogram": _histograms(frame, options.bins),
        },
        inputs=(run.residuals_file, run.responses_file, run.probes_file, run.projections_file),
        notes=notes,
    )


def _summaries(frame: pd.DataFrame, probes: ProbeSet) -> pd.DataFrame:
    records = []
    for key, group in frame.groupby(KEYS, sort=True):
        named = dict(zip(KEYS, key, strict=True))
        probe, rho = probes.probe(int(named["layer"])), group["projection"].to_numpy(np.float64)
        boot = ClusterBootstrap(group["cluster"].tolist())
        quantiles = np.quantile(rho, QUANTILES).tolist()
        records.append(
            named
            | {"n": len(rho), "n_scenarios": group["scenario"].nunique()}
            | as_columns("mean", boot.mean(rho))
            | {"std": float(rho.std())}
            | {f"q{round(100 * q):02d}": v for q, v in zip(QUANTILES, quantiles, strict=True)}
            | {"share_below_boundary": float((rho < probe.boundary).mean())}
            | {n: getattr(probe, n) for n in ("boundary", "mu_pos", "sigma_pos")}
            | {n: getattr(probe, n) for n in ("mu_neg", "sigma_neg")}
            | {"cohens_d": probe.crossfit.cohens_d}
        )
    return pd.DataFrame(records)


def _histograms(frame: pd.DataFrame, bins: int) -> pd.DataFrame:
    parts = []
    for _, at_layer in frame.groupby(["layer", "unit"], sort=True):
        edges = np.histogram_bin_edges(at_layer["projection"].to_numpy(np.float64), bins=bins)
        for key, group in at_layer.groupby(KEYS, sort=True):
            count, _ = np.histogram(group["projection"].to_numpy(np.float64), bins=edges)
            part = pd.DataFrame({"bin_low": edges[:-1], "bin_high": edges[1:], "count": count})
            density = count / (count.sum() * np.diff(edges))
            part = part.assign(density=density, **dict(zip(KEYS, key, strict=True)))
            parts.append(part[[*KEYS, "bin_low", "bin_high", "count", "density"]])
    return pd.concat(parts, ignore_index=True)


ANALYSIS = Analysis(
    name="projection_distributions", about=__doc__ or "", options=Options, find=find
)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
