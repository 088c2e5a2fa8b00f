"""What would change if thresholds and targets came from single tokens instead of whole responses?

    python -m analyses.calibration RUN

calibration: one row a layer, calibration and segment.
  layer; calibration (pooled: means over responses, which is what steering uses; per_token: single
  tokens of the same responses); segment (response, all); mu_pos, sigma_pos, mu_neg, sigma_neg,
  delta_mu (activation units); sigma_ratio (sigma_pos over the pooled one); n_aligned, n_malicious.
calibration_thresholds: one row a layer, rule and segment that the gate looks at.
  rule (boundary; pooled_sigma:K and token_sigma:K: mu_pos + K sigma_pos; token_quantile:Q: of
  aligned response tokens); threshold; segment; fired_aligned, fired_malicious (share of tokens
  below it) and their _low and _high.
calibration_targets: one row a layer and StTP coefficient.
  layer; alpha; target_pooled, target_per_token (s = mu_pos + alpha sigma_pos with either);
  equivalent_alpha (the per-token coefficient that gives the pooled target).

A variant for comparison: coefficients keep their meaning only with the pooled sigma. Some seconds.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import ClusterBootstrap, as_columns
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.analysis.training_data import token_projections
from interp_steer.config import PAPER_GRID
from interp_steer.fit_stage import load_probes
from interp_steer.intervals import SHARE
from interp_steer.probes import LayerProbe
from interp_steer.runs import Run

SIGMAS = (-2.0, -1.0, 0.0, 1.0)
QUANTILES = (0.05, 0.25, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """What would change if thresholds and targets came from single tokens?"""

    alphas: tuple[float, ...] = PAPER_GRID["sttp"]
    """StTP coefficients whose targets are compared."""


def find(run: Run, options: Options) -> Findings:
    """Both calibrations, the thresholds and the targets they give."""
    probes, tokens = load_probes(run), token_projections(run)
    levels: list[dict[str, Any]] = []
    thresholds: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    for probe in probes.probes:
        at_layer = tokens[tokens["layer"] == probe.layer]
        if not set(at_layer["side"]) >= {"aligned", "malicious"}:
            continue
        by_segment = {"response": at_layer[at_layer["segment"] == "response"], "all": at_layer}
        found = [_pooled(probe), *(_tokens(probe, s, f) for s, f in by_segment.items())]
        levels += found
        rules = dict(_rules(probe, found[1], by_segment["response"]))
        for segment, frame in by_segment.items():
            thresholds += _firing(probe.layer, rules, segment, frame)
        targets += [_target(probe, found[1], float(alpha)) for alpha in options.alphas]
    return Findings(
        tables={
            "": pd.DataFrame(levels),
            "thresholds": pd.DataFrame(thresholds),
            "targets": pd.DataFrame(targets),
        },
        inputs=(run.probes_file, run.projections_file),
    )


def _pooled(probe: LayerProbe) -> dict[str, Any]:
    names = ("mu_pos", "sigma_pos", "mu_neg", "sigma_neg", "delta_mu")
    numbers = {name: getattr(probe, name) for name in names}
    who = {"layer": probe.layer, "calibration": "pooled", "segment": "response"}
    return who | numbers | {"sigma_ratio": 1.0}


def _tokens(probe: LayerProbe, segment: str, frame: pd.DataFrame) -> dict[str, Any]:
    above, below = (
        frame.loc[frame["side"] == side, "projection"].to_numpy(np.float64)
        for side in ("aligned", "malicious")
    )
    ratio = above.std() / probe.sigma_pos if probe.sigma_pos else np.nan
    return {
        "layer": probe.layer,
        "calibration": "per_token",
        "segment": segment,
        "mu_pos": above.mean(),
        "sigma_pos": above.std(),
        "mu_neg": below.mean(),
        "sigma_neg": below.std(),
        "delta_mu": above.mean() - below.mean(),
        "sigma_ratio": ratio,
        "n_aligned": len(above),
        "n_malicious": len(below),
    }


def _rules(
    probe: LayerProbe, tokens: dict[str, Any], responses: pd.DataFrame
) -> Iterator[tuple[str, float]]:
    yield "boundary", probe.boundary
    for k in SIGMAS:
        yield f"pooled_sigma:{k:g}", probe.mu_pos + k * probe.sigma_pos
        yield f"token_sigma:{k:g}", tokens["mu_pos"] + k * tokens["sigma_pos"]
    aligned = responses.loc[responses["side"] == "aligned", "projection"].to_numpy(np.float64)
    for q in QUANTILES:
        yield f"token_quantile:{q:g}", float(np.quantile(aligned, q))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """Projections of one side's tokens in one segment."""

    name: str
    rho: np.ndarray
    boot: ClusterBootstrap

    def fired(self, threshold: float) -> dict[str, float]:
        share = self.boot.mean((self.rho < threshold).astype(np.float64), bounds=SHARE)
        return as_columns(f"fired_{self.name}", share)


def _firing(
    layer: int, rules: dict[str, float], segment: str, frame: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    sides = [
        _Side(
            name=str(name),
            rho=rows["projection"].to_numpy(np.float64),
            boot=ClusterBootstrap(rows["cluster"].tolist()),
        )
        for name, rows in frame.groupby("side", sort=True)
    ]
    for rule, threshold in rules.items():
        record = {"layer": layer, "rule": rule, "threshold": threshold, "segment": segment}
        yield record | {k: v for side in sides for k, v in side.fired(threshold).items()}


def _target(probe: LayerProbe, tokens: dict[str, Any], alpha: float) -> dict[str, Any]:
    target = probe.mu_pos + alpha * probe.sigma_pos
    spread = tokens["sigma_pos"]
    return {
        "layer": probe.layer,
        "alpha": alpha,
        "target_pooled": target,
        "target_per_token": tokens["mu_pos"] + alpha * spread,
        "equivalent_alpha": (target - tokens["mu_pos"]) / spread if spread else np.nan,
    }


ANALYSIS = Analysis(name="calibration", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
