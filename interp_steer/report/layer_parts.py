"""Of every layer: how readable the trait is, what steering there does, and the causal scan.

Values and intervals are those that the figures draw (`plots.from_sweep`, the analysis
layer_readability); the causal scan is the figure itself.
"""

import html
import json
import re
from typing import Any, cast

import pandas as pd

from interp_steer.analysis.frames import numbers
from interp_steer.analysis.run_rows import steered_rows
from interp_steer.names import resid_post
from interp_steer.plots.figure_files import MissingStageError
from interp_steer.plots.from_analyses import draw_scan
from interp_steer.plots.from_sweep import layer_sweep
from interp_steer.plots.layers import MEASURES, LayerSweep
from interp_steer.plots.sources import RunSource
from interp_steer.plots.style import SCREEN
from interp_steer.probes import LayerProbe
from interp_steer.report.parts import plain

READABILITY = ("cohens_d", "auroc", "cosine_caa")
"""Measures of the layer view; the first two cross-fitted, the cosine of the direction itself."""


def probes_part(source: RunSource) -> dict[str, Any]:
    """Boundary and statistics of every layer's probe, and the hook it reads."""
    return {"layers": [_probe(probe) for probe in source.probes.probes]}


def _probe(probe: LayerProbe) -> dict[str, Any]:
    names = ("layer", "boundary", "mu_pos", "sigma_pos", "mu_neg", "sigma_neg", "delta_mu")
    numbers = {name: getattr(probe, name) for name in names}
    return plain({"hook": resid_post(probe.layer), "converged": probe.converged, **numbers})


def readability_part(source: RunSource) -> dict[str, Any]:
    """Cohen's d, AUROC and cosine by layer, with intervals and null where the analysis was run."""
    frame = pd.DataFrame(
        [
            {
                "layer": probe.layer,
                "cohens_d": probe.crossfit.cohens_d,
                "auroc": probe.crossfit.auroc,
                "cosine_caa": probe.cosine_caa,
            }
            for probe in source.probes.probes
        ]
    )
    ends = ["value_low", "value_high", "null_low", "null_high"]
    without: str | None = None
    bands = pd.DataFrame(columns=["layer", "measure", "fit", *ends])
    try:
        bands = source.analysis("layer_readability", list(bands.columns))
    except MissingStageError as missing:
        without = missing.command
    measures = {}
    for name in READABILITY:
        fit = "in_sample" if name == "cosine_caa" else "crossfit"
        mine = bands[(bands["measure"] == name) & (bands["fit"] == fit)].set_index("layer")
        aligned = mine.reindex(frame["layer"])
        found = {end: numbers(aligned, end) for end in ends}
        measures[name] = {"value": numbers(frame, name), **found}
    said = {"layers": list(frame["layer"]), "measures": measures, "intervals_command": without}
    return plain({**said, "n": _n_responses(source)})


def _n_responses(source: RunSource) -> dict[str, int] | None:
    try:
        pair = source.residuals
    except MissingStageError:
        return None
    return {side: len(getattr(pair, side).n_tokens) for side in ("aligned", "malicious")}


def sweep_part(source: RunSource) -> dict[str, Any]:
    """Scores of every cell under the malicious prompt, by scope, baselines and operating points."""
    there = set(steered_rows(source.sweep)["scope"])
    scopes = [scope for scope in source.scopes() if scope in there]
    if not scopes:
        raise MissingStageError(
            "the sweep has no steered cell under the malicious prompt",
            command=source.command("sweep"),
        )
    return {"scopes": {scope: _scope(layer_sweep(source, scope)) for scope in scopes}} | {
        "select_command": None
        if source.run.operating_points_file.exists()
        else source.command("select")
    }


def _scope(sweep: LayerSweep) -> dict[str, Any]:
    ends = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    columns = ["method", "layer", "alpha", *ends, "n_rows", "n_scenarios"]
    return plain(
        {
            "cells": {name: sweep.scores[name].tolist() for name in columns},
            "aligned": {name: getattr(sweep.aligned, name) for name in MEASURES},
            "malicious": {name: getattr(sweep.malicious, name) for name in MEASURES},
            "points": {
                method: {"layer": layer, "alpha": alpha}
                for method, (layer, alpha) in sweep.operating_points.items()
            },
            "n_missing": sweep.n_missing,
            "limit": sweep.limit,
            "coherence_share": sweep.coherence_share,
        }
    )


def scan_part(source: RunSource) -> dict[str, Any]:
    """The figure of the causal scan without its title, which becomes a caption."""
    (drawing,) = draw_scan(source)
    figure = drawing.build(SCREEN)
    caption = _plain_text(str(cast(Any, figure.layout).title.text))
    figure.update_layout(title_text="", width=None, margin_t=14, autosize=True)
    drawn = json.loads(cast(str, figure.to_json()))
    return {"figure": drawn, "caption": caption, "notes": list(drawing.notes)}


def _plain_text(markup: str) -> str:
    """A title of plotly's without its tags; its text is escaped, hence safe to unescape."""
    return html.unescape(re.sub(r"<[^>]*>", "", markup.replace("<br>", " ")))
