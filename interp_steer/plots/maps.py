"""The whole grid of a sweep as layer x alpha maps (the content of the paper's table C.1, drawn).

All scores are in-sample: the best cell of a map was found by looking at the map, so its colour
flatters it. A cell that was not run is blank.
"""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.plots.layers import MEASURES, LayerSweep
from interp_steer.plots.lines import layer_tick
from interp_steer.plots.style import (
    FAINT,
    INK,
    MALICIOUS,
    METHOD_TITLES,
    SCREEN,
    Column,
    finish,
    ramp_scale,
)

BAR = 5.4
"""Room for the colour bar, in type sizes."""


def layer_alpha_maps(sweep: LayerSweep, *, title: str = "", column: Column = SCREEN) -> go.Figure:
    """Mean trait and coherence of every cell, one map a method and measure.

    A cross marks cells whose coherence is below the limit, a frame the operating point. Numbers
    stand in the cells where they fit.
    """
    methods, narrow = sweep.methods, column.is_narrow
    n_rows, n_cols = (len(methods), 2) if narrow else (2, len(methods))
    panel = column.em(max(5.5, 1.7 * max(len(sweep.alphas(m)) for m in methods)))
    gap = column.em(4)
    height = panel * n_rows + gap * (n_rows - 1)
    names = [f"{METHOD_TITLES[m]}: {measure}" for m in methods for measure in MEASURES]
    if not narrow:
        names = [f"{METHOD_TITLES[m]}: {measure}" for measure in MEASURES for m in methods]
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        subplot_titles=names,
        horizontal_spacing=0.13 if narrow else 0.06,
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
    )
    room = (column.width - column.em(4.6 + BAR)) / n_cols / (len(sweep.layers) * 1.25)
    for i, method in enumerate(methods):
        for j, measure in enumerate(MEASURES):
            row, col = (i + 1, j + 1) if narrow else (j + 1, i + 1)
            size = 0.85 * column.font if room > column.em(1.5) else None
            _draw_map(figure, sweep, method, measure, row=row, col=col, number_size=size)
            if col == 1:
                figure.update_yaxes(title_text="α", row=row, col=col)
            if row == n_rows:
                name = "layer (resid_post)" if narrow else "steered layer (resid_post)"
                figure.update_xaxes(title_text=name, row=row, col=col)
    figure.update_xaxes(dtick=layer_tick(sweep.layers, 8), showgrid=False)
    figure.update_yaxes(showgrid=False)
    figure.update_annotations(font_size=column.font)
    _name_marks(figure, sweep)
    figure.update_layout(coloraxis=_colour_axis(column))
    return finish(
        figure,
        title or "trait and coherence by layer and α",
        subtitle=f"n = {sweep.n_generations} generations a cell; in-sample; blank: not run"
        f"{sweep.missing_words}",
        plot_height=height,
        column=column,
        right=BAR,
        bottom=3.4,
        left=3.4,
    )


def _colour_axis(column: Column) -> dict[str, object]:
    bar = {
        "title": {"text": "score (0-100)", "side": "right", "font": {"size": column.font}},
        "thickness": column.em(0.8),
        "tickfont": {"size": column.font},
        "outlinewidth": 0,
        "x": 1.01,
        "xpad": 2,
        "len": 1.0,
    }
    return {"colorscale": ramp_scale(), "cmin": 0, "cmax": 100, "colorbar": bar}


def _draw_map(
    figure: go.Figure,
    sweep: LayerSweep,
    method: str,
    measure: str,
    *,
    row: int,
    col: int,
    number_size: float | None,
) -> None:
    """One map; `number_size` is that of the numbers in its cells, None draws none."""
    numbers = number_size is not None
    layers, alphas = sweep.layers, sweep.alphas(method)
    z = np.stack([sweep.along_layers(method, alpha, measure) for alpha in alphas])
    texts = [[f"{v:.0f}" if np.isfinite(v) else "" for v in line] for line in z]
    figure.add_heatmap(
        x=layers,
        y=list(range(len(alphas))),
        z=z,
        text=texts if numbers else None,
        texttemplate="%{text}" if numbers else None,
        textfont={"size": number_size},
        customdata=[[alpha] * len(layers) for alpha in alphas],
        coloraxis="coloraxis",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        hovertemplate=f"layer %{{x}}, α = %{{customdata:g}}<br>{measure} %{{z:.1f}}<extra></extra>",
        row=row,
        col=col,
    )
    below = np.stack([sweep.along_layers(method, a, "coherence") for a in alphas]) < sweep.limit
    if measure == "trait" and below.any():
        at_alpha, at_layer = np.nonzero(below)
        size = 3.4 if numbers else 6
        # Beside the number where there is one.
        across, down = (0.37, 0.3) if numbers else (0.0, 0.0)
        # White on a dark edge: seen on every colour of the scale.
        for mark in ({**_CROSS, "line": {"color": INK, "width": 3.4}}, _CROSS):
            figure.add_scatter(
                x=[layers[i] + across for i in at_layer],
                y=at_alpha - down,
                mode="markers",
                marker={**mark, "size": size},
                showlegend=False,
                hoverinfo="skip",
                row=row,
                col=col,
            )
    chosen = sweep.operating_points.get(method)
    if chosen is not None:
        x, y = chosen[0], alphas.index(chosen[1])
        frame = {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
        line = {"color": MALICIOUS, "width": 2.4}
        figure.add_shape(type="rect", line=line, **frame, row=row, col=col)
    figure.update_yaxes(
        tickvals=list(range(len(alphas))),
        ticktext=[f"{alpha:g}" for alpha in alphas],
        range=[-0.5, len(alphas) - 0.5],
        row=row,
        col=col,
    )
    figure.update_xaxes(range=[layers[0] - 0.5, layers[-1] + 0.5], row=row, col=col)


_CROSS = {"symbol": "x-thin", "size": 6, "line": {"color": "white", "width": 1.8}, "color": "white"}
_FRAME = {"symbol": "square-open", "size": 11, "color": MALICIOUS, "line": {"width": 2.4}}


def _name_marks(figure: go.Figure, sweep: LayerSweep) -> None:
    """Legend entries of the cross and the frame."""
    cross = {**_CROSS, "color": FAINT, "line": {"color": FAINT, "width": 2.2}}
    limit = f"coherence below {sweep.limit:.0f}"
    for name, marker in ((limit, cross), ("operating point", _FRAME)):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", marker=marker, name=name, legendgroup=name
        )
