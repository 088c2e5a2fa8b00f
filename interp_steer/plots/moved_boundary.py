"""Projections of one layer about a boundary that can be moved (the explorer's second view).

Two panels on one axis, responses above and single tokens below, as in figure 1; in the lower one,
where the malicious prompt's tokens would be put by an edit at the chosen threshold, and where
traced tokens of steered generations were. The former is arithmetic on unsteered tokens; only the
latter were seen. The figure's shapes are what a hand may drag, the threshold first, then StTP's
target.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp_steer.config import PAPER_GRID
from interp_steer.names import resid_post
from interp_steer.plots.densities import ProjectionSample, densities, shown_span
from interp_steer.plots.style import (
    ALIGNED,
    FAINT,
    INK,
    MALICIOUS,
    SCREEN,
    TARGET,
    Column,
    faded,
    finish,
    number,
)
from interp_steer.probes import LayerProbe

EXPECTED, TRACED = "#CC79A7", "#B07A00"
EDITED = "malicious, edit applied"
"""Name of the trace that follows threshold and coefficient; the last one of the figure."""
_DRAGGED = {
    "threshold (drag)": {"color": INK, "dash": "solid", "width": 3},
    "StTP target s (drag)": {"color": TARGET, "dash": "dashdot", "width": 3},
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steps:
    """A density as steps."""

    edges: Float[np.ndarray, "edge"]
    """Edges of the bins, activation units."""
    density: Float[np.ndarray, "bin"]
    """1 / activation units."""

    @property
    def heights(self) -> Float[np.ndarray, "edge"]:
        """The density at each edge, down to 0 at the last."""
        return np.append(self.density, 0.0)


def _dragged_shape(x: float, line: dict[str, Any]) -> dict[str, Any]:
    ends = {"x0": x, "x1": x, "y0": 0, "y1": 1, "xref": "x", "yref": "paper"}
    return {"type": "line", "line": line, **ends}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MovedBoundary:
    """What the figure draws, at one layer."""

    probe: LayerProbe
    """Gives boundary m and the class means."""
    method: str
    """swfc, sttp or stmp."""
    threshold: float | None
    """The gate in force; None for swfc, which has none."""
    target: float | None
    """StTP's target; None for the others."""
    pooled: ProjectionSample
    """Response-averaged projections."""
    tokens: ProjectionSample | None = None
    """Projections of single response tokens; None where the run has none."""
    expected: Float[np.ndarray, "token"] | None = None
    """The malicious tokens' projections after the edit."""
    traced: Float[np.ndarray, "traced"] | None = None
    """Projections after the edit of traced tokens in scope; None without a trace at this layer."""

    @property
    def span(self) -> tuple[float, float]:
        """Range of the projection axis; for StTP up to the target of the grid's last coefficient.

        So the axis holds still while threshold and target are moved within it.
        """
        samples = [s for s in (self.pooled, self.tokens) if s is not None]
        probe = self.probe
        marks = [probe.boundary, probe.mu_pos, probe.mu_neg]
        if self.target is not None:
            marks.append(probe.mu_pos + PAPER_GRID["sttp"][-1] * probe.sigma_pos)
        moved = [x for x in (self.threshold, self.target) if x is not None]
        return shown_span(samples, marks + moved)

    def dragged_shapes(self) -> list[dict[str, Any]]:
        """Threshold and StTP's target as shapes over both panels, in this order."""
        return [_dragged_shape(x, _DRAGGED[name]) for name, x in self._dragged]

    @property
    def _dragged(self) -> list[tuple[str, float]]:
        marks = zip(_DRAGGED, (self.threshold, self.target), strict=True)
        return [(name, x) for name, x in marks if x is not None]

    def edited_steps(self) -> Steps | None:
        """Density of the malicious tokens after the edit; None without them."""
        return None if self.expected is None else self._steps(self.expected)

    def traced_steps(self) -> Steps | None:
        """Density of the traced tokens after their edit; None without them."""
        return None if self.traced is None or not len(self.traced) else self._steps(self.traced)

    def _steps(self, values: Float[np.ndarray, "value"]) -> Steps:
        edges, _ = densities(self.pooled if self.tokens is None else self.tokens, self.span)
        width = edges[1] - edges[0]
        wide = np.arange(self.span[0], self.span[1] + width, width)
        density = np.histogram(values, bins=wide)[0] / (max(1, len(values)) * width)
        return Steps(edges=wide, density=density)


def moved_boundary(result: MovedBoundary, *, title: str = "", column: Column = SCREEN) -> go.Figure:
    """Both distributions with the threshold in force; densities beyond the axis are cut off.

    An edit can put every token on one place; the axis is that of the unedited densities, and a
    taller spike is cut at its top.
    """
    samples = [("response-averaged", result.pooled)]
    if result.tokens is not None:
        samples.append(("single response tokens", result.tokens))
    panel, gap = column.em(11), column.em(3.6)
    height = panel * len(samples) + gap * (len(samples) - 1)
    figure = make_subplots(
        rows=len(samples),
        cols=1,
        shared_xaxes=True,
        subplot_titles=[_panel_title(name, sample) for name, sample in samples],
        vertical_spacing=gap / height,
    )
    for row, (_, sample) in enumerate(samples, start=1):
        _draw_panel(figure, result, sample, row=row)
    _draw_dragged(figure, result)
    _draw_edited(figure, result)
    figure.update_xaxes(range=list(result.span))
    axis = f"projection ρ on v̂ at {resid_post(result.probe.layer)} (a.u.)"
    figure.update_xaxes(title_text=axis, row=len(samples), col=1)
    figure.update_yaxes(title_text="density (1 / a.u.)", rangemode="tozero")
    figure.update_annotations(font_size=column.font, x=0, xanchor="left", align="left")
    return finish(
        figure,
        title or f"layer {result.probe.layer}: move the boundary",
        subtitle=_subtitle(result),
        plot_height=height,
        column=column,
        panel_titles=1.8,
    )


def _subtitle(result: MovedBoundary) -> str:
    probe = result.probe
    text = f"a.u.: activation units; m = {number(probe.boundary)}, μ+ = {number(probe.mu_pos)}, "
    return text + f"μ− = {number(probe.mu_neg)}"


def _panel_title(name: str, sample: ProjectionSample) -> str:
    n = (sample.aligned.size, sample.malicious.size)
    return f"{name}: n = {n[0]:,} aligned, {n[1]:,} malicious"


def _draw_panel(
    figure: go.Figure, result: MovedBoundary, sample: ProjectionSample, *, row: int
) -> None:
    edges, found = densities(sample, result.span)
    for side, colour, dash in (("aligned", ALIGNED, "solid"), ("malicious", MALICIOUS, "dash")):
        _draw_steps(
            figure,
            Steps(edges=edges, density=found[side]),
            row=row,
            name=f"{side} prompt",
            fill=faded(colour),
            line={"color": colour, "dash": dash, "width": 1.4},
            in_legend=row == 1,
        )
    top = 1.12 * max(float(density.max(initial=0.0)) for density in found.values()) or 1.0
    _draw_fixed(figure, result, row=row, top=top)
    figure.update_yaxes(range=[0, top], row=row, col=1)


def _draw_edited(figure: go.Figure, result: MovedBoundary) -> None:
    """Where traced tokens were put, and, last, where the edit would put the malicious tokens."""
    row = 1 if result.tokens is None else 2
    found = (
        (result.traced_steps(), "traced: steered tokens in scope, after", TRACED, "dot"),
        (result.edited_steps(), EDITED, EXPECTED, "dashdot"),
    )
    for steps, name, colour, dash in found:
        if steps is not None:
            line = {"color": colour, "dash": dash, "width": 1.8}
            _draw_steps(figure, steps, row=row, name=name, line=line)


def _draw_steps(
    figure: go.Figure,
    steps: Steps,
    *,
    row: int,
    name: str,
    line: dict[str, object],
    fill: str | None = None,
    in_legend: bool = True,
) -> None:
    figure.add_scatter(
        x=steps.edges,
        y=steps.heights,
        mode="lines",
        line={"shape": "hv", **line},
        fill=None if fill is None else "tozeroy",
        fillcolor=fill,
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        hovertemplate=f"{name}<br>ρ %{{x:.3g}}: %{{y:.3g}}<extra></extra>",
        row=row,
        col=1,
    )


def _draw_dragged(figure: go.Figure, result: MovedBoundary) -> None:
    """Threshold and target as the figure's only shapes, since every shape can be dragged."""
    figure.update_layout(shapes=result.dragged_shapes())
    for name, line in _DRAGGED.items():
        if name in dict(result._dragged):
            figure.add_scatter(
                x=[None], y=[None], mode="lines", line=line, name=name, legendgroup=name
            )


def _draw_fixed(figure: go.Figure, result: MovedBoundary, *, row: int, top: float) -> None:
    """The probe's boundary and means, which no hand moves."""
    probe = result.probe
    marks = (
        ("boundary m", probe.boundary, FAINT, "solid"),
        ("aligned mean μ+", probe.mu_pos, ALIGNED, "dot"),
        ("malicious mean μ−", probe.mu_neg, MALICIOUS, "dot"),
    )
    for name, x, colour, dash in marks:
        figure.add_scatter(
            x=[x, x],
            y=[0, top],
            mode="lines",
            line={"color": colour, "dash": dash, "width": 1.4},
            name=name,
            legendgroup=name,
            showlegend=row == 1,
            hovertemplate=f"{name} {number(x)}<extra></extra>",
            row=row,
            col=1,
        )
