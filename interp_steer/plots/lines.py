"""Lines with their intervals, drawn alike in every figure; NaN is a gap, never bridged.

An interval is a band of the line's own colour; a single point that has one gets a bar. What the
interval covers is the caller's to say, in the subtitle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp_steer.plots.style import FAINT, SERIES_LINE, faded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Line:
    """One series along an ordered axis."""

    name: str
    """Legend entry and hover name."""
    x: Float[np.ndarray, "point"]
    """Places, rising."""
    y: Float[np.ndarray, "point"]
    """Values; NaN leaves a gap."""
    low: Float[np.ndarray, "point"] | None = None
    """Lower ends of the intervals; NaN where there is none."""
    high: Float[np.ndarray, "point"] | None = None
    """Upper ends."""
    colour: str
    """Of line and band."""
    dash: str = "solid"
    """Of the line."""
    marker: str | None = None
    """Symbol; None draws the line alone."""
    width: float = SERIES_LINE
    """Of the line, in pixels."""
    size: float = 5
    """Of the markers, in pixels."""
    tag: tuple[str | float, ...] = ()
    """Behind the interval in each point's customdata, for whoever is told of clicks."""


def draw_line(
    figure: go.Figure, line: Line, *, row: int, col: int, in_legend: bool, unit: str = ""
) -> None:
    """Add `line` with its band to one panel; traces of one name toggle together."""
    if line.low is not None and line.high is not None:
        for x, low, high in _finite_runs(line):
            _draw_band(figure, line, (x, low, high), row=row, col=col)
    ends = np.stack([_or_nan(line.low, line), _or_nan(line.high, line)], axis=1)
    has_ends = bool(np.isfinite(ends).any())
    custom = [[*pair, *line.tag] for pair in ends.tolist()] if line.tag else ends
    interval = " [%{customdata[0]:.3g}, %{customdata[1]:.3g}]" if has_ends else ""
    figure.add_scatter(
        x=line.x,
        y=line.y,
        customdata=custom if has_ends or line.tag else None,
        mode="lines+markers" if line.marker else "lines",
        name=line.name,
        legendgroup=line.name,
        showlegend=in_legend,
        line={"color": line.colour, "dash": line.dash, "width": line.width},
        marker={"symbol": line.marker or "circle", "size": line.size, "color": line.colour},
        hovertemplate=f"{line.name}<br>%{{x}}: %{{y:.3g}}{interval} {unit}<extra></extra>",
        row=row,
        col=col,
    )


def draw_level(
    figure: go.Figure,
    name: str,
    y: float,
    *,
    span: tuple[float, float],
    colour: str,
    dash: str,
    row: int,
    col: int,
    in_legend: bool,
) -> None:
    """Add a horizontal reference line over `span`; nothing where `y` is not finite."""
    if not np.isfinite(y):
        return
    figure.add_scatter(
        x=list(span),
        y=[y, y],
        mode="lines",
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        line={"color": colour, "dash": dash, "width": 1.2},
        hovertemplate=f"{name}: {y:.3g}<extra></extra>",
        row=row,
        col=col,
    )


def mark_layer(figure: go.Figure, layer: int) -> go.Figure:
    """Shade one layer in every panel of a figure over layers (changed in place)."""
    figure.add_vrect(
        x0=layer - 0.5, x1=layer + 0.5, fillcolor=FAINT, opacity=0.16, line_width=0, layer="below"
    )
    return figure


def layer_tick(layers: Sequence[int], n_most: int = 10) -> int:
    """Distance of layer ticks: at most about `n_most` of them, always whole layers."""
    return max(1, -(-(max(layers) - min(layers)) // n_most))


def layer_span(layers: Sequence[int]) -> tuple[float, float]:
    """Range of a layer axis, half a layer wider at both ends."""
    return min(layers) - 0.5, max(layers) + 0.5


def _or_nan(values: Float[np.ndarray, "point"] | None, line: Line) -> Float[np.ndarray, "point"]:
    return np.full(len(line.x), np.nan) if values is None else values


def _finite_runs(line: Line) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield stretches of points whose interval is finite."""
    low, high = _or_nan(line.low, line), _or_nan(line.high, line)
    known = np.isfinite(low) & np.isfinite(high)
    starts = np.flatnonzero(known & ~np.r_[False, known[:-1]])
    stops = np.flatnonzero(known & ~np.r_[known[1:], False]) + 1
    for start, stop in zip(starts, stops, strict=True):
        yield line.x[start:stop], low[start:stop], high[start:stop]


def _draw_band(
    figure: go.Figure,
    line: Line,
    run: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    row: int,
    col: int,
) -> None:
    x, low, high = run
    is_point = len(x) == 1
    figure.add_scatter(
        x=np.r_[x, x] if is_point else np.r_[x, x[::-1]],
        y=np.r_[low, high] if is_point else np.r_[low, high[::-1]],
        mode="lines",
        fill=None if is_point else "toself",
        fillcolor=faded(line.colour, 0.2),
        line={"color": line.colour, "width": 1.2 if is_point else 0},
        legendgroup=line.name,
        name=line.name,
        showlegend=False,
        hoverinfo="skip",
        row=row,
        col=col,
    )
