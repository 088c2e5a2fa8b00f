"""Scores by steered layer: how each method does (the paper's figure 3).

Trait and coherence are those of one model, one judge and one set of prompts.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.analysis.frames import numbers, rows_where
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.lines import Line, draw_level, draw_line, layer_span, layer_tick
from interp_steer.plots.style import (
    ALIGNED,
    DASHES,
    INK,
    MALICIOUS,
    MARKERS,
    METHOD_TITLES,
    SCREEN,
    Column,
    finish,
    ramp_colour,
    wrapped,
)

MEASURES = ("trait", "coherence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Unsteered scores of one side, drawn as a horizontal line."""

    trait: float
    """Mean trait, 0-100."""
    coherence: float
    """Mean coherence, 0-100."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSweep:
    """Mean scores by method, layer and alpha in one scope, with the baselines beside them."""

    scores: pd.DataFrame
    """One row a cell: method (swfc, sttp, stmp), layer (zero-based), alpha, and the means trait and
    coherence (0-100); with trait_low, trait_high, coherence_low and coherence_high where there are
    intervals."""
    aligned: Baseline
    """Aligned prompt, unsteered."""
    malicious: Baseline
    """Malicious prompt, unsteered."""
    operating_points: Mapping[str, tuple[int, float]]
    """Method to its chosen (layer, alpha); a method without one is drawn unmarked."""
    n_generations: int
    """Generations behind each mean."""
    n_missing: int = 0
    """Of all generations, those that the judge could not score; means are over the others."""
    coherence_share: float = 0.9
    """Share of the aligned coherence that a chosen cell must keep; drawn as the limit."""

    @property
    def missing_words(self) -> str:
        """What a subtitle adds where scores are missing."""
        return f"; {self.n_missing} generations without a score left out" if self.n_missing else ""

    def __post_init__(self) -> None:
        missing = {"method", "layer", "alpha", *MEASURES} - set(self.scores.columns)
        if missing:
            raise FigureError(
                f"the scores lack {sorted(missing)}; they have {list(self.scores.columns)}"
            )
        if self.scores.empty:
            raise FigureError("the scores are empty; run `interp-steer sweep` first")
        unknown = sorted(set(self.scores["method"]) - set(METHOD_TITLES))
        if unknown:
            raise FigureError(f"unknown methods {unknown}; known are {list(METHOD_TITLES)}")
        repeated = self.scores.duplicated(["method", "layer", "alpha"])
        if repeated.any():
            row = self.scores[repeated].iloc[0]
            raise FigureError(
                f"method {row.method} layer {row.layer} alpha {row.alpha} stands there twice; "
                "give one row a cell (one scope, one direction, no controls)"
            )
        for method, (layer, alpha) in self.operating_points.items():
            if method in self.methods and self.cell(method, layer, alpha) is None:
                raise FigureError(
                    f"the operating point layer {layer} alpha {alpha:g} is not among the scores; "
                    "give scores that contain it, or leave it out of operating_points"
                )

    @property
    def methods(self) -> list[str]:
        """Methods that have scores, in the paper's order."""
        return [m for m in METHOD_TITLES if m in set(self.scores["method"])]

    @property
    def layers(self) -> list[int]:
        """Layers of any method, rising."""
        return sorted({int(layer) for layer in self.scores["layer"]})

    @property
    def limit(self) -> float:
        """Coherence that a chosen cell must keep."""
        return self.coherence_share * self.aligned.coherence

    def alphas(self, method: str) -> list[float]:
        """Coefficients of one method, rising."""
        return sorted({float(a) for a in self.scores["alpha"][self.scores["method"] == method]})

    def cell(self, method: str, layer: int, alpha: float) -> dict[str, float] | None:
        """The scores of one cell; None where there are none."""
        rows = self.scores
        there = (rows["method"] == method) & (rows["layer"] == layer) & (rows["alpha"] == alpha)
        found = rows_where(rows, there)
        return {m: float(numbers(found, m)[0]) for m in MEASURES} if len(found) else None

    def along_layers(self, method: str, alpha: float, column: str) -> np.ndarray:
        """One column at every layer of `layers`; NaN where the cell or the column is missing."""
        there = (self.scores["method"] == method) & (self.scores["alpha"] == alpha)
        rows = self.scores[there].set_index("layer")
        if column not in rows:
            return np.full(len(self.layers), np.nan)
        return rows[column].reindex(self.layers).to_numpy(dtype=np.float64)


def trait_coherence_by_layer(
    sweep: LayerSweep,
    *,
    title: str = "",
    column: Column = SCREEN,
    shown_alphas: Mapping[str, float] = MappingProxyType({}),
) -> go.Figure:
    """Trait and coherence of steered generations by layer (the paper's figure 3).

    One panel a method and measure, one line an alpha (told apart by colour, dash and marker); the
    operating point's alpha is thick and carries its interval. Baselines and the coherence limit are
    dashed and dotted. A ring marks the operating point, which was chosen from scores such as these,
    so its height here flatters it. A missing cell leaves a gap.

    Args:
        sweep: the scores.
        title: headline.
        column: for which place it is laid out.
        shown_alphas: method to another coefficient that is thick and has its interval too.
    """
    methods, narrow = sweep.methods, column.is_narrow
    n_rows, n_cols = (len(methods), 2) if narrow else (2, len(methods))
    panel, gap = column.em(9.5 if narrow else 11), column.em(4.2 if narrow else 2.2)
    height = panel * n_rows + gap * (n_rows - 1)
    titles = [_panel_title(sweep, m, column, n_cols) for m in methods]
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        shared_xaxes=True,
        shared_yaxes=not narrow,
        subplot_titles=[t for pair in zip(titles, titles, strict=True) for t in pair]
        if narrow
        else titles,
        horizontal_spacing=0.21 if narrow else 0.03,
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
    )
    for i, method in enumerate(methods):
        for j, measure in enumerate(MEASURES):
            row, col = (i + 1, j + 1) if narrow else (j + 1, i + 1)
            thick = {shown_alphas[method]} if method in shown_alphas else set()
            _draw_method(figure, sweep, method, measure, row=row, col=col, thick=thick)
            if narrow or i == 0:
                figure.update_yaxes(title_text=f"{measure} (0-100)", row=row, col=col)
            if row == n_rows:
                name = "layer (resid_post)" if narrow else "steered layer (resid_post)"
                figure.update_xaxes(title_text=name, row=row, col=col)
    tick = layer_tick(sweep.layers, 6 if narrow else 10)
    figure.update_xaxes(range=layer_span(sweep.layers), tick0=0, dtick=tick)
    figure.update_yaxes(range=[-4, 107], dtick=25)
    figure.update_annotations(font_size=column.font)
    subtitle = (
        f"n = {sweep.n_generations} generations a point; lines from light to dark: rising α; "
        "thick, with 95 % interval: the operating point's α"
        f"{sweep.missing_words}"
    )
    return finish(
        figure,
        title or "trait and coherence by steered layer",
        subtitle=subtitle,
        plot_height=height,
        column=column,
        panel_titles=3.0,
        bottom=3.4,
    )


def _panel_title(sweep: LayerSweep, method: str, column: Column, n_cols: int) -> str:
    alphas = ", ".join(f"{a:g}" for a in sweep.alphas(method))
    room = column.n_characters(0.84 * column.width / n_cols)
    return wrapped(f"{METHOD_TITLES[method]}, α = {alphas}", room)


def _draw_method(
    figure: go.Figure,
    sweep: LayerSweep,
    method: str,
    measure: str,
    *,
    row: int,
    col: int,
    thick: Set[float],
) -> None:
    """One panel: the reference lines, a line per alpha, the operating point."""
    first = (method, measure) == (sweep.methods[0], "trait")
    _draw_references(figure, sweep, measure, row=row, col=col, first=method == sweep.methods[0])
    chosen = sweep.operating_points.get(method)
    alphas = sweep.alphas(method)
    for rank, alpha in enumerate(alphas):
        is_chosen = alpha in thick or (chosen is not None and chosen[1] == alpha)
        low, high = (
            sweep.along_layers(method, alpha, f"{measure}_{end}") for end in ("low", "high")
        )
        line = Line(
            name=f"{METHOD_TITLES[method]} α = {alpha:g}",
            x=np.array(sweep.layers, dtype=np.float64),
            y=sweep.along_layers(method, alpha, measure),
            low=low if is_chosen else None,
            high=high if is_chosen else None,
            colour=ramp_colour(rank, len(alphas)),
            dash=DASHES[rank % len(DASHES)],
            marker=MARKERS[rank % len(MARKERS)],
            width=2.2 if is_chosen else 1.0,
            size=5 if is_chosen else 3.5,
            tag=(method, alpha),
        )
        draw_line(figure, line, row=row, col=col, in_legend=False)
    if chosen is not None:
        _draw_operating_point(figure, sweep, method, measure, row=row, col=col, first=first)


def _draw_references(
    figure: go.Figure, sweep: LayerSweep, measure: str, *, row: int, col: int, first: bool
) -> None:
    """Both baselines (dashed, dotted) and, for coherence, the limit that a choice must keep."""
    lines = [
        ("aligned, unsteered", getattr(sweep.aligned, measure), ALIGNED, "dash"),
        ("malicious, unsteered", getattr(sweep.malicious, measure), MALICIOUS, "dot"),
    ]
    if measure == "coherence":
        name = f"limit: {sweep.coherence_share:.0%} of aligned coherence"
        lines.append((name, sweep.limit, INK, "longdashdot"))
    for name, value, colour, dash in lines:
        draw_level(
            figure,
            name,
            value,
            span=layer_span(sweep.layers),
            colour=colour,
            dash=dash,
            row=row,
            col=col,
            in_legend=first and (measure == "trait" or name.startswith("limit")),
        )


def _draw_operating_point(
    figure: go.Figure,
    sweep: LayerSweep,
    method: str,
    measure: str,
    *,
    row: int,
    col: int,
    first: bool,
) -> None:
    """A ring about the chosen cell."""
    layer, alpha = sweep.operating_points[method]
    cell = sweep.cell(method, layer, alpha)
    value = cell[measure] if cell is not None else np.nan
    figure.add_scatter(
        x=[layer],
        y=[value],
        mode="markers",
        name="operating point (layer, α)",
        legendgroup="operating point",
        showlegend=first,
        marker={"symbol": "circle-open", "size": 12, "color": INK, "line": {"width": 2}},
        cliponaxis=False,
        hovertemplate=(
            f"operating point: layer {layer}, α = {alpha:g}<br>{measure} %{{y:.1f}}<extra></extra>"
        ),
        row=row,
        col=col,
    )
