"""Where does the trait live: at which layer and segment does v_hat carry it?

    python -m analyses.causal_scan RUN [--responses test] [--scenarios 50] [--device cuda]

Both responses of every scenario are teacher-forced under both prompts, shared tokens at equal
position ids; under the malicious prompt, resid_post of one segment at one layer gets its value of
the aligned prompt back: its component along v_hat, or (upper bound) all of it. effect =
(LO_patched - LO_malicious) / (LO_aligned - LO_malicious), LO = log p(aligned response) -
log p(malicious response). Segments: system (its text, tokens facing each other from the end; those
of a longer malicious prompt that face none get the mean of the aligned ones), user, template (the
chat template's tokens after the system prompt), response, after_system (those three together).

causal_scan: one row a layer, segment, patch and unit.
  layer; segment; patch (v_hat; full; random_direction: the component along a random unit vector
  instead; random_shift: v_hat's shift along a random unit vector); draw; unit (summed, per_token
  log-probabilities); effect, effect_low, effect_high (95 %, clusters resampled, numerator and
  denominator together); log_odds (patched), log_odds_aligned, log_odds_malicious (means, nats);
  n_contrasts, n_scenarios.
causal_scan_recovery: one row a layer, scope and method, from the sweep (not without one).
  layer; scope; method (best: of all methods); recovered (largest among cells that keep coherence;
  of the most coherent cell where none does); alpha, coherence, keeps_coherence.
causal_scan_correlation: one row a segment, unit, scope and method.
  spearman (rank correlation across layers of the v_hat effect with `recovered`; the interval
  resamples the scan's scenarios and takes the sweep as it is), spearman_low, spearman_high,
  n_layers.

A full overwrite of response tokens tends to 1 by construction and ranks nothing. On the bundled
model about seven seconds a layer.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from interp_steer.analysis.bootstrap import as_columns
from interp_steer.analysis.causal_scan import Patch
from interp_steer.analysis.command import Analysis, ModelOption
from interp_steer.analysis.contrasts import LogOdds
from interp_steer.analysis.layer_recovery import LayerRecovery, layer_recoveries
from interp_steer.analysis.scan_effects import UNITS, rank_correlation_estimate
from interp_steer.analysis.scan_stage import RunScan, scan_run
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.runs import Run
from interp_steer.study import reopen_study

SHOWN = ("system", "user", "template", "response", "after_system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ModelOption):
    """Where does the trait live: at which layer and segment does v_hat carry it?"""

    layers: tuple[int, ...] = ()
    """Layers; all that have a probe by default."""
    responses: Literal["train", "test"] = "train"
    """Training responses, or the sweep's unsteered baselines on the test scenarios."""
    scenarios: int | None = 24
    """At most so many scenarios; None takes all."""
    draws: int = 1
    """Random vectors of each control."""
    batch_size: int = 16
    """Scenarios teacher-forced together, each with two responses."""


def find(run: Run, options: Options) -> Findings:
    """Effects of every patch, and how their order of layers agrees with the sweep's."""
    study = reopen_study(run.path, place=options.place)
    scan = scan_run(
        study,
        source=options.responses,
        segments=SHOWN,
        layers=options.layers,
        n_draws=options.draws,
        n_scenarios=options.scenarios,
        batch_size=options.batch_size,
    )
    tables = {"": pd.DataFrame(list(_effects(scan)))}
    recoveries = layer_recoveries(run)
    notes = [] if recoveries else ["no sweep: nothing to correlate with (`interp-steer sweep`)"]
    if scan.n_left_out:
        notes.append(f"{scan.n_left_out} pairs with an empty or missing response are left out")
    if recoveries:
        table = pd.DataFrame([recovery.as_row() for recovery in recoveries])
        tables["recovery"] = table.astype({"layer": "int64"})
        tables["correlation"] = pd.DataFrame(list(_correlations(scan, recoveries)))
    return Findings(
        tables=tables,
        inputs=(run.responses_file, run.probes_file, run.sweep_folder),
        notes=tuple(notes),
        config={"positions": scan.positions, "seed": study.sampling.seed},
    )


def _effects(scan: RunScan) -> Iterator[dict[str, Any]]:
    scale = scan.scale
    counts = {
        "n_contrasts": len(scan.contrasts),
        "n_scenarios": len({contrast.scenario for contrast in scan.contrasts}),
    }
    for (layer, patch), odds in scan.patched.items():
        for unit in UNITS:
            yield {
                "layer": layer,
                "segment": patch.segment,
                "patch": patch.kind,
                "draw": patch.draw,
                "unit": unit,
                **as_columns("effect", scale.effect(odds, unit)),
                "log_odds": _mean(odds, unit),
                "log_odds_aligned": _mean(scale.aligned, unit),
                "log_odds_malicious": _mean(scale.malicious, unit),
                **counts,
            }


def _mean(odds: LogOdds, unit: str) -> float:
    return float(getattr(odds, unit).mean())


def _correlations(scan: RunScan, recoveries: list[LayerRecovery]) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, str], dict[int, float]] = {}
    for one in recoveries:
        groups.setdefault((one.scope, one.method), {})[one.layer] = one.recovered
    layers = list(dict.fromkeys(layer for layer, _ in scan.patched))
    for segment in SHOWN:
        patch = Patch(kind="v_hat", segment=segment)
        by_layer = {layer: scan.patched[layer, patch] for layer in layers}
        for unit in UNITS:
            for (scope, method), recovery in groups.items():
                found = rank_correlation_estimate(scan.scale, by_layer, recovery, unit=unit)
                yield {
                    "segment": segment,
                    "unit": unit,
                    "scope": scope,
                    "method": method,
                    **as_columns("spearman", found),
                    "n_layers": len(set(by_layer) & set(recovery)),
                }


ANALYSIS = Analysis(name="causal_scan", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
