"""Scores by layer: how steering does (the paper's figure 3), and how readable the trait is.

Trait and coherence are those of one model, one judge and one set of prompts; means are drawn
without their intervals, which the tables carry. Readability says *decodable*, not used and not
steerable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.figure_files import FigureError
from interp_steer.plot_style import (
    ALIGNED,
    DASHES,
    INK,
    MALICIOUS,
    MARKERS,
    finish,
    ramp_colour,
)
from interp_steer.probes import ProbeSet
from interp_steer.summary import METHOD_NAMES

PLOT_HEIGHT = 430
"""Height of both rows of panels together, in pixels."""
LEGEND_LINE = 20
"""Height of one legend entry, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Unsteered scores of one side, drawn as a horizontal line."""

    trait: float
    """Mean trait, 0-100."""
    coherence: float
    """Mean coherence, 0-100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSweep:
    """Mean scores by method, layer and alpha in one scope, with the baselines beside them."""

    scores: pd.DataFrame
    """One row a cell: method (swfc, sttp, stmp), layer (zero-based), alpha, and the means trait and
    coherence (0-100)."""
    aligned: Baseline
    """Aligned prompt, unsteered."""
    malicious: Baseline
    """Malicious prompt, unsteered."""
    operating_points: Mapping[str, tuple[int, float]]
    """Method to its chosen (layer, alpha); a method without one is drawn unmarked."""
    n_generations: int
    """Generations behind each mean."""
    coherence_share: float = 0.9
    """Share of the aligned coherence that a chosen cell must keep; drawn as the limit."""

    def __post_init__(self) -> None:
        missing = {"method", "layer", "alpha", "trait", "coherence"} - set(self.scores.columns)
        if missing:
            raise FigureError(
                f"the scores lack {sorted(missing)}; they have {list(self.scores.columns)}"
            )
        if self.scores.empty:
            raise FigureError("the scores are empty; run `interp-steer sweep` first")
        repeated = self.scores.duplicated(["method", "layer", "alpha"])
        if repeated.any():
            row = self.scores[repeated].iloc[0]
            raise FigureError(
                f"method {row.method} layer {row.layer} alpha {row.alpha} stands there twice; "
                "give one row a cell (one scope, one direction, no controls)"
            )


def trait_coherence_by_layer(sweep: LayerSweep, *, title: str = "") -> go.Figure:
    """Trait (above) and coherence (below) of steered generations by layer (the paper's figure 3).

    One column a method, one line an alpha (told apart by colour, dash and marker). Baselines and
    the coherence limit are dashed and dotted. A ring marks the operating point, which was chosen
    from scores such as these, so its height here flatters it. A missing cell leaves a gap.
    """
    methods = [m for m in METHOD_NAMES if m in set(sweep.scores["method"])]
    unknown = sorted(set(sweep.scores["method"]) - set(METHOD_NAMES))
    if unknown:
        raise FigureError(f"unknown methods {unknown}; known are {list(METHOD_NAMES)}")
    figure = make_subplots(
        rows=2,
        cols=len(methods),
        shared_xaxes=True,
        shared_yaxes=True,
        column_titles=[_column_title(m, sweep.operating_points.get(m)) for m in methods],
        horizontal_spacing=0.04,
        vertical_spacing=0.08,
    )
    for col, method in enumerate(methods, start=1):
        _draw_method(figure, sweep, method, col=col)
        figure.update_xaxes(title_text="steered layer (resid_post)", row=2, col=col)
        _place_legend(figure, col=col)
    layers = sorted(set(sweep.scores["layer"]))
    figure.update_xaxes(range=[layers[0] - 0.5, layers[-1] + 0.5], tick0=0, dtick=_tick(layers))
    figure.update_yaxes(range=[-4, 104], dtick=25)
    figure.update_yaxes(title_text="trait (0-100)", row=1, col=1)
    figure.update_yaxes(title_text="coherence (0-100)", row=2, col=1)
    figure.update_annotations(font_size=13)
    headline = title or "trait and coherence by steered layer"
    subtitle = f"n = {sweep.n_generations} generations a point"
    below = 80 + LEGEND_LINE * max(sweep.scores.groupby("method")["alpha"].nunique())
    finish(
        figure,
        headline,
        subtitle=subtitle,
        height=100 + PLOT_HEIGHT + below,
        width=330 + 250 * len(methods),
    )
    return figure.update_layout(
        legend={"x": 1.02, "y": 1.0}, margin={"l": 70, "r": 260, "t": 100, "b": below}
    )


def readability_by_layer(probes: ProbeSet, *, title: str = "") -> go.Figure:
    """Cohen's d, accuracy and AUROC by layer: cross-fitted, with the in-sample value beside it.

    Cross-fitted (solid, filled) is what a layer tells about responses the direction has not seen;
    in-sample (dashed, open) flatters, the more the fewer the responses are per dimension.
    """
    measures = {"cohens_d": "Cohen's d", "accuracy": "accuracy", "auroc": "AUROC"}
    figure = make_subplots(
        rows=1, cols=3, subplot_titles=list(measures.values()), horizontal_spacing=0.1
    )
    layers = [probe.layer for probe in probes.probes]
    for col, measure in enumerate(measures, start=1):
        for kind, colour in (("crossfit", ALIGNED), ("in_sample", MALICIOUS)):
            values = [getattr(getattr(probe, kind), measure) for probe in probes.probes]
            fitted = kind == "crossfit"
            figure.add_scatter(
                x=layers,
                y=values,
                mode="lines+markers",
                name="cross-fitted" if fitted else "in-sample",
                legendgroup=kind,
                showlegend=col == 1,
                line={"color": colour, "dash": "solid" if fitted else "dash"},
                marker={"symbol": "circle" if fitted else "square-open", "size": 8},
                row=1,
                col=col,
            )
        figure.update_xaxes(title_text="layer (resid_post)", dtick=_tick(layers), row=1, col=col)
    figure.update_yaxes(title_text="pooled standard deviations", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="share of responses", row=1, col=2)
    figure.update_yaxes(title_text="area under the curve", row=1, col=3)
    for col in (2, 3):
        figure.update_yaxes(range=[-0.04, 1.04], row=1, col=col)
        _draw_chance(figure, layers, col=col)
    return finish(figure, title or "readability by layer", height=400, width=1000)


def _draw_chance(figure: go.Figure, layers: Sequence[int], *, col: int) -> None:
    """The level of a coin toss, dotted."""
    figure.add_scatter(
        x=[layers[0], layers[-1]],
        y=[0.5, 0.5],
        mode="lines",
        name="chance",
        legendgroup="chance",
        showlegend=col == 2,
        line={"color": INK, "dash": "dot", "width": 1},
        row=1,
        col=col,
    )


def _draw_method(figure: go.Figure, sweep: LayerSweep, method: str, *, col: int) -> None:
    """One column: a line per alpha, the reference lines, the operating point."""
    frame = sweep.scores.query("method == @method")
    alphas = sorted(set(frame["alpha"]))
    grid = sorted(set(sweep.scores["layer"]))
    chosen = sweep.operating_points.get(method)
    for row, measure in enumerate(("trait", "coherence"), start=1):
        _draw_references(figure, sweep, measure, row=row, col=col)
        for rank, alpha in enumerate(alphas):
            line = frame.query("alpha == @alpha").set_index("layer")[measure].reindex(grid)
            figure.add_scatter(
                x=grid,
                y=line.to_numpy(),
                mode="lines+markers",
                name=f"α = {alpha:g}",
                legend=f"legend{col + 1}",
                showlegend=row == 1,
                legendgroup=f"{method} {alpha:g}",
                line={"color": ramp_colour(rank, len(alphas)), "dash": DASHES[rank % len(DASHES)]},
                marker={"symbol": MARKERS[rank % len(MARKERS)], "size": 7},
                hovertemplate=f"layer %{{x}}, α = {alpha:g}: {measure} %{{y:.1f}}<extra></extra>",
                row=row,
                col=col,
            )
        if chosen is not None:
            _draw_operating_point(figure, frame, chosen, measure, row=row, col=col)


def _draw_references(
    figure: go.Figure, sweep: LayerSweep, measure: str, *, row: int, col: int
) -> None:
    """Both baselines (dashed, dotted) and, for coherence, the limit that a choice must keep."""
    lines = [
        ("aligned prompt, unsteered", getattr(sweep.aligned, measure), ALIGNED, "dash"),
        ("malicious prompt, unsteered", getattr(sweep.malicious, measure), MALICIOUS, "dot"),
    ]
    if measure == "coherence":
        limit = sweep.coherence_share * sweep.aligned.coherence
        name = f"limit: {sweep.coherence_share:.0%} of aligned coherence"
        lines.append((name, limit, INK, "longdashdot"))
    layers = sweep.scores["layer"]
    for name, value, colour, dash in lines:
        figure.add_scatter(
            x=[layers.min() - 0.5, layers.max() + 0.5],
            y=[value, value],
            mode="lines",
            name=name,
            legendgroup=name,
            showlegend=col == 1 and (row == 1 or name.startswith("limit")),
            line={"color": colour, "dash": dash, "width": 1.5},
            hovertemplate=f"{name}: {value:.1f}<extra></extra>",
            row=row,
            col=col,
        )


def _draw_operating_point(
    figure: go.Figure,
    frame: pd.DataFrame,
    chosen: tuple[int, float],
    measure: str,
    *,
    row: int,
    col: int,
) -> None:
    """A ring about the chosen cell, labelled with its layer and alpha."""
    layer, alpha = chosen
    cell = frame.query("layer == @layer and alpha == @alpha")
    if cell.empty:
        raise FigureError(
            f"the operating point layer {layer} alpha {alpha:g} is not among the scores; "
            "give scores that contain it, or leave it out of operating_points"
        )
    value = float(cell[measure].iloc[0])
    figure.add_scatter(
        x=[layer],
        y=[value],
        mode="markers",
        name="operating point",
        legendgroup="operating point",
        showlegend=row == 1 and col == 1,
        marker={"symbol": "circle-open", "size": 17, "color": INK, "line": {"width": 2.5}},
        hovertemplate=f"operating point: {measure} {value:.1f}<extra></extra>",
        row=row,
        col=col,
    )


def _column_title(method: str, chosen: tuple[int, float] | None) -> str:
    name = METHOD_NAMES[method]
    return name if chosen is None else f"{name} (chosen: layer {chosen[0]}, α = {chosen[1]:g})"


def _place_legend(figure: go.Figure, *, col: int) -> None:
    """The alphas of a column, listed beneath it."""
    start = figure.layout[f"xaxis{col if col > 1 else ''}"].domain[0]
    place = {"x": start, "xanchor": "left", "y": -60 / PLOT_HEIGHT, "yanchor": "top"}
    figure.update_layout({f"legend{col + 1}": {**place, "tracegroupgap": 0}})


def _tick(layers: Sequence[int]) -> int:
    """Distance of layer ticks: at most about ten of them, always whole layers."""
    return max(1, -(-(max(layers) - min(layers)) // 10))
