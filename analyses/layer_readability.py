"""At which layers can the trait be read, and would nothing read as well?

    python -m analyses.layer_readability RUN [--null-draws 20] [--cosine-groups 20]

layer_readability: one row a layer, measure and fit.
  layer; measure (accuracy, auroc, cohens_d, cosine_caa); fit (crossfit: scored by directions fitted
  without the scenario, the one to show; in_sample: flattering); value, value_low, value_high (95 %,
  clusters resampled; of cosine_caa by a jackknife over groups of clusters); null_mean, null_low,
  null_high (mean and range over draws of labels swapped in half of the scenarios, cross-fitted;
  null for cosine_caa and in_sample); n_null; n_responses; n_scenarios; n_clusters; converged.

A readable layer is not thereby a steerable one: see causal_scan. Ten seconds for the demo's run.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import ClusterBootstrap, as_columns
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.readability_intervals import (
    cosine_error,
    layer_margins,
    null_readability,
    readability_estimates,
)
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.analysis.training_data import TrainingData, training_data
from interp_steer.probes import LayerProbe
from interp_steer.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """At which layers can the trait be read, and would nothing read as well?"""

    layers: tuple[int, ...] = ()
    """Layers; all that have a probe by default."""
    null_draws: int = 20
    """Draws of shuffled labels."""
    cosine_groups: int = 20
    """Groups of clusters that are left out in turn for the interval of the cosine."""


def find(run: Run, options: Options) -> Findings:
    """Readability of every layer with intervals and null."""
    data = training_data(run)
    records = [
        record
        for probe, rows in data.layers(options.layers)
        for record in _layer(data, probe, rows, options)
    ]
    return Findings(
        tables={"": pd.DataFrame(records)},
        inputs=(run.probes_file, run.residuals_file, run.responses_file),
        config={"method": data.method, "grouped_by": data.folds().grouped_by},
    )


def _layer(
    data: TrainingData, probe: LayerProbe, rows: np.ndarray, options: Options
) -> Iterator[dict[str, Any]]:
    fit = {"method": data.method, "c": data.c}
    folds, boot = data.folds(), ClusterBootstrap(data.clusters)
    about = {
        "layer": probe.layer,
        "n_responses": len(rows),
        "n_scenarios": len(set(data.scenarios)),
        "n_clusters": boot.n_clusters,
        "converged": probe.converged,
    }
    null = null_readability(
        rows,
        data.is_aligned,
        data.scenarios,
        folds,
        n_draws=options.null_draws,
        seed=data.seed,
        **fit,
    )
    margins = {
        "crossfit": layer_margins(rows, data.is_aligned, folds, **fit),
        "in_sample": rows @ probe.v_hat.double().numpy() - probe.boundary,
    }
    for name, values in margins.items():
        for measure, estimate in readability_estimates(values, data.is_aligned, boot).items():
            draws = [getattr(one, measure) for one in null] if name == "crossfit" else []
            yield _row(about, measure, name, as_columns("value", estimate), draws)
    error = cosine_error(rows, data.is_aligned, boot, n_groups=options.cosine_groups, **fit)
    yield _row(about, "cosine_caa", "in_sample", _cosine_columns(probe.cosine_caa, error), [])


def _cosine_columns(cosine: float, error: float) -> dict[str, float]:
    half = 1.96 * error
    low, high = max(-1.0, cosine - half), min(1.0, cosine + half)
    return {"value": cosine, "value_low": low, "value_high": high}


def _row(
    about: dict[str, Any], measure: str, fit: str, value: dict[str, float], null: Sequence[float]
) -> dict[str, Any]:
    known = np.array([value for value in null if np.isfinite(value)])
    ends = (known.mean(), known.min(), known.max()) if known.size else (np.nan,) * 3
    return {
        "layer": about["layer"],
        "measure": measure,
        "fit": fit,
        **value,
        **dict(zip(("null_mean", "null_low", "null_high"), ends, strict=True)),
        "n_null": known.size,
        **{name: value for name, value in about.items() if name != "layer"},
    }


ANALYSIS = Analysis(name="layer_readability", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
