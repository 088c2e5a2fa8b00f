"""The figures of one run, drawn from its artifacts.

Loading this module loads plotly. Every figure shows what a stage measured; which scenarios it was
measured on is in its title.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from interp_steer.cells import ALIGNED, MALICIOUS
from interp_steer.fit_stage import load_probes
from interp_steer.plots import (
    Baseline,
    LayerSweep,
    ProjectionSample,
    projection_distributions,
    readability_by_layer,
    trait_coherence_by_layer,
    write_html,
)
from interp_steer.probes import LayerProbe
from interp_steer.reporting import OperatingPoint, Report
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run
from interp_steer.selection import CellScore, baseline, cell_scores
from interp_steer.sweep import read_rows
from interp_steer.trace_files import read_traces
from interp_steer.trace_view import render_html


def write_figures(run: Run, report: Report, *, command: str) -> list[Path]:
    """Readability, projections at the chosen layers, trait and coherence by layer for each scope.

    Args:
        run: a run with a finished sweep.
        report: its operating points.
        command: what made the figures, for their sidecars.

    Returns:
        The pages, in reading order.
    """
    sidecar = {"command": command, "config": {"run": run.path.name}}
    trait = str(run.manifest["trait"])
    figures = {
        "readability": readability_by_layer(
            load_probes(run), title=f"{trait}: readability by layer"
        )
    }
    for layer, point in _shown_layers(report.points).items():
        figures[f"projections-layer-{layer}"] = _projections(run, layer, point, trait)
    scores = cell_scores(read_rows(run), report.split.selection)
    for scope in dict.fromkeys(point.choice.scope for point in report.points):
        figures[f"trait-coherence-{_file_name(scope)}"] = trait_coherence_by_layer(
            _layer_sweep(scores, report, scope),
            title=f"{trait}, scope {scope}: steered by layer, selection scenarios",
        )
    return [
        write_html(figure, run.figures_folder / f"{name}.html", sidecar)
        for name, figure in figures.items()
    ]


def write_trace_pages(run: Run) -> list[Path]:
    """One HTML page for each stored trace."""
    pages = []
    for stored in sorted(run.traces_folder.glob("*.parquet")):
        page = run.figures_folder / f"trace-{stored.stem}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        text = render_html(read_traces(stored), f"{run.manifest['trait']}: {stored.stem}")
        page.write_text(text, encoding="utf-8")
        pages.append(page)
    return pages


def _shown_layers(points: Sequence[OperatingPoint]) -> dict[int, OperatingPoint]:
    """StTP's chosen layers (it alone has a target to show); the first point's without StTP."""
    shown = [p for p in points if p.choice.method == "sttp"] or list(points[:1])
    layers: dict[int, OperatingPoint] = {}
    for point in shown:
        if point.selected.cell.layer is not None:
            layers.setdefault(point.selected.cell.layer, point)
    return layers


def _projections(run: Run, layer: int, point: OperatingPoint, trait: str):
    probe = load_probes(run).probe(layer)
    target = None
    if point.choice.method == "sttp" and point.selected.cell.alpha is not None:
        target = probe.mu_pos + point.selected.cell.alpha * probe.sigma_pos
    tokens = None
    if run.projections_file.exists():
        tokens = ProjectionSample(
            aligned=_token_projections(run, layer, "aligned"),
            malicious=_token_projections(run, layer, "malicious"),
            unit="response tokens",
        )
    return projection_distributions(
        probe,
        _pooled_projections(run, probe),
        tokens=tokens,
        target=target,
        title=f"{trait}: projections of the training responses, layer {layer}",
    )


def _pooled_projections(run: Run, probe: LayerProbe) -> ProjectionSample:
    pair = load_residuals(run.residuals_file)
    place = pair.aligned.layers.index(probe.layer)
    return ProjectionSample(
        aligned=probe.project(pair.aligned.values[:, place]).numpy(),
        malicious=probe.project(pair.malicious.values[:, place]).numpy(),
        unit="responses",
    )


def _token_projections(run: Run, layer: int, side: str) -> Float[np.ndarray, "token"]:
    chosen = [("layer", "==", layer), ("side", "==", side), ("segment", "==", "response")]
    table = pq.read_table(run.projections_file, columns=["projection"], filters=chosen)
    return table["projection"].to_numpy()


def _layer_sweep(scores: Sequence[CellScore], report: Report, scope: str) -> LayerSweep:
    import pandas as pd

    cells = [s for s in scores if s.cell.is_trait_steering and s.cell.scope == scope]
    frame = pd.DataFrame(
        {
            "method": [s.cell.method for s in cells],
            "layer": [s.cell.layer for s in cells],
            "alpha": [s.cell.alpha for s in cells],
            "trait": [s.trait for s in cells],
            "coherence": [s.coherence for s in cells],
        }
    )
    chosen = {
        p.choice.method: (p.selected.cell.layer, p.selected.cell.alpha)
        for p in report.points
        if p.choice.scope == scope
    }
    return LayerSweep(
        scores=frame,
        aligned=_as_baseline(baseline(scores, ALIGNED)),
        malicious=_as_baseline(baseline(scores, MALICIOUS)),
        operating_points={
            method: (layer, alpha)
            for method, (layer, alpha) in chosen.items()
            if layer is not None and alpha is not None
        },
        n_generations=min(s.n_rows for s in cells),
        coherence_share=report.coherence_share,
    )


def _as_baseline(score: CellScore) -> Baseline:
    return Baseline(trait=score.trait, coherence=score.coherence)


def _file_name(scope: str) -> str:
    return scope.replace(":", "-").replace("+", "-")
