"""From a run's probes, residuals and token projections to what figures 1, 2, 4 and 5 draw."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp_steer.analysis.frames import numbers, rows_where
from interp_steer.config import PAPER_GRID
from interp_steer.plots.agreement import DirectionAgreement, direction_agreement
from interp_steer.plots.densities import ProjectionSample, distribution_table
from interp_steer.plots.figure_files import Drawing, MissingStageError
from interp_steer.plots.from_sweep import layer_sweep, sweep_scopes
from interp_steer.plots.layers import LayerSweep
from interp_steer.plots.plane import SteeringPlane, placed_plane, plane_figure, steering_plane
from interp_steer.plots.projections import (
    LayerSample,
    distributions_by_layer,
    projection_distributions,
)
from interp_steer.plots.readability import readability_by_layer
from interp_steer.plots.sources import RunSource
from interp_steer.plots.style import METHOD_TITLES
from interp_steer.plots.transfer import transfer_curves, transfer_figure
from interp_steer.probes import LayerProbe

TOKEN_TABLE = "baseline_projections"
"""Places of the unsteered baselines' tokens, an analysis that needs the model."""
N_LAYERS_SHOWN = 4
CENTRAL = (0.005, 0.995)
"""Quantiles of the token projections between which transfer curves are drawn."""
UNCHOSEN = {"swfc": 1.0, "sttp": 6.0, "stmp": 1.0}
"""Coefficients that the plane shows before a sweep chose any."""


def draw_readability(source: RunSource) -> list[Drawing]:
    """Readability by layer, with intervals and null where the analysis was run."""
    notes: tuple[str, ...] = ()
    bands = None
    try:
        columns = ["layer", "measure", "fit", "value_low", "value_high", "null_low", "null_high"]
        bands = source.analysis("layer_readability", columns)
    except MissingStageError as missing:
        notes = (f"no intervals and no null: {missing}",)
    n = _count_words(source)
    if bands is not None:
        n += "; blue band: 95 % intervals of the cross-fitted values; grey: shuffled labels"
    rows = [
        {
            "layer": probe.layer,
            "fit": kind,
            "cohens_d": getattr(probe, kind).cohens_d,
            "accuracy": getattr(probe, kind).accuracy,
            "auroc": getattr(probe, kind).auroc,
        }
        for probe in source.probes.probes
        for kind in ("crossfit", "in_sample")
    ]
    table = pd.DataFrame(rows)
    if bands is not None:
        table = bands
    title = f"{source.heading}: at which layers can the trait be read?"
    return [
        Drawing(
            name="readability",
            table=table,
            build=lambda column: readability_by_layer(
                source.probes, bands=bands, title=title, n=n, column=column
            ),
            notes=notes,
        )
    ]


def _count_words(source: RunSource) -> str:
    try:
        pair = source.residuals
    except MissingStageError:
        return ""
    n = (len(pair.aligned.n_tokens), len(pair.malicious.n_tokens))
    return f"n = {n[0]} aligned, {n[1]} malicious responses"


def draw_projections(source: RunSource) -> list[Drawing]:
    """Figure 1: response-averaged above, single tokens below, with StTP's target."""
    layer = source.shown_layer()
    probe = source.probe_layer(layer)
    pooled = pooled_sample(source, probe)
    notes: tuple[str, ...] = ()
    tokens = None
    try:
        tokens = token_sample(source, layer)
    except MissingStageError as missing:
        notes = (f"no single tokens: {missing}",)
    target = None
    point = source.shown_points("all").get("sttp")
    if point is not None and point.layer == layer:
        target = probe.mu_pos + point.alpha * probe.sigma_pos
    samples = [pooled] if tokens is None else [pooled, tokens]
    title = f"{source.heading}: where do both sides lie along v̂, layer {layer}?"
    return [
        Drawing(
            name="projections",
            table=distribution_table(probe, *samples).assign(target=target),
            build=lambda column: projection_distributions(
                probe, pooled, tokens=tokens, target=target, title=title, column=column
            ),
            notes=notes,
        )
    ]


def pooled_sample(source: RunSource, probe: LayerProbe) -> ProjectionSample:
    """Response-averaged projections of both sides at one layer."""
    v_hat = probe.v_hat.numpy()
    sides = {side: source.pooled(probe.layer, side) @ v_hat for side in ("aligned", "malicious")}
    return ProjectionSample(**sides, unit="responses")


def token_sample(source: RunSource, layer: int) -> ProjectionSample:
    """Projections of single response tokens of both sides at one layer."""
    return ProjectionSample(
        aligned=_token_projections(source, layer, "aligned"),
        malicious=_token_projections(source, layer, "malicious"),
        unit="response tokens",
    )


def _token_projections(source: RunSource, layer: int, side: str) -> Float[np.ndarray, "token"]:
    chosen = [("layer", "==", layer), ("side", "==", side), ("segment", "==", "response")]
    return source.projections(["projection"], chosen)["projection"].to_numpy(dtype=np.float64)


def draw_layers(source: RunSource) -> list[Drawing]:
    """Figure 4: distributions at four layers, spread over the depth, the shown one among them."""
    samples = [
        LayerSample(probe=probe, pooled=pooled_sample(source, probe))
        for probe in map(source.probe_layer, _spread(source.probes.layers, source.shown_layer()))
    ]
    table = pd.concat([distribution_table(s.probe, s.pooled) for s in samples], ignore_index=True)
    title = f"{source.heading}: where do both sides lie along v̂, by depth?"
    return [
        Drawing(
            name="projections-by-layer",
            table=table,
            build=lambda column: distributions_by_layer(samples, title=title, column=column),
        )
    ]


def _spread(layers: Sequence[int], shown: int) -> list[int]:
    """At most four layers from first to last; the one nearest to `shown` gives way to it."""
    ordered = sorted(layers)
    places = np.unique(np.linspace(0, len(ordered) - 1, N_LAYERS_SHOWN).round().astype(int))
    chosen = [ordered[place] for place in places]
    if shown not in chosen:
        inner = range(1, len(chosen) - 1) if len(chosen) > 2 else range(len(chosen))
        nearest = min(inner, key=lambda i: abs(chosen[i] - shown))
        chosen[nearest] = shown
    return sorted(set(chosen))


def draw_transfer(source: RunSource) -> list[Drawing]:
    """Figure 2, left: rho' over rho for every method and coefficient of the sweep's grid."""
    layer = source.shown_layer()
    probe = source.probe_layer(layer)
    points = source.shown_points("all") or source.shown_points("response")
    chosen = {m: p.alpha for m, p in points.items() if p.layer == layer}
    result = transfer_curves(
        probe, _grid(source, layer), span=_transfer_span(source, probe), chosen=chosen
    )
    title = f"{source.heading}: what does each method do to a projection?"
    return [
        Drawing(
            name="transfer",
            table=result.table(),
            build=lambda column: transfer_figure(result, title=title, column=column),
        )
    ]


def _grid(source: RunSource, layer: int) -> Mapping[str, Sequence[float]]:
    """Coefficients that the sweep ran at the layer; the paper's where there is no sweep."""
    try:
        sweep = source.sweep
    except MissingStageError:
        return PAPER_GRID
    rows = sweep[(sweep["layer"] == layer) & (sweep["control"] == "none")]
    grid = {m: sorted(set(rows["alpha"][rows["method"] == m])) for m in METHOD_TITLES}
    return {m: alphas for m, alphas in grid.items() if alphas} or PAPER_GRID


def _transfer_span(source: RunSource, probe: LayerProbe) -> tuple[float, float]:
    """Where single tokens lie, or, without them, well beyond the response means."""
    try:
        tokens = token_sample(source, probe.layer)
        every = np.concatenate([tokens.aligned, tokens.malicious])
        low, high = np.quantile(every, CENTRAL)
    except MissingStageError:
        low, high = probe.mu_neg - abs(probe.delta_mu), probe.mu_pos + abs(probe.delta_mu)
    low = min(float(low), probe.mu_neg, probe.boundary)
    high = max(float(high), probe.mu_pos, probe.boundary)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def draw_plane(source: RunSource) -> list[Drawing]:
    """Figure 2, right: places in the plane, and where each method puts them.

    Single tokens where the analysis was run, else response means.
    """
    layer = source.shown_layer()
    probe, methods = source.probe_layer(layer), _plane_alphas(source, layer)
    what = "a token"
    try:
        result = _token_plane(source, probe, methods)
        notes = ("the law is applied to tokens of unsteered responses, each on its own",)
    except MissingStageError as missing:
        sides = (source.pooled(layer, side) for side in ("aligned", "malicious"))
        result = steering_plane(probe, *sides, methods=methods)
        what = "a response"
        notes = (
            "points are response means, the law applied to each as if it were a token; single "
            f"tokens spread wider: {missing}",
        )
    title = f"{source.heading}: where does steering put {what}, layer {layer}?"
    return [
        Drawing(
            name="steering-plane",
            table=result.table(),
            build=lambda column: plane_figure(result, title=title, column=column),
            notes=notes,
        )
    ]


def _token_plane(
    source: RunSource, probe: LayerProbe, methods: Mapping[str, float]
) -> SteeringPlane:
    """Response tokens of the sweep's unsteered baselines.

    Raises:
        MissingStageError: the analysis was not run, or has no tokens of the layer.
    """
    names = ["scenario", "side", "layer", "segment", "projection", "orthogonal", "orthogonal_share"]
    table = source.analysis(TOKEN_TABLE, names)
    rows = rows_where(table, (table["layer"] == probe.layer) & (table["segment"] == "response"))
    places = {
        side: rows_where(rows, rows["side"] == side)[["projection", "orthogonal"]]
        for side in ("aligned", "malicious")
    }
    if any(points.empty for points in places.values()):
        command = f"python -m analyses.{TOKEN_TABLE} {source.run.path}"
        raise MissingStageError(
            f"the table {TOKEN_TABLE} has no response tokens of both sides at layer {probe.layer}",
            command=command,
        )
    aligned, malicious = (points.to_numpy(dtype=np.float64) for points in places.values())
    return placed_plane(
        probe,
        aligned,
        malicious,
        methods=methods,
        orthogonal_share=float(numbers(rows, "orthogonal_share")[0]),
        unit=f"response tokens of {rows['scenario'].nunique()} scenarios",
    )


def _plane_alphas(source: RunSource, layer: int) -> dict[str, float]:
    """The operating point's coefficient, or the best of the layer's, or a usual one."""
    try:
        sweep = layer_sweep(source, sweep_scopes(source)[0])
    except MissingStageError:
        return dict(UNCHOSEN)
    found = {}
    for method in sweep.methods:
        point = sweep.operating_points.get(method)
        is_here = point is not None and point[0] == layer
        alpha = point[1] if point is not None and is_here else _best_alpha(sweep, method, layer)
        if alpha is not None:
            found[method] = alpha
    return found or dict(UNCHOSEN)


def _best_alpha(sweep: LayerSweep, method: str, layer: int) -> float | None:
    """Highest trait among the layer's cells that keep coherence; the most coherent without any."""
    scores = sweep.scores
    rows = rows_where(scores, (scores["method"] == method) & (scores["layer"] == layer))
    if rows.empty:
        return None
    keeping = rows_where(rows, rows["coherence"] >= sweep.limit)
    best = rows.sort_values("coherence") if keeping.empty else keeping.sort_values("trait")
    return float(numbers(best, "alpha")[-1])


def draw_agreement(source: RunSource) -> list[Drawing]:
    """Figure 5: cosine with the mean difference, and split halves where the analysis was run."""
    result, notes = _agreement(source)
    title = f"{source.heading}: do other estimators and scenarios give this direction?"
    return [
        Drawing(
            name="direction-agreement",
            table=result.table(),
            build=lambda column: direction_agreement(result, title=title, column=column),
            notes=notes,
        )
    ]


def _agreement(source: RunSource) -> tuple[DirectionAgreement, tuple[str, ...]]:
    notes: list[str] = []
    caa = pd.DataFrame(
        [
            {"layer": p.layer, "value": p.cosine_caa, "low": np.nan, "high": np.nan}
            for p in source.probes.probes
        ]
    )
    try:
        columns = ["layer", "measure", "value", "value_low", "value_high"]
        found = source.analysis("layer_readability", columns)
        ends = found[found["measure"] == "cosine_caa"].set_index("layer").reindex(caa["layer"])
        caa["low"], caa["high"] = ends["value_low"].to_numpy(), ends["value_high"].to_numpy()
    except MissingStageError as missing:
        notes.append(f"no intervals: {missing}")
    halves, random_cosine = None, 1 / np.sqrt(source.probes.v_hat.shape[1])
    try:
        halves = _halves(source)
    except MissingStageError as missing:
        notes.append(f"no split halves: {missing}")
    return DirectionAgreement(caa=caa, halves=halves, random_cosine=random_cosine), tuple(notes)


def _halves(source: RunSource) -> pd.DataFrame:
    columns = ["layer", "comparison", "method", "n_scenarios", "cosine_mean", "cosine_min"]
    table = source.analysis("direction_stability", [*columns, "cosine_max"])
    disjoint = rows_where(table, table["comparison"] == "disjoint")
    most = numbers(disjoint, "n_scenarios").max(initial=0)
    largest = rows_where(disjoint, disjoint["n_scenarios"] == most)
    names = {"cosine_mean": "value", "cosine_min": "low", "cosine_max": "high"}
    kept = ["layer", "method", "value", "low", "high", "n_scenarios"]
    return largest.rename(columns=names).filter(kept).reset_index(drop=True)
