"""Steering in a plane: the direction v_hat against the leading component orthogonal to it.

Points are single response tokens where the run has their places, else response-averaged residuals,
which spread less. An arrow shows where a residual is put, not what that does to behaviour; that it
is level is what the methods promise, and is computed, not assumed: only rho comes from the law.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp_steer.analysis.orthogonal import orthogonal_axis
from interp_steer.names import resid_post
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.style import (
    ALIGNED,
    INK,
    MALICIOUS,
    METHOD_TITLES,
    SCREEN,
    Column,
    faded,
    finish,
)
from interp_steer.plots.transfer import draw_boundary, steered_projections
from interp_steer.probes import LayerProbe

FEW = 80
"""Points of a side that are drawn at full size."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteeringPlane:
    """Residuals in the plane of v_hat and the leading component orthogonal to it."""

    probe: LayerProbe
    """The layer's probe: boundary and class means."""
    aligned: Float[np.ndarray, "aligned 2"]
    """Residuals under the aligned prompt: rho, orthogonal component (activation units)."""
    malicious: Float[np.ndarray, "malicious 2"]
    """The same under the malicious prompt, unsteered."""
    steered: Mapping[tuple[str, float], Float[np.ndarray, "malicious"]]
    """rho' of every malicious residual by (method, alpha); the orthogonal component stays."""
    orthogonal_share: float
    """Share of the variance orthogonal to v_hat that the drawn component carries, 0-1."""
    unit: str
    """What a point stands for, in the plural."""

    def table(self) -> pd.DataFrame:
        """One row a point; `rho_after` is rho where nothing is steered."""
        rows = []
        sides = {"aligned": self.aligned, "malicious": self.malicious}
        for side, points in sides.items():
            rows.append(_points(points, self.probe.layer, side=side, method="none"))
        for (method, alpha), after in self.steered.items():
            frame = _points(self.malicious, self.probe.layer, side="malicious", method=method)
            rows.append(frame.assign(alpha=alpha, rho_after=after))
        return pd.concat(rows, ignore_index=True)


def _points(points: np.ndarray, layer: int, *, side: str, method: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": layer,
            "side": side,
            "method": method,
            "alpha": np.nan,
            "rho": points[:, 0],
            "orthogonal": points[:, 1],
            "rho_after": points[:, 0],
        }
    )


def steering_plane(
    probe: LayerProbe,
    aligned: Float[np.ndarray, "aligned d_model"],
    malicious: Float[np.ndarray, "malicious d_model"],
    *,
    methods: Mapping[str, float],
    unit: str = "response means",
) -> SteeringPlane:
    """Place residuals of one layer in the plane, and steer those under the malicious prompt.

    Args:
        probe: the layer's probe.
        aligned: residuals under the aligned prompt.
        malicious: residuals under the malicious prompt.
        methods: method to the coefficient that is shown.
        unit: what one residual stands for, in the plural.

    Raises:
        FigureError: no methods, or residuals that are missing or not finite.
    """
    both = np.concatenate([aligned, malicious]).astype(np.float64)
    if not methods:
        raise FigureError("no method to show in the plane; give at least one with its alpha")
    if not len(aligned) or not len(malicious) or not np.isfinite(both).all():
        raise FigureError(
            f"the plane needs finite residuals of both sides, got {len(aligned)} aligned and "
            f"{len(malicious)} malicious, {int((~np.isfinite(both)).any(axis=1).sum())} not finite"
        )
    v_hat = probe.v_hat.numpy().astype(np.float64)
    axis = orthogonal_axis(both, v_hat)
    points = np.stack([both @ v_hat, axis.coordinates(both)], axis=1)
    return placed_plane(
        probe,
        points[: len(aligned)],
        points[len(aligned) :],
        methods=methods,
        orthogonal_share=axis.share,
        unit=unit,
    )


def placed_plane(
    probe: LayerProbe,
    aligned: Float[np.ndarray, "aligned 2"],
    malicious: Float[np.ndarray, "malicious 2"],
    *,
    methods: Mapping[str, float],
    orthogonal_share: float,
    unit: str,
) -> SteeringPlane:
    """Steer residuals whose place in the plane is known already; see `SteeringPlane`.

    Args:
        probe: the layer's probe.
        aligned: rho and orthogonal coordinate of residuals under the aligned prompt.
        malicious: the same under the malicious prompt.
        methods: method to the coefficient that is shown.
        orthogonal_share: share of the variance orthogonal to v_hat that the axis carries.
        unit: what one residual stands for, in the plural.
    """
    return SteeringPlane(
        probe=probe,
        aligned=aligned,
        malicious=malicious,
        steered={
            (m, float(a)): steered_projections(probe, m, float(a), malicious[:, 0])[0]
            for m, a in methods.items()
        },
        orthogonal_share=orthogonal_share,
        unit=unit,
    )


def plane_figure(result: SteeringPlane, *, title: str = "", column: Column = SCREEN) -> go.Figure:
    """Residuals and where each method puts them, in the plane of v_hat and a second direction.

    Left of the boundary (tinted) the gate of StTP and StMP is open. An arrow leads from each
    residual under the malicious prompt to its steered place: always along v_hat, so level.
    """
    steered = [(m, a) for m in METHOD_TITLES for (n, a) in result.steered if n == m]
    n_rows, n_cols = (len(steered), 1) if column.is_narrow else (1, len(steered))
    panel, gap = column.em(11 if column.is_narrow else 16), column.em(3.0)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        shared_xaxes=column.is_narrow,
        shared_yaxes=not column.is_narrow,
        subplot_titles=[f"{METHOD_TITLES[m]}, α = {a:g}" for m, a in steered],
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
        horizontal_spacing=0.03,
    )
    span = _plane_span(result)
    for place, key in enumerate(steered):
        row, col = (place + 1, 1) if column.is_narrow else (1, place + 1)
        _draw_plane(figure, result, key, span=span, row=row, col=col, first=place == 0)
        if row == n_rows:
            figure.update_xaxes(title_text="ρ on v̂ (a.u.)", row=row, col=col)
        if col == 1:
            name = "orthogonal (a.u.)"
            figure.update_yaxes(title_text=name, row=row, col=col)
    figure.update_annotations(font_size=column.font)
    n = f"{len(result.aligned)} aligned, {len(result.malicious)} malicious {result.unit}"
    return finish(
        figure,
        title or f"steering in the plane, layer {result.probe.layer}",
        subtitle=(
            f"{resid_post(result.probe.layer)}; n = {n}; upright: leading component of response "
            f"means orthogonal to v̂, {result.orthogonal_share:.0%} of their variance there; "
            "a.u.: activation units"
        ),
        plot_height=height,
        column=column,
        bottom=3.2,
    )


def _plane_span(result: SteeringPlane) -> tuple[float, float]:
    places = [result.aligned[:, 0], result.malicious[:, 0], *result.steered.values()]
    every = np.concatenate([*places, [result.probe.boundary]])
    margin = 0.05 * float(np.ptp(every)) or 1.0
    return float(every.min()) - margin, float(every.max()) + margin


def _draw_plane(
    figure: go.Figure,
    result: SteeringPlane,
    key: tuple[str, float],
    *,
    span: tuple[float, float],
    row: int,
    col: int,
    first: bool,
) -> None:
    after = result.steered[key]
    is_moved = after != result.malicious[:, 0]
    moved = result.malicious[is_moved]
    figure.add_shape(
        type="rect",
        x0=span[0],
        x1=min(result.probe.boundary, span[1]),
        y0=0,
        y1=1,
        yref="y domain",
        fillcolor=faded(MALICIOUS, 0.07),
        line_width=0,
        layer="below",
        row=row,
        col=col,
    )
    _draw_arrows(figure, moved, after[is_moved], row=row, col=col)
    clouds = (
        ("aligned, unsteered", result.aligned, ALIGNED, "circle-open"),
        ("malicious, unsteered", result.malicious, MALICIOUS, "x-thin"),
        (
            "malicious, steered",
            np.stack([after[is_moved], moved[:, 1]], axis=1),
            INK,
            "triangle-right",
        ),
    )
    for name, points, colour_of, symbol in clouds:
        figure.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=first,
            marker={
                "symbol": symbol,
                "color": colour_of,
                "size": 5 if len(result.malicious) <= FEW else 3.6,
                "line": {"width": 1.1, "color": colour_of},
            },
            hovertemplate=f"{name}<br>ρ %{{x:.3g}}, orthogonal %{{y:.3g}}<extra></extra>",
            row=row,
            col=col,
        )
    draw_boundary(figure, result.probe, row=row, col=col, in_legend=first)
    figure.update_xaxes(range=span, nticks=6, row=row, col=col)


def _draw_arrows(
    figure: go.Figure, before: np.ndarray, after: np.ndarray, *, row: int, col: int
) -> None:
    """Level shafts from every residual to its steered place; the head is the steered marker."""
    gap = np.full(len(before), np.nan)
    figure.add_scatter(
        x=np.stack([before[:, 0], after, gap], axis=1).ravel(),
        y=np.stack([before[:, 1], before[:, 1], gap], axis=1).ravel(),
        mode="lines",
        line={"color": faded(INK, 0.45), "width": 0.7},
        showlegend=False,
        hoverinfo="skip",
        row=row,
        col=col,
    )
