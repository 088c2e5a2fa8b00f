"""How long must one steer: the first K response tokens, throughout, or after a bad start.

Recovery by K at one configuration a method. That the first tokens suffice on short responses says
little about long ones; the responses' length stands in the subtitle for that reason.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.analysis.frames import numbers, rows_where
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.lines import Line, draw_level, draw_line
from interp_steer.plots.style import (
    FAINT,
    METHOD_LOOKS,
    METHOD_TITLES,
    SCREEN,
    Column,
    faded,
    finish,
)

PANELS = {
    "first": ("steering the first K response tokens", "K: steered tokens"),
    "prefill": ("after a prefilled start of P tokens", "P: prefilled tokens"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteeringDuration:
    """Recovered shares by K, and of continuous steering beside them."""

    shares: pd.DataFrame
    """Columns panel (first: malicious prompt, by steered tokens; prefill: by prefilled tokens),
    method, layer, alpha, scope, k (NaN for continuous steering in panel first), recovered, low,
    high (fractions of the gap), n_rows."""
    mean_tokens: float
    """Mean length of the steered responses, tokens."""

    def __post_init__(self) -> None:
        missing = {"panel", "method", "scope", "k", "recovered", "low", "high", "n_rows"} - set(
            self.shares.columns
        )
        if missing or self.shares.empty:
            raise FigureError(
                f"there are no durations to draw (missing columns: {sorted(missing) or 'none'})"
            )


def steering_duration(
    result: SteeringDuration, *, title: str = "", column: Column = SCREEN
) -> go.Figure:
    """Recovered share of the trait gap by K; thin level lines are continuous steering."""
    panels = [p for p in PANELS if p in set(result.shares["panel"])]
    n_rows, n_cols = (len(panels), 1) if column.is_narrow else (1, len(panels))
    panel, gap = column.em(12 if column.is_narrow else 16), column.em(5.4)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        subplot_titles=[PANELS[p][0] for p in panels],
        shared_yaxes=not column.is_narrow,
        horizontal_spacing=0.05,
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
    )
    for place, name in enumerate(panels):
        row, col = (place + 1, 1) if column.is_narrow else (1, place + 1)
        _draw_panel(figure, result, name, row=row, col=col, first=place == 0)
        figure.update_xaxes(title_text=PANELS[name][1], row=row, col=col)
        if col == 1:
            figure.update_yaxes(title_text="recovered share", row=row, col=col)
    figure.update_annotations(font_size=column.font)
    n = int(numbers(result.shares, "n_rows").min())
    return finish(
        figure,
        title or "how long one must steer",
        subtitle=f"n ≥ {n} generations a point, 95 % intervals over clusters of scenarios; "
        f"share of the gap, 0: unsteered, 1: aligned; level lines: throughout; responses have "
        f"{result.mean_tokens:.0f} tokens on average",
        plot_height=height,
        column=column,
    )


def _draw_panel(
    figure: go.Figure, result: SteeringDuration, panel: str, *, row: int, col: int, first: bool
) -> None:
    rows = rows_where(result.shares, result.shares["panel"] == panel)
    ks = sorted({float(k) for k in rows["k"] if np.isfinite(k)})
    places = {k: float(i) for i, k in enumerate(ks)}
    span = (-0.4, max(len(ks) - 0.6, 0.4))
    for level, name in ((0.0, "unsteered"), (1.0, "aligned prompt")):
        draw_level(
            figure,
            name,
            level,
            span=span,
            colour=FAINT,
            dash="dot" if level == 0 else "dash",
            row=row,
            col=col,
            in_legend=first,
        )
    for method in [m for m in METHOD_TITLES if m in set(rows["method"])]:
        mine = rows_where(rows, rows["method"] == method)
        by_k = rows_where(mine, np.isfinite(numbers(mine, "k"))).sort_values("k")
        _draw_by_k(figure, by_k, method, places, row=row, col=col, first=first)
        if panel == "first":
            _draw_continuous(figure, mine, method, span, row=row, col=col)
    figure.update_xaxes(
        tickvals=list(places.values()),
        ticktext=[f"{k:g}" for k in ks],
        range=list(span),
        row=row,
        col=col,
    )


def _draw_by_k(
    figure: go.Figure,
    rows: pd.DataFrame,
    method: str,
    places: dict[float, float],
    *,
    row: int,
    col: int,
    first: bool,
) -> None:
    colour, dash, marker = METHOD_LOOKS[method]
    by = "scope" if "prefill" in set(rows["panel"]) else "panel"
    for rank, (_, mine) in enumerate(rows.groupby(by)):
        line = Line(
            name=METHOD_TITLES[method],
            x=np.array([places[float(k)] for k in mine["k"]]),
            y=mine["recovered"].to_numpy(dtype=np.float64),
            low=mine["low"].to_numpy(dtype=np.float64),
            high=mine["high"].to_numpy(dtype=np.float64),
            colour=colour,
            dash=dash,
            marker=marker if rank == 0 else f"{marker}-open",
            size=6,
        )
        draw_line(figure, line, row=row, col=col, in_legend=first and rank == 0)


def _draw_continuous(
    figure: go.Figure,
    rows: pd.DataFrame,
    method: str,
    span: tuple[float, float],
    *,
    row: int,
    col: int,
) -> None:
    colour, dash, _ = METHOD_LOOKS[method]
    steady = rows_where(rows, ~np.isfinite(numbers(rows, "k")))
    for record in steady.to_dict("records"):
        if record["scope"] != "response":
            continue
        figure.add_scatter(
            x=list(span),
            y=[record["recovered"]] * 2,
            mode="lines",
            name=f"{METHOD_TITLES[method]} throughout",
            legendgroup="throughout",
            showlegend=False,
            line={"color": faded(colour, 0.8), "dash": dash, "width": 1},
            hovertemplate=f"{METHOD_TITLES[method]} throughout: %{{y:.2f}}<extra></extra>",
            row=row,
            col=col,
        )
