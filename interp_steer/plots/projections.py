"""Where both sides' responses and tokens lie along one layer's direction (the paper's figure 1).

Separated histograms say that the trait is *decodable* at the layer, not that the model uses it
there nor that steering there works; that is what `plot_layers` shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp_steer.figure_files import FigureError
from interp_steer.names import resid_post
from interp_steer.plot_style import ALIGNED, INK, MALICIOUS, TARGET, faded, finish
from interp_steer.probes import LayerProbe

SHOWN_SHARE = 0.999
"""Central share of the projections that the axis spans; what lies beyond is counted in a title."""
MAX_BINS = 160
"""Bins of a histogram at most: more is noise at print size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionSample:
    """Projections on one layer's v_hat, of both sides, in activation units."""

    aligned: Float[np.ndarray, "aligned"]
    """Under the aligned prompt: one value a response or a token."""
    malicious: Float[np.ndarray, "malicious"]
    """Under the malicious prompt: one value a response or a token."""
    unit: str
    """What one value stands for, in the plural: "responses", "tokens"."""

    def __post_init__(self) -> None:
        for side in ("aligned", "malicious"):
            values = getattr(self, side)
            if not values.size:
                raise FigureError(f"no {side} projections of {self.unit}; both sides are needed")
            if not np.isfinite(values).all():
                bad = int((~np.isfinite(values)).sum())
                raise FigureError(
                    f"{bad} of {values.size} {side} projections of {self.unit} are not finite; "
                    "check the residuals they come from"
                )


def projection_distributions(
    probe: LayerProbe,
    pooled: ProjectionSample,
    *,
    tokens: ProjectionSample | None = None,
    target: float | None = None,
    title: str = "",
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

    Raises:
        FigureError: `target` is not finite.
    """
    if target is not None and not np.isfinite(target):
        raise FigureError(f"the target must be a finite projection, got {target}")
    samples = [pooled] if tokens is None else [pooled, tokens]
    marks = _marks(probe, target)
    span = _span(samples, [mark.x for mark in marks])
    panels = ["response-averaged", "single tokens"]
    titles = [_panel_title(name, s, span) for name, s in zip(panels, samples, strict=False)]
    figure = make_subplots(
        rows=len(samples), cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.14
    )
    for row, sample in enumerate(samples, start=1):
        _draw_sample(figure, sample, span, row=row)
        for mark in marks:
            _draw_mark(figure, mark, row=row)
        figure.update_yaxes(title_text="density (1 / activation unit)", row=row, col=1)
    figure.update_xaxes(range=span, showticklabels=True)
    axis = f"projection on v̂ at {resid_post(probe.layer)} (activation units)"
    figure.update_xaxes(title_text=axis, row=len(samples), col=1)
    headline = title or f"projections at layer {probe.layer}"
    figure.update_annotations(font_size=12, x=0, xanchor="left")
    return finish(figure, headline, height=160 + 230 * len(samples))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """A vertical line of a histogram."""

    name: str
    x: float
    colour: str
    dash: str


def _marks(probe: LayerProbe, target: float | None) -> list[_Mark]:
    marks = [
        _Mark(name="boundary m", x=float(probe.boundary), colour=INK, dash="solid"),
        _Mark(name="mean aligned μ<sub>+</sub>", x=float(probe.mu_pos), colour=ALIGNED, dash="dot"),
        _Mark(
            name="mean malicious μ<sub>−</sub>",
            x=float(probe.mu_neg),
            colour=MALICIOUS,
            dash="dash",
        ),
    ]
    if target is not None:
        marks.append(_Mark(name="StTP target s", x=target, colour=TARGET, dash="dashdot"))
    return marks


def _span(samples: Sequence[ProjectionSample], marks: Sequence[float]) -> tuple[float, float]:
    """Axis range: the central share of every sample and all marks, with a margin of 4 %."""
    tail = (1 - SHOWN_SHARE) / 2
    ends = [
        *(
            np.quantile(side, [tail, 1 - tail])
            for s in samples
            for side in (s.aligned, s.malicious)
        ),
        np.asarray(marks, dtype=np.float64),
    ]
    every = np.concatenate(ends)
    low, high = float(every.min()), float(every.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _panel_title(name: str, sample: ProjectionSample, span: tuple[float, float]) -> str:
    """Panel title with n of both sides and how many values the axis leaves out."""
    text = f"{name}: n = {sample.aligned.size:,} aligned, {sample.malicious.size:,} malicious"
    both = np.concatenate([sample.aligned, sample.malicious])
    beyond = int(((both < span[0]) | (both > span[1])).sum())
    text += f" {sample.unit}"
    return f"{text} ({beyond:,} beyond the axis)" if beyond else text


def _draw_sample(
    figure: go.Figure, sample: ProjectionSample, span: tuple[float, float], *, row: int
) -> None:
    """Both densities as filled steps: a solid line, and a dashed one over a hatched fill."""
    edges = _edges(sample, span)
    width = edges[1] - edges[0]
    looks = (("aligned", ALIGNED, "solid", ""), ("malicious", MALICIOUS, "dash", "/"))
    for side, colour, dash, hatch in looks:
        values = getattr(sample, side)
        density = np.histogram(values, bins=edges)[0] / (values.size * width)
        figure.add_scatter(
            x=edges,
            y=np.append(density, 0.0),
            mode="lines",
            line={"shape": "hv", "color": colour, "dash": dash, "width": 1.5},
            fill="tozeroy",
            fillcolor=faded(colour),
            fillpattern={"shape": hatch, "fgcolor": colour, "fgopacity": 0.5, "size": 6},
            name=f"{side} prompt",
            legendgroup=side,
            showlegend=row == 1,
            row=row,
            col=1,
        )


def _edges(sample: ProjectionSample, span: tuple[float, float]) -> Float[np.ndarray, "edge"]:
    """Bins shared by both sides, of the width that Scott's rule gives the narrower of them."""
    both = np.concatenate([sample.aligned, sample.malicious])
    low, high = np.clip([both.min(), both.max()], *span)
    spread = [side.std() / side.size ** (1 / 3) for side in (sample.aligned, sample.malicious)]
    length = high - low or (span[1] - span[0]) / 50
    n_bins = length / (3.5 * min(spread)) if min(spread) else MAX_BINS
    return np.linspace(low, low + length, int(np.clip(n_bins, 10, MAX_BINS)) + 1)


def _draw_mark(figure: go.Figure, mark: _Mark, *, row: int) -> None:
    """A vertical line over the whole panel; the legend says its value."""
    line = {"color": mark.colour, "dash": mark.dash, "width": 2}
    ends = {"x0": mark.x, "x1": mark.x, "y0": 0, "y1": 1, "yref": "y domain"}
    figure.add_shape(type="line", line=line, **ends, row=row, col=1)
    if row == 1:
        name = f"{mark.name} = {mark.x:.2f}"
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, row=1, col=1)
