"""Where the trait lives: the causal scan, beside what is readable and what steering recovers.

The scan says what the direction carries in teacher-forced log-odds at one layer and segment. Its
agreement with the sweep is a rank correlation, shown with its interval and never assumed; a full
overwrite of response tokens tends to 1 by construction and ranks nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.lines import Line, draw_line, layer_span, layer_tick
from interp_steer.plots.style import (
    ALIGNED,
    FAINT,
    INK,
    MALICIOUS,
    SCREEN,
    TARGET,
    Column,
    diverging_scale,
    finish,
    number,
)

TEMPLATE = "#CC79A7"
SEGMENTS = ("system", "user", "template", "response", "after_system")
SEGMENT_LOOKS = {
    "user": ("user", ALIGNED, "solid", "circle"),
    "template": ("template", TEMPLATE, "longdash", "cross"),
    "response": ("response", TARGET, "dash", "square"),
    "system": ("system", MALICIOUS, "dot", "diamond"),
    "after_system": ("after system", INK, "dashdot", "triangle-up"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CausalScan:
    """Effects by layer and segment, with what they are held against."""

    effects: pd.DataFrame
    """Columns layer, segment, patch (v_hat, full, random_direction, ...), effect, effect_low,
    effect_high, n_scenarios: 0 as malicious, 1 as aligned; one row a layer, segment and patch
    (draws of a control: several)."""
    recovered: pd.DataFrame | None
    """Columns layer, scope, recovered: the sweep's best share of each layer; None without one."""
    separation: Mapping[int, float]
    """Layer to cross-fitted AUROC of the probe."""
    correlations: Mapping[tuple[str, str], tuple[float, float, float]]
    """(segment, scope) to the rank correlation of effect and recovery: value, low, high."""

    def __post_init__(self) -> None:
        missing = {"layer", "segment", "patch", "effect", "effect_low", "effect_high"} - set(
            self.effects.columns
        )
        if missing or self.effects[self.effects.get("patch", "") == "v_hat"].empty:
            raise FigureError(
                "the causal scan has no effect of v_hat to draw (missing columns: "
                f"{sorted(missing) or 'none'})"
            )

    @property
    def layers(self) -> list[int]:
        """Scanned layers, rising."""
        return sorted({int(layer) for layer in self.effects["layer"]})

    def line(self, segment: str, patch: str) -> pd.DataFrame:
        """Effect and its ends at every layer, the mean over draws; NaN where not scanned."""
        rows = self.effects
        rows = rows_where(rows, (rows["segment"] == segment) & (rows["patch"] == patch))
        names = ["effect", "effect_low", "effect_high"]
        return rows.pivot_table(index="layer", values=names, aggfunc="mean", dropna=False).reindex(
            self.layers
        )


def causal_scan(result: CausalScan, *, title: str = "", column: Column = SCREEN) -> go.Figure:
    """Layer x segment map above; effect of v_hat by layer; recovery and separation below.

    All three share the layer axis. Grey in the middle panel is the control: the component along a
    random direction replaced instead, at the segment where it does most.
    """
    layers = result.layers
    heights = [column.em(7), column.em(11), column.em(9)]
    gap = column.em(1.7)
    height = sum(heights) + 2 * gap
    figure = make_subplots(
        rows=3,
        cols=1,
        shared_xaxes=True,
        row_heights=[h / sum(heights) for h in heights],
        vertical_spacing=gap / height,
    )
    _draw_map(figure, result, column, heights[0] / height)
    for segment, (name, colour, dash, marker) in SEGMENT_LOOKS.items():
        if segment in set(result.effects["segment"]):
            line = _line(result, segment, "v_hat", name, (colour, dash, marker))
            draw_line(figure, line, row=2, col=1, in_legend=True)
    control = _strongest_control(result)
    if control is not None:
        look = (FAINT, "dot", None)
        line = _line(result, control, "random_direction", "random direction", look)
        draw_line(figure, line, row=2, col=1, in_legend=True)
    _draw_sweep(figure, result)
    figure.update_yaxes(title_text="effect of v̂", row=2, col=1)
    figure.update_yaxes(title_text="share", range=[-0.08, 1.08], row=3, col=1)
    figure.update_xaxes(range=layer_span(layers), tick0=0, dtick=layer_tick(layers))
    figure.update_xaxes(title_text="layer (resid_post)", row=3, col=1)
    return finish(
        figure,
        title or "where the trait lives: causal scan",
        subtitle=_subtitle(result),
        plot_height=height,
        column=column,
        left=6.6,
        right=4.8,
        panel_titles=0.5,
    )


def _subtitle(result: CausalScan) -> str:
    n = ""
    if "n_scenarios" in result.effects:
        n = f"n = {numbers(result.effects, 'n_scenarios').max():.0f} scenarios; "
    text = (
        f"{n}effect of v̂ put back at one segment: 0 as under the malicious prompt, 1 as under the "
        "aligned one (log-odds); below: recovered share by scope, and AUROC of the probe"
    )
    parts = [
        f"{SEGMENT_LOOKS[segment][0]} with recovery in scope {scope} {number(value, 2)} "
        f"[{number(low, 2)}, {number(high, 2)}]"
        for (segment, scope), (value, low, high) in result.correlations.items()
    ]
    return text + ("; rank correlation: " + ", ".join(parts) if parts else "")


def _line(
    result: CausalScan,
    segment: str,
    patch: str,
    name: str,
    look: tuple[str, str, str | None],
) -> Line:
    rows = result.line(segment, patch)
    colour, dash, marker = look
    return Line(
        name=name,
        x=np.array(result.layers, dtype=np.float64),
        y=rows["effect"].to_numpy(dtype=np.float64),
        low=rows["effect_low"].to_numpy(dtype=np.float64),
        high=rows["effect_high"].to_numpy(dtype=np.float64),
        colour=colour,
        dash=dash,
        marker=marker,
    )


def _strongest_control(result: CausalScan) -> str | None:
    """Segment where replacing a random direction does most; None without that control."""
    rows = rows_where(result.effects, result.effects["patch"] == "random_direction")
    if rows.empty:
        return None
    strongest = int(np.abs(numbers(rows, "effect")).argmax())
    return texts(rows, "segment")[strongest]


def _draw_map(figure: go.Figure, result: CausalScan, column: Column, share: float) -> None:
    segments = [s for s in reversed(SEGMENTS) if s in set(result.effects["segment"])]
    z = np.stack([result.line(s, "v_hat")["effect"].to_numpy(dtype=np.float64) for s in segments])
    known = np.abs(z[np.isfinite(z)])
    limit = max(1.0, float(known.max(initial=0.0)))
    room = (column.width - column.em(11.4)) / max(1, len(result.layers))
    figure.add_heatmap(
        x=result.layers,
        y=list(range(len(segments))),
        z=z,
        text=[[_two_places(value) for value in line] for line in z],
        texttemplate="%{text}" if room > column.em(2.7) else None,
        textfont={"size": 0.85 * column.font},
        customdata=[[s] * len(result.layers) for s in segments],
        colorscale=diverging_scale(),
        zmin=-limit,
        zmax=limit,
        hoverongaps=False,
        xgap=1,
        ygap=1,
        colorbar={
            "title": {"text": "effect of v̂", "side": "right", "font": {"size": column.font}},
            "tickfont": {"size": column.font},
            "thickness": column.em(0.8),
            "outlinewidth": 0,
            "len": share * 1.02,
            "y": 1.0,
            "yanchor": "top",
            "x": 1.01,
            "xpad": 2,
            "nticks": 3,
        },
        hovertemplate="%{customdata}, layer %{x}: effect %{z:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    names = [SEGMENT_LOOKS[s][0] for s in segments]
    figure.update_yaxes(
        tickvals=list(range(len(segments))), ticktext=names, showgrid=False, row=1, col=1
    )


def _two_places(value: float) -> str:
    """Two decimals, so that an effect of 1e-5 reads as none; empty for NaN."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−") if np.isfinite(value) else ""


def _draw_sweep(figure: go.Figure, result: CausalScan) -> None:
    """Best recovered share of each layer by scope, and the probes' AUROC."""
    layers = np.array(result.layers, dtype=np.float64)
    looks = {"all": (MALICIOUS, "solid", "star"), "response": (TARGET, "dash", "square-open")}
    if result.recovered is not None:
        for scope, (colour, dash, marker) in looks.items():
            rows = rows_where(result.recovered, result.recovered["scope"] == scope)
            if rows.empty:
                continue
            best = rows.pivot_table(
                index="layer", values=["recovered"], aggfunc="max", dropna=False
            )
            line = Line(
                name=f"recovered, {scope}",
                x=layers,
                y=numbers(best.reindex(result.layers), "recovered"),
                colour=colour,
                dash=dash,
                marker=marker,
                size=6,
            )
            draw_line(figure, line, row=3, col=1, in_legend=True)
    line = Line(
        name="AUROC",
        x=layers,
        y=np.array([result.separation.get(layer, np.nan) for layer in result.layers]),
        colour=FAINT,
        dash="dot",
        marker="cross",
    )
    draw_line(figure, line, row=3, col=1, in_legend=True)
