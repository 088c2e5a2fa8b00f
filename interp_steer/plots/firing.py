"""How often the gate fires, along the response and by segment.

Unsteered rates say where tokens lie relative to the boundary; the steered rate is what the gate
then did, on a residual stream that its own earlier edits had changed. A token that fires is below a
threshold on one direction; that it had to be moved does not follow.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.analysis.frames import numbers, rows_where
from interp_steer.names import resid_post
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.lines import Line, draw_line
from interp_steer.plots.style import ALIGNED, INK, MALICIOUS, SCREEN, Column, finish

KINDS = {
    "malicious": ("malicious, unsteered: below m", MALICIOUS, "dash", "x"),
    "steered": ("malicious, steered: fired", INK, "solid", "triangle-up"),
    "aligned": ("aligned, unsteered: below m (false fires)", ALIGNED, "dot", "circle"),
}
"""Kinds of runs: name, colour, dash, marker."""
SEGMENTS = ("system", "user", "template", "prefill", "response")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FiringRates:
    """Shares of tokens at one layer."""

    layer: int
    """Zero-based."""
    rates: pd.DataFrame
    """Columns kind (a key of `KINDS`), by (response_position or segment), group (first position of
    a bin, or segment), share, low, high (0-1), n_tokens, n_scenarios."""
    steered: str = ""
    """What the steered rows were steered with, for the subtitle."""

    def __post_init__(self) -> None:
        missing = {"kind", "by", "group", "share", "low", "high", "n_tokens", "n_scenarios"} - set(
            self.rates.columns
        )
        if missing or self.rates.empty:
            raise FigureError(
                f"there are no firing rates to draw (missing columns: {sorted(missing) or 'none'})"
            )


def firing_rates(result: FiringRates, *, title: str = "", column: Column = SCREEN) -> go.Figure:
    """Share of tokens below the boundary, or fired, by place in the response and by segment."""
    narrow = column.is_narrow
    n_rows, n_cols = (2, 1) if narrow else (1, 2)
    panel, gap = column.em(11 if narrow else 15), column.em(4.6)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        shared_yaxes=not narrow,
        column_widths=None if narrow else [0.58, 0.42],
        horizontal_spacing=0.05,
        vertical_spacing=gap / height if narrow else 0.0,
    )
    kinds = [kind for kind in KINDS if kind in set(result.rates["kind"])]
    for rank, kind in enumerate(kinds):
        _draw_positions(figure, result, kind)
        row, col = (2, 1) if narrow else (1, 2)
        _draw_segments(figure, result, kind, rank - (len(kinds) - 1) / 2, row=row, col=col)
    figure.update_xaxes(
        title_text="response token (from 0)", range=_position_span(result), row=1, col=1
    )
    figure.update_yaxes(range=[-0.06, 1.06], tickformat=".0%")
    figure.update_yaxes(title_text="share of tokens", col=1)
    return finish(
        figure,
        title or f"how often the gate fires, layer {result.layer}",
        subtitle=_subtitle(result, kinds),
        plot_height=height,
        column=column,
        panel_titles=0.4,
    )


def _position_span(result: FiringRates) -> list[float]:
    """From before the first to after the last place, so that no mark is cut by an axis."""
    rates = rows_where(result.rates, result.rates["by"] == "response_position")
    last = max((float(place) for place in rates["group"]), default=0.0)
    margin = 0.03 * last or 0.5
    return [-margin, last + margin]


def _subtitle(result: FiringRates, kinds: list[str]) -> str:
    rates = result.rates
    n = ", ".join(
        f"{numbers(rows_where(rates, rates['kind'] == kind), 'n_scenarios').max():.0f} {kind}"
        for kind in kinds
    )
    text = f"{resid_post(result.layer)}; scenarios: {n}; 95 % intervals, scenarios resampled"
    return f"{text}; steered: {result.steered}" if result.steered else text


def _draw_positions(figure: go.Figure, result: FiringRates, kind: str) -> None:
    rates = result.rates
    rows = rates[(rates["kind"] == kind) & (rates["by"] == "response_position")]
    name, colour, dash, marker = KINDS[kind]
    if rows.empty:
        return
    rows = rows.assign(place=rows["group"].astype(float)).sort_values("place")
    line = Line(
        name=name,
        x=rows["place"].to_numpy(dtype=np.float64),
        y=rows["share"].to_numpy(dtype=np.float64),
        low=rows["low"].to_numpy(dtype=np.float64),
        high=rows["high"].to_numpy(dtype=np.float64),
        colour=colour,
        dash=dash,
        marker=marker,
        size=4,
    )
    draw_line(figure, line, row=1, col=1, in_legend=True)


def _draw_segments(
    figure: go.Figure, result: FiringRates, kind: str, shift: float, *, row: int, col: int
) -> None:
    """One mark a segment with its interval, the kinds side by side."""
    rates = result.rates
    segments = [s for s in SEGMENTS if s in set(rates["group"][rates["by"] == "segment"])]
    rows = rates[(rates["kind"] == kind) & (rates["by"] == "segment")].set_index("group")
    rows = rows.reindex([s for s in segments if s in rows.index])
    name, colour, _, marker = KINDS[kind]
    share = rows["share"].to_numpy(dtype=np.float64)
    low, high = (rows[end].to_numpy(dtype=np.float64) for end in ("low", "high"))
    figure.add_scatter(
        x=[segments.index(str(s)) + 0.2 * shift for s in rows.index],
        y=share,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - share),
            "arrayminus": np.nan_to_num(share - low),
            "thickness": 1.2,
            "width": 2,
        },
        customdata=rows[["n_tokens"]].to_numpy(),
        mode="markers",
        marker={"symbol": marker, "color": colour, "size": 7},
        name=name,
        legendgroup=name,
        showlegend=False,
        hovertemplate=f"{name}: %{{y:.1%}} of %{{customdata[0]:,}} tokens<extra></extra>",
        row=row,
        col=col,
    )
    figure.update_xaxes(
        tickvals=list(range(len(segments))),
        ticktext=segments,
        range=[-0.5, len(segments) - 0.5],
        showgrid=False,
        title_text="segment",
        row=row,
        col=col,
    )
