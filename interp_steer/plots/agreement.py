"""How steady the direction is: with another estimator, and with other scenarios.

A direction that two halves of the scenarios agree on is a steady one, not thereby the right one,
and one that agrees with the mean difference has not been shown to steer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.analysis.frames import numbers, rows_where
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.lines import Line, draw_level, draw_line, layer_span, layer_tick
from interp_steer.plots.style import (
    ALIGNED,
    FAINT,
    INK,
    MALICIOUS,
    SCREEN,
    TARGET,
    Column,
    finish,
)

METHOD_ROWS = {
    "logistic": ("logistic regression", ALIGNED, "solid", "circle"),
    "logistic_sklearn_default": ("scikit-learn defaults", TARGET, "dot", "diamond"),
    "mean_difference": ("mean difference", MALICIOUS, "dash", "square"),
}
"""Estimators of the direction: name, colour, dash, marker."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DirectionAgreement:
    """Cosines by layer."""

    caa: pd.DataFrame
    """Columns layer, value, low, high: v_hat and the mean difference; NaN without intervals."""
    halves: pd.DataFrame | None
    """Columns layer, method, value, low, high (range over splits), n_scenarios: directions of two
    halves without a common scenario; None where that was not computed."""
    random_cosine: float | None
    """1 / sqrt(d_model), the spread of the cosines of unrelated directions."""

    def __post_init__(self) -> None:
        if self.caa.empty:
            raise FigureError("there is no layer to draw; fit probes first")

    def table(self) -> pd.DataFrame:
        """Both parts, one row a layer and comparison."""
        parts = [self.caa.assign(comparison="logistic regression and mean difference")]
        if self.halves is not None:
            parts.append(self.halves.assign(comparison="split halves"))
        return pd.concat(parts, ignore_index=True)


def direction_agreement(
    result: DirectionAgreement, *, title: str = "", column: Column = SCREEN
) -> go.Figure:
    """Cosine of v_hat and the mean difference by layer (the paper's figure A.3), and split halves.

    The second panel shows cosines of directions that two halves of the scenarios give, with their
    range over splits. Dotted is the spread of unrelated directions.
    """
    layers = sorted({int(layer) for layer in result.caa["layer"]})
    has_halves = result.halves is not None
    names = ["logistic regression and mean difference"]
    names += ["two halves of the scenarios"] if has_halves else []
    n_rows, n_cols = (len(names), 1) if column.is_narrow else (1, len(names))
    panel, gap = column.em(11 if column.is_narrow else 15), column.em(4.4)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        subplot_titles=names,
        shared_yaxes=not column.is_narrow,
        horizontal_spacing=0.05,
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
    )
    caa = _cosine_line(result.caa, layers, ("cos(v̂, mean difference)", INK, "solid", "diamond"))
    draw_line(figure, caa, row=1, col=1, in_legend=True)
    panels = [(1, 1)]
    if result.halves is not None:
        row, col = (2, 1) if column.is_narrow else (1, 2)
        panels.append((row, col))
        for method in [m for m in METHOD_ROWS if m in set(result.halves["method"])]:
            rows = rows_where(result.halves, result.halves["method"] == method)
            line = _cosine_line(rows, layers, METHOD_ROWS[method])
            draw_line(figure, line, row=row, col=col, in_legend=True)
    for row, col in panels:
        if result.random_cosine is not None:
            draw_level(
                figure,
                "unrelated directions (1/√d)",
                result.random_cosine,
                span=layer_span(layers),
                colour=FAINT,
                dash="dot",
                row=row,
                col=col,
                in_legend=(row, col) == (1, 1),
            )
        if row == n_rows:
            figure.update_xaxes(title_text="layer (resid_post)", row=row, col=col)
        if col == 1:
            figure.update_yaxes(title_text="cosine", row=row, col=col)
    figure.update_xaxes(range=layer_span(layers), tick0=0, dtick=layer_tick(layers))
    lowest = min(0.0, float(np.nanmin(result.table()[["value", "low"]].to_numpy(dtype=float))))
    figure.update_yaxes(range=[lowest - 0.04, 1.04])
    figure.update_annotations(font_size=column.font)
    return finish(
        figure,
        title or "agreement of directions by layer",
        subtitle=_agreement_subtitle(result),
        plot_height=height,
        column=column,
    )


def _cosine_line(
    rows: pd.DataFrame, layers: Sequence[int], look: tuple[str, str, str, str]
) -> Line:
    """One comparison along the layers; `look` is name, colour, dash and marker."""
    by_layer = rows.set_index("layer").reindex(layers)
    value, low, high = (by_layer[c].to_numpy(dtype=np.float64) for c in ("value", "low", "high"))
    name, colour, dash, marker = look
    return Line(
        name=name,
        x=np.array(layers, dtype=np.float64),
        y=value,
        low=low,
        high=high,
        colour=colour,
        dash=dash,
        marker=marker,
    )


def _agreement_subtitle(result: DirectionAgreement) -> str:
    text = "v̂: logistic regression on response-averaged resid_post"
    if np.isfinite(result.caa[["low", "high"]].to_numpy(dtype=float)).any():
        text += "; first band: 95 % interval, groups of scenarios left out in turn"
    if result.halves is not None:
        n = int(numbers(result.halves, "n_scenarios").max())
        text += f"; halves: {n} scenarios each, band: range over splits"
    return text
