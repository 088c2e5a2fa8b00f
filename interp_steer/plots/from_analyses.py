"""From tables of analyses, traces and projections to what figure 9 draws."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import ClusterBootstrap, as_columns
from interp_steer.analysis.frames import numbers, rows_where
from interp_steer.analysis.trace_frames import trace_command
from interp_steer.plots.figure_files import Drawing, MissingStageError
from interp_steer.plots.firing import FiringRates, firing_rates
from interp_steer.plots.scan import CausalScan, causal_scan
from interp_steer.plots.sources import RunSource
from interp_steer.plots.style import METHOD_TITLES

N_BINS = 16
"""Bins of response positions at most."""
CORRELATED = (("after_system", "all"), ("user", "all"), ("response", "response"))
"""Segment and scope whose rank correlation the figure quotes."""


def draw_firing(source: RunSource) -> list[Drawing]:
    """Figure 9, firing rates: unsteered from the projections, steered from the traces."""
    layer, steered, words = _traced_layer(source)
    names = ["scenario", "side", "pos", "segment", "projection", "response_index"]
    tokens = source.projections(names, [("layer", "==", layer)])
    boundary = source.probe_layer(layer).boundary
    tokens["hit"] = tokens["projection"] < boundary
    parts = [tokens.rename(columns={"side": "kind"})]
    notes: tuple[str, ...] = ()
    if steered is None:
        notes = (f"no steered rates: the run has no trace; make one: {trace_command(source.run)}",)
    else:
        parts.append(steered)
    every = pd.concat(parts, ignore_index=True)
    width = _bin_width(every)
    rates = pd.DataFrame(list(_rates(every, width)))
    result = FiringRates(layer=layer, rates=rates, steered=words)
    title = f"{source.heading}: how often does the gate fire, layer {layer}?"
    return [
        Drawing(
            name="firing-rates",
            table=rates,
            build=lambda column: firing_rates(result, title=title, column=column),
            notes=notes,
        )
    ]


def _traced_layer(source: RunSource) -> tuple[int, pd.DataFrame | None, str]:
    """Layer to show, in-scope traced tokens of a gated method there, and what that method is."""
    try:
        traces = source.traces
    except MissingStageError:
        return source.shown_layer(), None, ""
    traces = rows_where(
        traces, (traces["side"] == "malicious") & (traces["direction"] == "aligned")
    )
    for method in ("sttp", "stmp"):
        for scope in ("all", "response"):
            rows = rows_where(
                traces,
                (traces["method"] == method) & (traces["scope"] == scope) & traces["in_scope"],
            )
            if len(rows):
                layer = int(numbers(rows, "layer")[0])
                rows = rows_where(rows, rows["layer"] == layer)
                alpha = float(numbers(rows, "alpha")[0])
                words = f"{METHOD_TITLES[method]}, α = {alpha:g}, scope {scope}"
                steered = rows.assign(kind="steered", hit=rows["fired"], response_index=0)
                return layer, steered, words
    return source.shown_layer(), None, ""


def _bin_width(tokens: pd.DataFrame) -> int:
    longest = tokens[tokens["segment"] == "response"].groupby(["kind", "scenario"]).size().max()
    return max(1, int(np.ceil((longest if np.isfinite(longest) else 1) / N_BINS)))


def _rates(tokens: pd.DataFrame, width: int) -> Iterator[dict[str, Any]]:
    """Share of hits of every kind, by segment and by bin of the response position."""
    for kind, mine in tokens.groupby("kind"):
        for segment, group in mine.groupby("segment"):
            yield _rate(group, kind=kind, by="segment", group=str(segment))
        response = rows_where(mine, mine["segment"] == "response")
        starts = response.groupby(["scenario", "response_index"])["pos"].transform("min")
        bins = ((response["pos"] - starts) // width) * width
        for start in sorted(set(bins)):
            group = rows_where(response, bins == start)
            yield _rate(group, kind=kind, by="response_position", group=f"{start:.0f}")


def _rate(rows: pd.DataFrame, **about: Any) -> dict[str, Any]:
    boot = ClusterBootstrap(rows["scenario"].astype(str).tolist())
    estimate = boot.mean(rows["hit"].to_numpy(dtype=np.float64), bounds=(0.0, 1.0))
    columns = as_columns("share", estimate)
    return {
        **about,
        "share": columns["share"],
        "low": columns["share_low"],
        "high": columns["share_high"],
        "n_tokens": len(rows),
        "n_scenarios": boot.n_clusters,
    }


def draw_scan(source: RunSource) -> list[Drawing]:
    """Figure 9, the causal scan, beside recovery and readability."""
    columns = ["layer", "segment", "patch", "unit", "effect", "effect_low", "effect_high"]
    effects = source.analysis("causal_scan", columns)
    effects = rows_where(effects, effects["unit"] == "summed").reset_index(drop=True)
    result = CausalScan(
        effects=effects,
        recovered=_recovered(source),
        separation={p.layer: p.crossfit.auroc for p in source.probes.probes},
        correlations=_correlations(source),
    )
    notes = () if result.recovered is not None else ("no sweep beside the scan",)
    title = f"{source.heading}: where does the trait live?"
    return [
        Drawing(
            name="causal-scan",
            table=effects,
            build=lambda column: causal_scan(result, title=title, column=column),
            notes=notes,
        )
    ]


def _recovered(source: RunSource) -> pd.DataFrame | None:
    try:
        table = source.analysis("causal_scan_recovery", ["layer", "scope", "method", "recovered"])
    except MissingStageError:
        return None
    return rows_where(table, table["method"] == "best")


def _correlations(source: RunSource) -> dict[tuple[str, str], tuple[float, float, float]]:
    names = ["spearman", "spearman_low", "spearman_high"]
    try:
        table = source.analysis("causal_scan_correlation", ["segment", "scope", "unit", *names])
    except MissingStageError:
        return {}
    table = rows_where(table, (table["unit"] == "summed") & (table["method"] == "best"))
    found = {}
    for segment, scope in CORRELATED:
        rows = rows_where(table, (table["segment"] == segment) & (table["scope"] == scope))
        if len(rows):
            value, low, high = (float(numbers(rows, name)[0]) for name in names)
            found[segment, scope] = (value, low, high)
    return found
