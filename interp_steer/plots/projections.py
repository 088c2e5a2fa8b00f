"""Where both sides' responses and tokens lie along one layer's direction (the paper's figure 1).

Separated histograms say that the trait is *decodable* at the layer, not that the model uses it
there nor that steering there works; that is what `plot_layers` shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.names import resid_post
from interp_steer.plots.densities import (
    Mark,
    ProjectionSample,
    densities,
    shown_span,
    vertical_marks,
)
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.style import (
    ALIGNED,
    MALICIOUS,
    SCREEN,
    Column,
    faded,
    finish,
    number,
    wrapped,
)
from interp_steer.probes import LayerProbe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSample:
    """One layer's probe with the pooled projections on it."""

    probe: LayerProbe
    """Gives layer, boundary, means and Cohen's d."""
    pooled: ProjectionSample
    """Response-averaged projections."""


def projection_distributions(
    probe: LayerProbe,
    pooled: ProjectionSample,
    *,
    tokens: ProjectionSample | None = None,
    target: float | None = None,
    title: str = "",
    column: Column = SCREEN,
) -> go.Figure:
    """Where both sides lie along v_hat, with the boundary and the means (the paper's figure 1).

    Response-averaged above and, when given, single tokens below on the same axis: the gate looks at
    single tokens, which spread much wider about nearly the same means. Each panel is a density, so
    both sides have area 1 whatever their n. The axis spans the central 99.9 % of every sample and
    all marked positions; values beyond it are counted in the panel's title, not drawn.

    Args:
        probe: the layer's probe; gives boundary m and the class means mu+ and mu-.
        pooled: response-averaged projections.
        tokens: projections of single tokens.
        target: StTP's target s = mu+ + alpha sigma+, in activation units.
        title: headline, e.g. the trait and the model.
        column: for which place it is laid out.

    Raises:
        FigureError: `target` is not finite.
    """
    if target is not None and not np.isfinite(target):
        raise FigureError(f"the target must be a finite projection, got {target}")
    samples = [pooled] if tokens is None else [pooled, tokens]
    marks = vertical_marks(probe, target)
    span = shown_span(samples, [mark.x for mark in marks])
    panels = ["response-averaged", "single tokens"]
    titles = [_panel_title(name, s, span) for name, s in zip(panels, samples, strict=False)]
    panel = column.em(10 if column.is_narrow else 13)
    gap = column.em(5.4 if column.is_narrow else 4)
    height = panel * len(samples) + gap * (len(samples) - 1)
    figure = make_subplots(
        rows=len(samples),
        cols=1,
        subplot_titles=[wrapped(text, column.n_characters(0.8 * column.width)) for text in titles],
        vertical_spacing=gap / height,
    )
    for row, sample in enumerate(samples, start=1):
        _draw_sample(figure, sample, span, row=row, col=1)
        for mark in marks:
            _draw_mark(figure, mark, row=row, col=1)
        figure.update_yaxes(title_text="density (1 / a.u.)", row=row, col=1)
    figure.update_xaxes(range=span)
    figure.update_xaxes(title_text=_axis_title(probe, column), row=len(samples), col=1)
    _name_marks(figure, marks)
    figure.update_annotations(font_size=column.font, x=0, xanchor="left", align="left")
    headline = title or f"projections at layer {probe.layer}"
    return finish(
        figure,
        headline,
        subtitle="a.u.: activation units",
        plot_height=height,
        column=column,
        panel_titles=2.8 if column.is_narrow else 1.6,
    )


def distributions_by_layer(
    samples: Sequence[LayerSample], *, title: str = "", column: Column = SCREEN
) -> go.Figure:
    """Response-averaged projections at some layers, with m and Cohen's d (the paper's figure A.2).

    Every panel has its own axis: the scale of the residual stream grows with depth. Cohen's d is
    the cross-fitted one, of directions that have not seen the responses they separate; the drawn
    projections are in-sample.

    Raises:
        FigureError: no layers.
    """
    if not samples:
        raise FigureError("no layers to draw; give at least one LayerSample")
    n_cols = 2 if column.is_narrow else min(4, len(samples))
    n_cols = min(n_cols, len(samples))
    n_rows = -(-len(samples) // n_cols)
    panel, gap = column.em(9), column.em(6.4)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        subplot_titles=[_layer_title(sample) for sample in samples],
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
        horizontal_spacing=(0.13 if column.is_narrow else 0.06),
    )
    for place, sample in enumerate(samples):
        row, col = place // n_cols + 1, place % n_cols + 1
        marks = vertical_marks(sample.probe, None)
        span = shown_span([sample.pooled], [mark.x for mark in marks])
        _draw_sample(figure, sample.pooled, span, row=row, col=col)
        for mark in marks:
            _draw_mark(figure, mark, row=row, col=col)
        figure.update_xaxes(range=span, nticks=5, row=row, col=col)
        if col == 1:
            figure.update_yaxes(title_text="density (1 / a.u.)", row=row, col=col)
        if row == n_rows:
            figure.update_xaxes(title_text="ρ (a.u.)", row=row, col=col)
    _name_marks(figure, vertical_marks(samples[0].probe, None), with_values=False)
    figure.update_annotations(font_size=column.font)
    pooled = samples[0].pooled
    subtitle = (
        f"ρ: projection of resid_post on v̂, response-averaged, activation units (a.u.); n = "
        f"{pooled.aligned.size:,} aligned, {pooled.malicious.size:,} malicious {pooled.unit}; "
        "d: Cohen's d, cross-fitted; m: boundary"
    )
    return finish(
        figure,
        title or "projections by layer",
        subtitle=subtitle,
        plot_height=height,
        column=column,
        panel_titles=3.0,
    )


def _layer_title(sample: LayerSample) -> str:
    probe = sample.probe
    m, d = number(probe.boundary), number(probe.crossfit.cohens_d)
    return f"layer {probe.layer}<br>m = {m}, d = {d}"


def _axis_title(probe: LayerProbe, column: Column) -> str:
    text = f"projection ρ on v̂ at {resid_post(probe.layer)} (a.u.)"
    return wrapped(text, column.n_characters() - 8)


def _panel_title(name: str, sample: ProjectionSample, span: tuple[float, float]) -> str:
    """Panel title with n of both sides and how many values the axis leaves out."""
    text = f"{name}: n = {sample.aligned.size:,} aligned, {sample.malicious.size:,} malicious"
    both = np.concatenate([sample.aligned, sample.malicious])
    beyond = int(((both < span[0]) | (both > span[1])).sum())
    text += f" {sample.unit}"
    return f"{text} ({beyond:,} beyond the axis)" if beyond else text


def _draw_sample(
    figure: go.Figure, sample: ProjectionSample, span: tuple[float, float], *, row: int, col: int
) -> None:
    """Both densities as filled steps: a solid line, and a dashed one over a hatched fill."""
    edges, found = densities(sample, span)
    looks = (("aligned", ALIGNED, "solid", ""), ("malicious", MALICIOUS, "dash", "/"))
    for side, colour, dash, hatch in looks:
        figure.add_scatter(
            x=edges,
            y=np.append(found[side], 0.0),
            mode="lines",
            line={"shape": "hv", "color": colour, "dash": dash, "width": 1.3},
            fill="tozeroy",
            fillcolor=faded(colour),
            fillpattern={"shape": hatch, "fgcolor": colour, "fgopacity": 0.5, "size": 5},
            name=f"{side} prompt",
            legendgroup=side,
            showlegend=(row, col) == (1, 1),
            row=row,
            col=col,
        )


def _draw_mark(figure: go.Figure, mark: Mark, *, row: int, col: int) -> None:
    """A vertical line over the whole panel."""
    line = {"color": mark.colour, "dash": mark.dash, "width": 1.5}
    ends = {"x0": mark.x, "x1": mark.x, "y0": 0, "y1": 1, "yref": "y domain"}
    figure.add_shape(type="line", line=line, **ends, row=row, col=col)


def _name_marks(figure: go.Figure, marks: Sequence[Mark], *, with_values: bool = True) -> None:
    """Legend entries of the vertical lines."""
    for mark in marks:
        name = f"{mark.name} {number(mark.x)}" if with_values else mark.name
        line = {"color": mark.colour, "dash": mark.dash, "width": 1.5}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, legendgroup=name)
