"""What the three interventions do to a projection: rho' as a function of rho.

Curves come from the very law that the hooks apply (`specs.resolve`, `interventions.move`), not from
a drawing of it. They show where a projection is put, not what that does to behaviour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp_steer.interventions import move
from interp_steer.names import resid_post
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.lines import Line, draw_line
from interp_steer.plots.style import (
    ALIGNED,
    DASHES,
    FAINT,
    INK,
    METHOD_TITLES,
    SCREEN,
    Column,
    finish,
    number,
    ramp_colour,
    wrapped,
)
from interp_steer.probes import LayerProbe
from interp_steer.specs import SteeringSpec, resolve

N_PLACES = 401
"""Places at which a transfer curve is evaluated."""
CURVE = 2
"""Place of the first curve among a panel's traces: after the aligned mean and the identity."""
GRID_NOTE = "thick: the operating point's α; lines from light to dark: rising α"
"""What a figure of several coefficients must say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TransferCurve:
    """One method at one coefficient: rho' over rho, in activation units."""

    method: str
    """swfc, sttp or stmp."""
    alpha: float
    """Its coefficient."""
    before: Float[np.ndarray, "place"]
    """rho, rising."""
    after: Float[np.ndarray, "place"]
    """rho'."""
    fired: Float[np.ndarray, "place"]
    """1 where the gate let the method act, 0 elsewhere."""
    threshold: float | None
    """The gate in force; None for swfc."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TransferCurves:
    """Curves of one layer."""

    probe: LayerProbe
    """The layer's probe."""
    curves: tuple[TransferCurve, ...]
    """Any methods and coefficients, over the same places."""
    chosen: Mapping[str, float]
    """Method to the coefficient of its operating point; methods without one are left out."""

    def table(self) -> pd.DataFrame:
        """One row a drawn place."""
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "layer": self.probe.layer,
                        "method": curve.method,
                        "alpha": curve.alpha,
                        "rho": curve.before,
                        "rho_after": curve.after,
                        "fired": curve.fired.astype(bool),
                    }
                )
                for curve in self.curves
            ],
            ignore_index=True,
        )


def steered_projections(
    probe: LayerProbe, method: str, alpha: float, rho: Float[np.ndarray, "place"]
) -> tuple[Float[np.ndarray, "place"], Float[np.ndarray, "place"]]:
    """Rho' and whether it fired (1 or 0) for every rho, by the law that the hooks apply.

    Raises:
        SteeringError: a method or coefficient that cannot be applied at this layer.
    """
    law = resolve(SteeringSpec(method=method, layer=probe.layer, alpha=alpha), probe).law
    moved = move(torch.from_numpy(np.asarray(rho, dtype=np.float64)), law)
    return rho + moved.shift.numpy(), moved.fired.numpy().astype(np.float64)


def transfer_curves(
    probe: LayerProbe,
    grid: Mapping[str, Sequence[float]],
    *,
    span: tuple[float, float],
    chosen: Mapping[str, float] | None = None,
) -> TransferCurves:
    """Evaluate every method of `grid` at its coefficients over `span` (activation units).

    Raises:
        FigureError: an empty grid.
        SteeringError: a coefficient that cannot be applied at this layer.
    """
    places = np.linspace(*span, N_PLACES)
    # The threshold itself belongs to the curve: the jump of a gate is drawn upright.
    places = np.unique(np.r_[places, probe.boundary, np.nextafter(probe.boundary, -np.inf)])
    curves = []
    for method, alphas in grid.items():
        threshold = None if method == "swfc" else probe.boundary
        for alpha in alphas:
            after, fired = steered_projections(probe, method, float(alpha), places)
            curves.append(
                TransferCurve(
                    method=method,
                    alpha=float(alpha),
                    before=places,
                    after=after,
                    fired=fired,
                    threshold=threshold,
                )
            )
    if not curves:
        raise FigureError("no coefficients to draw; give at least one method with one alpha")
    return TransferCurves(probe=probe, curves=tuple(curves), chosen=dict(chosen or {}))


def transfer_figure(
    result: TransferCurves, *, title: str = "", note: str = GRID_NOTE, column: Column = SCREEN
) -> go.Figure:
    """Rho' over rho for each method and coefficient (the paper's figure 2, left).

    Grey is the identity: there nothing moves. The vertical line is the boundary m, the gate of StTP
    and StMP; the line of the operating point's coefficient is thicker.
    """
    methods = [m for m in METHOD_TITLES if any(c.method == m for c in result.curves)]
    n_rows, n_cols = (len(methods), 1) if column.is_narrow else (1, len(methods))
    panel, gap = column.em(11 if column.is_narrow else 15), column.em(4.4)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        subplot_titles=[_alphas_title(result, m, column, n_cols) for m in methods],
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
        horizontal_spacing=0.09,
    )
    for place, method in enumerate(methods):
        row, col = (place + 1, 1) if column.is_narrow else (1, place + 1)
        _draw_transfer(figure, result, method, row=row, col=col, first=place == 0)
        if row == n_rows:
            figure.update_xaxes(title_text="ρ before (a.u.)", row=row, col=col)
        if col == 1:
            figure.update_yaxes(title_text="ρ′ after (a.u.)", row=row, col=col)
    figure.update_annotations(font_size=column.font)
    where = resid_post(result.probe.layer)
    return finish(
        figure,
        title or f"what each method does to a projection, layer {result.probe.layer}",
        subtitle=(f"ρ: projection on v̂ at {where}, activation units (a.u.); {note}"),
        plot_height=height,
        column=column,
        panel_titles=3.0,
        bottom=3.2,
    )


def curve_title(method: str, alphas: Sequence[float]) -> str:
    """Title of a panel: the method and its coefficients."""
    return f"{METHOD_TITLES[method]}, α = " + ", ".join(f"{a:g}" for a in alphas)


def _alphas_title(result: TransferCurves, method: str, column: Column, n_cols: int) -> str:
    alphas = sorted({c.alpha for c in result.curves if c.method == method})
    text = curve_title(method, alphas)
    return wrapped(text, column.n_characters(0.88 * column.width / n_cols))


def _draw_transfer(
    figure: go.Figure, result: TransferCurves, method: str, *, row: int, col: int, first: bool
) -> None:
    curves = sorted((c for c in result.curves if c.method == method), key=lambda c: c.alpha)
    span = [float(curves[0].before[0]), float(curves[0].before[-1])]
    probe = result.probe
    for name, y in (("aligned mean", probe.mu_pos),):
        figure.add_scatter(
            x=span,
            y=[y, y],
            mode="lines",
            name=name,
            legendgroup=name,
            showlegend=first,
            line={"color": ALIGNED, "dash": "dot", "width": 1.2},
            hoverinfo="skip",
            row=row,
            col=col,
        )
    figure.add_scatter(
        x=span,
        y=span,
        mode="lines",
        name="unsteered (ρ′ = ρ)",
        legendgroup="identity",
        showlegend=first,
        line={"color": FAINT, "dash": "dash", "width": 1},
        hoverinfo="skip",
        row=row,
        col=col,
    )
    for rank, curve in enumerate(curves):
        is_chosen = result.chosen.get(method) == curve.alpha
        line = Line(
            name=f"{METHOD_TITLES[method]} α = {curve.alpha:g}",
            x=curve.before,
            y=curve.after,
            colour=ramp_colour(rank, len(curves)),
            dash=DASHES[rank % len(DASHES)],
            width=2.6 if is_chosen else 1.2,
        )
        draw_line(figure, line, row=row, col=col, in_legend=False)
    draw_boundary(figure, probe, row=row, col=col, in_legend=first)
    figure.update_xaxes(range=span, nticks=6, row=row, col=col)
    figure.update_yaxes(nticks=6, row=row, col=col)


def draw_boundary(
    figure: go.Figure, probe: LayerProbe, *, row: int, col: int, in_legend: bool
) -> None:
    """Add the decision boundary as a vertical line."""
    line = {"color": INK, "width": 1.4}
    ends = {"x0": probe.boundary, "x1": probe.boundary, "y0": 0, "y1": 1, "yref": "y domain"}
    figure.add_shape(type="line", line=line, **ends, row=row, col=col)
    if in_legend:
        name = f"boundary m {number(probe.boundary)}"
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, legendgroup=name)
