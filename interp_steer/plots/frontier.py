"""What trait costs in coherence: every cell of a sweep, and each method's frontier.

In-sample, like every map of a grid: the ends of a frontier are maxima over many cells, and nothing
on it was confirmed on other scenarios.
"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots

from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.layers import MEASURES, LayerSweep
from interp_steer.plots.style import (
    ALIGNED,
    INK,
    MALICIOUS,
    METHOD_LOOKS,
    METHOD_TITLES,
    SCREEN,
    Column,
    finish,
)


def on_frontier(
    trait: Float[np.ndarray, "cell"], coherence: Float[np.ndarray, "cell"]
) -> Bool[np.ndarray, "cell"]:
    """Which cells no other cell dominates (as much of both, and more of one); NaN never."""
    known = np.isfinite(trait) & np.isfinite(coherence)
    found = known.copy()
    for i in np.flatnonzero(known):
        as_good = known & (trait >= trait[i]) & (coherence >= coherence[i])
        found[i] = not (as_good & ((trait > trait[i]) | (coherence > coherence[i]))).any()
    return found


def frontiers(
    sweeps: Mapping[str, LayerSweep], *, title: str = "", column: Column = SCREEN
) -> go.Figure:
    """Trait against coherence of every cell, one panel a scope, with each method's frontier.

    A frontier joins the cells that no other cell of the method beats in both; its ends are maxima
    over many cells and flatter. Crosses are the unsteered baselines, rings the operating points.

    Raises:
        FigureError: no scopes.
    """
    if not sweeps:
        raise FigureError("no scopes to draw; give at least one LayerSweep")
    n_rows, n_cols = (len(sweeps), 1) if column.is_narrow else (1, len(sweeps))
    panel, gap = column.em(14 if column.is_narrow else 20), column.em(4.6)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        subplot_titles=[f"scope {scope}" for scope in sweeps],
        shared_yaxes=not column.is_narrow,
        horizontal_spacing=0.05,
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
    )
    for place, sweep in enumerate(sweeps.values()):
        row, col = (place + 1, 1) if column.is_narrow else (1, place + 1)
        for method in sweep.methods:
            _draw_frontier(figure, sweep, method, row=row, col=col, first=place == 0)
        _draw_baselines(figure, sweep, row=row, col=col, first=place == 0)
        if row == n_rows:
            figure.update_xaxes(title_text="coherence (0-100)", row=row, col=col)
        if col == 1:
            figure.update_yaxes(title_text="trait (0-100)", row=row, col=col)
    figure.update_xaxes(range=[-4, 107], dtick=25)
    figure.update_yaxes(range=[-4, 107], dtick=25)
    figure.update_annotations(font_size=column.font)
    n = next(iter(sweeps.values())).n_generations
    n_missing = sum(sweep.n_missing for sweep in sweeps.values())
    missing = f"; {n_missing} generations without a score left out" if n_missing else ""
    return finish(
        figure,
        title or "trait against coherence",
        subtitle=f"one mark a cell (layer, α), n = {n} generations each; in-sample; line: cells "
        f"that no other of the method beats in both{missing}",
        plot_height=height,
        column=column,
        bottom=3.4,
    )


def _draw_frontier(
    figure: go.Figure, sweep: LayerSweep, method: str, *, row: int, col: int, first: bool
) -> None:
    colour, dash, symbol = METHOD_LOOKS[method]
    rows = sweep.scores.query("method == @method")
    trait, coherence = (rows[m].to_numpy(dtype=np.float64) for m in MEASURES)
    figure.add_scatter(
        x=coherence,
        y=trait,
        customdata=rows[["layer", "alpha"]].to_numpy(),
        mode="markers",
        marker={"symbol": symbol, "color": colour, "size": 5, "opacity": 0.55},
        name=METHOD_TITLES[method],
        legendgroup=method,
        showlegend=first,
        cliponaxis=False,
        hovertemplate=f"{METHOD_TITLES[method]} layer %{{customdata[0]}}, α = %{{customdata[1]:g}}"
        "<br>trait %{y:.1f}, coherence %{x:.1f}<extra></extra>",
        row=row,
        col=col,
    )
    best = np.flatnonzero(on_frontier(trait, coherence))
    best = best[np.argsort(coherence[best])]
    figure.add_scatter(
        x=coherence[best],
        y=trait[best],
        mode="lines",
        line={"color": colour, "dash": dash, "width": 1.6},
        legendgroup=method,
        showlegend=False,
        hoverinfo="skip",
        row=row,
        col=col,
    )
    chosen = sweep.operating_points.get(method)
    cell = None if chosen is None else sweep.cell(method, *chosen)
    if cell is not None:
        figure.add_scatter(
            x=[cell["coherence"]],
            y=[cell["trait"]],
            mode="markers",
            marker={"symbol": f"{symbol}-open", "size": 11, "color": INK, "line": {"width": 2}},
            name="operating point",
            legendgroup="operating point",
            legendrank=1001,
            cliponaxis=False,
            showlegend=first and method == sweep.methods[0],
            hovertemplate=f"operating point of {METHOD_TITLES[method]}<extra></extra>",
            row=row,
            col=col,
        )


def _draw_baselines(
    figure: go.Figure, sweep: LayerSweep, *, row: int, col: int, first: bool
) -> None:
    for side, colour, symbol in (
        ("aligned", ALIGNED, "cross-thin"),
        ("malicious", MALICIOUS, "x-thin"),
    ):
        base = getattr(sweep, side)
        figure.add_scatter(
            x=[base.coherence],
            y=[base.trait],
            mode="markers",
            marker={"symbol": symbol, "size": 9, "line": {"color": colour, "width": 2.4}},
            name=f"{side}, unsteered",
            cliponaxis=False,
            legendgroup=side,
            showlegend=first,
            hovertemplate=f"{side} baseline<extra></extra>",
            row=row,
            col=col,
        )
    line = {"color": INK, "dash": "longdashdot", "width": 1.2}
    ends = {"x0": sweep.limit, "x1": sweep.limit, "y0": 0, "y1": 1, "yref": "y domain"}
    figure.add_shape(type="line", line=line, **ends, row=row, col=col)
    if first:
        name = f"coherence limit ({sweep.coherence_share:.0%} of aligned)"
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, legendgroup=name)
