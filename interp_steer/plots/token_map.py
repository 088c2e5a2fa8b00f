"""One response, layer by layer: where every token lies relative to each layer's boundary.

Projections of different layers have different scales, so they are shown in units of half the
distance of the class means: (rho - m) / (delta_mu / 2), about -1 at the malicious and +1 at the
aligned mean where m lies between them. Single tokens lie much farther out than means of responses.
The map shows what is readable where; it does not say that a layer or token matters.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.style import INK, SCREEN, Column, diverging_scale, finish, number
from interp_steer.plots.text import as_text, n_cells
from interp_steer.plots.token_page import MONO
from interp_steer.trace_blocks import make_visible

LONGEST_NAME = 10
"""Cells of a token on the axis."""
FEWEST_ACROSS = 12
"""Tokens that a line has room for at least, where the column has it: none is drawn wider."""
MOST_PIECES = 2
"""Maps one under the other for one sequence, in a narrow column."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenMap:
    """Normalised projections of one sequence."""

    heading: str
    """What it is, e.g. "malicious prompt" (untrusted)."""
    tokens: tuple[str, ...]
    """Token strings (untrusted)."""
    segments: tuple[str, ...]
    """Segment of each token."""
    layers: tuple[int, ...]
    """Layers, rising."""
    values: Float[np.ndarray, "layer token"]
    """(rho - m) / (delta_mu / 2); NaN where it is not stored."""

    def __post_init__(self) -> None:
        n = len(self.tokens)
        if self.values.shape != (len(self.layers), n) or len(self.segments) != n or not n:
            raise FigureError(
                f"a token map needs one value a layer and token, got {self.values.shape} for "
                f"{len(self.layers)} layers and {n} tokens with {len(self.segments)} segments"
            )

    def table(self) -> pd.DataFrame:
        """One row a layer and token."""
        return pd.DataFrame(
            [
                {
                    "sequence": make_visible(self.heading),
                    "layer": layer,
                    "place": place,
                    "token": make_visible(token),
                    "segment": self.segments[place],
                    "value": self.values[i, place],
                }
                for i, layer in enumerate(self.layers)
                for place, token in enumerate(self.tokens)
            ]
        )


def token_maps(
    maps: tuple[TokenMap, ...], *, title: str = "", column: Column = SCREEN
) -> go.Figure:
    """Layer x token maps, one sequence after the other, wrapped to the width of the column.

    Colours diverge about the boundary and saturate at the 95th percentile of the absolute values
    of the median layer.

    Raises:
        FigureError: no maps.
    """
    if not maps:
        raise FigureError("no sequence to draw; give at least one TokenMap")
    pitch = 1.15 * column.font
    n_across = max(6, int((column.width - column.em(3.8 + 5.6)) / pitch))
    n_across = min(n_across, max(FEWEST_ACROSS, *(len(m.tokens) for m in maps)))
    n_most = MOST_PIECES * n_across if column.is_narrow else None
    pieces = [(m, at) for m in maps for at in range(0, len(m.tokens[:n_most]), n_across)]
    n_cut = sum(len(m.tokens) - len(m.tokens[:n_most]) for m in maps)
    names = column.em(0.62 * max(_name_cells(m) for m in maps) + 0.8)
    panel = max(
        column.em(4.5), min(column.em(14), 0.85 * column.font * max(len(m.layers) for m in maps))
    )
    gap = names + column.em(2.4)
    height = panel * len(pieces) + gap * (len(pieces) - 1)
    figure = make_subplots(
        rows=len(pieces),
        cols=1,
        subplot_titles=[_piece_title(m, at, n_across) for m, at in pieces],
        vertical_spacing=gap / height if len(pieces) > 1 else 0.0,
    )
    limit = _limit(maps)
    for row, (one, at) in enumerate(pieces, start=1):
        _draw_piece(figure, one, at, n_across, row=row)
    figure.update_annotations(font_size=column.font, x=0, xanchor="left")
    figure.update_layout(
        coloraxis={
            "colorscale": diverging_scale(),
            "cmin": -limit,
            "cmax": limit,
            "colorbar": {
                "title": {"text": "(ρ − m) / ½Δμ", "side": "right", "font_size": column.font},
                "thickness": column.em(0.8),
                "tickfont": {"size": column.font},
                "outlinewidth": 0,
                "x": 1.01,
                "xpad": 2,
                "len": min(1.0, column.em(18) / height) if height else 1.0,
                "y": 1.0,
                "yanchor": "top",
                "nticks": 5,
            },
        }
    )
    return finish(
        figure,
        title or "projections of one response, by layer and token",
        subtitle="ρ: projection of resid_post on the layer's v̂; 0: the boundary m, ±1: about the "
        f"class means; colours end at ±{number(limit, 2)}; upright line: the response begins"
        + (f"; {n_cut} tokens are not drawn" if n_cut else ""),
        plot_height=height,
        column=column,
        left=3.8,
        right=5.6,
        bottom=names / column.font + 0.6,
    )


def _name_cells(one: TokenMap) -> int:
    return max(min(n_cells(make_visible(token)), LONGEST_NAME) for token in one.tokens)


def _piece_title(one: TokenMap, at: int, n_across: int) -> str:
    text = as_text(one.heading, n_most=48)
    if len(one.tokens) <= n_across:
        return text
    return f"{text}, tokens {at + 1}-{min(at + n_across, len(one.tokens))}"


def _limit(maps: tuple[TokenMap, ...]) -> float:
    """The median layer's 95th percentile: one without contrast has huge values of no meaning."""
    ends = []
    for one in maps:
        for line in np.abs(one.values):
            known = line[np.isfinite(line)]
            ends += [float(np.quantile(known, 0.95))] if known.size else []
    return float(np.median(ends)) or 1.0 if ends else 1.0


def _draw_piece(figure: go.Figure, one: TokenMap, at: int, n_across: int, *, row: int) -> None:
    stop = min(at + n_across, len(one.tokens))
    places = list(range(at, stop))
    names = [as_text(one.tokens[i], n_most=LONGEST_NAME) for i in places]
    hover = [[f"{as_text(one.tokens[i])}<br>{as_text(one.segments[i])}" for i in places]]
    figure.add_heatmap(
        x=[i - at for i in places],
        y=list(one.layers),
        z=one.values[:, at:stop],
        customdata=hover * len(one.layers),
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate="%{customdata}<br>layer %{y}: %{z:.2f}<extra></extra>",
        row=row,
        col=1,
    )
    for i in places[1:]:
        if one.segments[i] != one.segments[i - 1]:
            x = i - at - 0.5
            ends = {"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "y domain"}
            figure.add_shape(type="line", line={"color": INK, "width": 1}, **ends, row=row, col=1)
    figure.update_xaxes(
        tickvals=[i - at for i in places],
        ticktext=names,
        tickangle=-90,
        tickfont={"family": MONO},
        showgrid=False,
        range=[-0.5, n_across - 0.5],
        ticklen=1,
        row=row,
        col=1,
    )
    low, high = one.layers[0], one.layers[-1]
    figure.update_yaxes(
        title_text="layer",
        range=[low - 0.5, high + 0.5],
        dtick=max(1, math.ceil((high - low) / 4)),
        showgrid=False,
        row=row,
        col=1,
    )
