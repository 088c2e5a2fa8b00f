"""Measures that need no judge, by steered layer (the paper's figures C.3 and C.5).

Each says one narrow thing. Low cross-entropy under the unsteered model is not quality, and a large
move is not an effect; none of them replaces trait and coherence, beside which they are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.analysis.frames import numbers
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.lines import Line, draw_line, layer_span, layer_tick
from interp_steer.plots.style import (
    ALIGNED,
    METHOD_LOOKS,
    METHOD_TITLES,
    SCREEN,
    Column,
    finish,
)

MEASURE_TITLES = {
    "cross_entropy": "cross-entropy (nats/token)",
    "embedding_cosine": "embedding cosine",
    "target_distance": "|ρ′ − ρ| in scope (a.u.)",
    "relative_l2": "|Δh| / |h| in scope",
    "fired_share": "fired share of scope",
    "n_tokens": "length (tokens)",
    "repeated_4grams": "repeated 4-grams (share)",
    "distinct_2": "distinct bigrams (share)",
}
"""Measures that are drawn, with their axis titles."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerMeasures:
    """Means by method and layer, each method at one coefficient."""

    values: pd.DataFrame
    """Columns method, layer, alpha, measure, value, low, high, n_rows; measures are those of
    `MEASURE_TITLES` and cross_entropy_reference, the matched aligned baseline."""
    alphas: Mapping[str, float]
    """Coefficient shown for each method."""

    def __post_init__(self) -> None:
        missing = {"method", "layer", "measure", "value", "low", "high", "n_rows"} - set(
            self.values.columns
        )
        if missing:
            raise FigureError(f"the measures lack the columns {sorted(missing)}")
        if self.values.empty:
            raise FigureError("there are no measures to draw; run `interp-steer sweep` again")

    def line(self, method: str, measure: str, layers: list[int]) -> tuple[np.ndarray, ...]:
        """Value, low and high at every layer; NaN where there is none."""
        there = (self.values["method"] == method) & (self.values["measure"] == measure)
        rows = self.values[there].set_index("layer")
        return tuple(
            rows[name].reindex(layers).to_numpy(dtype=np.float64)
            for name in ("value", "low", "high")
        )


def measures_by_layer(
    result: LayerMeasures, *, title: str = "", column: Column = SCREEN
) -> go.Figure:
    """One panel a measure, one line a method with its 95 % interval.

    Beside the cross-entropies stands, dotted, that of the matched aligned responses: where a line
    touches it, steered text is as likely under the unsteered aligned model as its own.
    """
    there = set(result.values["measure"])
    measures = [m for m in MEASURE_TITLES if m in there]
    methods = [m for m in METHOD_TITLES if m in set(result.values["method"])]
    layers = sorted({int(layer) for layer in result.values["layer"]})
    n_cols = min(len(measures), 2 if column.is_narrow else 4)
    n_rows = -(-len(measures) // n_cols)
    panel, gap = column.em(8.5), column.em(4.2)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        subplot_titles=[MEASURE_TITLES[m] for m in measures],
        horizontal_spacing=0.16 if column.is_narrow else 0.07,
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
    )
    for place, measure in enumerate(measures):
        row, col = place // n_cols + 1, place % n_cols + 1
        for method in methods:
            colour, dash, marker = METHOD_LOOKS[method]
            value, low, high = result.line(method, measure, layers)
            line = Line(
                name=_name(result, method),
                x=np.array(layers, dtype=np.float64),
                y=value,
                low=low,
                high=high,
                colour=colour,
                dash=dash,
                marker=marker,
                size=4,
            )
            draw_line(figure, line, row=row, col=col, in_legend=place == 0)
        if measure == "cross_entropy" and "cross_entropy_reference" in there:
            _draw_reference(figure, result, methods, layers, row=row, col=col)
        if place + n_cols >= len(measures):
            figure.update_xaxes(title_text="layer (resid_post)", row=row, col=col)
    span = layer_span(layers)
    figure.update_xaxes(range=span, tick0=0, dtick=layer_tick(layers, 5))
    figure.update_yaxes(nticks=5)
    figure.update_annotations(font_size=column.font)
    n = int(numbers(result.values, "n_rows").min())
    return finish(
        figure,
        title or "judge-free measures by steered layer",
        subtitle=f"n = {n} generations a point, 95 % intervals over clusters of scenarios; "
        "ρ: projection on v̂ at resid_post of the steered layer, activation units (a.u.)",
        plot_height=height,
        column=column,
        left=3.4,
        bottom=3.4,
    )


def _name(result: LayerMeasures, method: str) -> str:
    alpha = result.alphas.get(method)
    return METHOD_TITLES[method] + ("" if alpha is None else f", α = {alpha:g}")


def _draw_reference(
    figure: go.Figure,
    result: LayerMeasures,
    methods: list[str],
    layers: list[int],
    *,
    row: int,
    col: int,
) -> None:
    """The aligned baseline's own cross-entropy, cut to the same lengths; the mean over methods."""
    every = [result.line(m, "cross_entropy_reference", layers)[0] for m in methods]
    stacked = np.stack(every)
    known = np.isfinite(stacked)
    mean = np.where(known, stacked, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    line = Line(
        name="aligned responses, matched",
        x=np.array(layers, dtype=np.float64),
        y=np.where(known.any(axis=0), mean, np.nan),
        colour=ALIGNED,
        dash="dot",
        width=2.2,
    )
    draw_line(figure, line, row=row, col=col, in_legend=True)
