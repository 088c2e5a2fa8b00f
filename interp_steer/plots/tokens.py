"""Which tokens an intervention touched: responses as strips of tokens, for screen and print.

A token's tint says on which side of the decision boundary its residual arrived (blue above, orange
below; the further the fuller); a frame says that it fired, a bar above it how far it was moved, an
open bar that the cap decided. So nothing is told by colour alone. Hovering shows the whole trace
row. A strip without projections (a response that was stored without them) is white and says so.
Tokens are untrusted text and drawn as text. A tint says where a residual lies on one direction, not
that the model uses it.
"""

import math
from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from interp_steer.plots.style import INK, SCREEN, Column, finish, number
from interp_steer.plots.text import as_text
from interp_steer.plots.token_page import BOX, MONO, Page, Placed, StripToken, TokenStrips

TINTS_ABOVE = ("#e3eef9", "#c0d9ef", "#92bfe3", "#5aa0d3")
TINTS_BELOW = ("#fdeedd", "#fbd5ae", "#f6b477", "#ec8f3e")
"""From faint to full; black text stays readable on all of them."""
BAR = 0.8
"""Height of the bar of the largest move, in type sizes."""


def token_strips(result: TokenStrips, *, title: str = "", column: Column = SCREEN) -> go.Figure:
    """Strips of tokens one under the other (see the module for what the marks mean)."""
    page = Page(column)
    for strip in result.strips:
        page.add(strip)
    figure = go.Figure()
    _draw_boxes(figure, page, result)
    _draw_bars(figure, page, result)
    _draw_text(figure, page)
    for label in page.labels:
        figure.add_annotation(
            x=label.x,
            y=label.y,
            text=label.text,
            showarrow=False,
            xanchor="left",
            yanchor="middle",
            align="left",
            font={"size": column.font},
        )
    _name_marks(figure, result)
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[0, page.width], **hidden)
    figure.update_yaxes(range=[page.y, 0], **hidden)
    figure.update_layout(hovermode="closest", hoverdistance=30)
    subtitle = (
        f"tint: projection ρ at {result.hook} from the boundary m, full at ±{number(result.scale)} "
        "activation units (a.u.)"
    )
    if result.largest:
        subtitle += f"; bar: |ρ′ − ρ|, the highest {number(result.largest)} a.u."
    edges = 4 / column.font
    return finish(
        figure,
        title or "token by token",
        subtitle=subtitle,
        plot_height=page.y,
        column=column,
        left=edges,
        right=edges,
        bottom=0.6,
        panel_titles=0.0,
    )


def _box(place: Placed, height: float) -> tuple[list[float], list[float]]:
    """Corners of a token's box, closed."""
    left, right = place.x, place.x + place.width
    top, bottom = place.y - height, place.y
    return [left, right, right, left, left], [top, top, bottom, bottom, top]


def _polygons(corners: Iterator[tuple[list[float], list[float]]]) -> dict[str, list[float | None]]:
    """Many closed polygons as one trace, with gaps."""
    x: list[float | None] = []
    y: list[float | None] = []
    for across, down in corners:
        x += [*across, None]
        y += [*down, None]
    return {"x": x, "y": y}


def _draw_boxes(figure: go.Figure, page: Page, result: TokenStrips) -> None:
    height = BOX * page.font
    steps = [result.step(place.token) for place in page.placed]
    for step in sorted(set(steps) - {0}):
        mine = (p for p, s in zip(page.placed, steps, strict=True) if s == step)
        figure.add_scatter(
            **_polygons(_box(place, height) for place in mine),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=_tint(step),
            hoverinfo="skip",
            showlegend=False,
        )
    fired = [place for place in page.placed if place.token.fired]
    if fired:
        figure.add_scatter(
            **_polygons(_box(place, height) for place in fired),
            mode="lines",
            line={"width": 1.1, "color": INK},
            hoverinfo="skip",
            showlegend=False,
        )


def _tint(step: int) -> str:
    return (TINTS_ABOVE if step > 0 else TINTS_BELOW)[abs(step) - 1]


def _draw_bars(figure: go.Figure, page: Page, result: TokenStrips) -> None:
    """Bars above fired tokens, as high as the move is large; open where the cap decided."""
    fired = [p for p in page.placed if p.token.fired and math.isfinite(p.token.moved)]
    for is_capped in (False, True):
        mine = [p for p in fired if p.token.capped is is_capped and result.largest]
        if not mine:
            continue
        figure.add_scatter(
            **_polygons(_bar(place, page, result) for place in mine),
            mode="lines",
            line={"width": 0.9, "color": INK},
            fill="toself",
            fillcolor="white" if is_capped else INK,
            hoverinfo="skip",
            showlegend=False,
        )


def _bar(place: Placed, page: Page, result: TokenStrips) -> tuple[list[float], list[float]]:
    height = max(0.6, BAR * page.font * place.token.moved / result.largest)
    bottom = place.y - BOX * page.font
    left, right = place.x, place.x + place.width
    top = bottom - height
    return [left, right, right, left, left], [top, top, bottom, bottom, top]


def _draw_text(figure: go.Figure, page: Page) -> None:
    figure.add_scatter(
        x=[place.x + place.width / 2 for place in page.placed],
        y=[place.y - 0.5 * BOX * page.font for place in page.placed],
        text=[place.shown for place in page.placed],
        customdata=[_hover(place.token) for place in page.placed],
        mode="text",
        textfont={"family": MONO, "size": page.font, "color": INK},
        textposition="middle center",
        cliponaxis=False,
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )


def _hover(token: StripToken) -> str:
    rows = token.row or (
        ("token", token.text),
        ("segment", token.segment),
        ("distance to boundary", number(token.distance)),
    )
    return "<br>".join(f"{as_text(name)}: {as_text(value)}" for name, value in rows)


def _name_marks(figure: go.Figure, result: TokenStrips) -> None:
    """Legend entries of tints, frame and bars, those that occur."""
    tokens: Sequence[StripToken] = [t for strip in result.strips for t in strip.tokens]
    entries = []
    if any(math.isfinite(token.distance) for token in tokens):
        entries += [
            ("below m (malicious side)", TINTS_BELOW[2], TINTS_BELOW[2]),
            ("above m (aligned side)", TINTS_ABOVE[2], TINTS_ABOVE[2]),
        ]
    if any(token.fired for token in tokens):
        entries.append(("fired (frame; bar: size of move)", "white", INK))
    if any(token.capped for token in tokens):
        entries.append(("open bar: capped", "white", INK))
    for name, fill, line in entries:
        marker = {
            "symbol": "square",
            "size": 10,
            "color": fill,
            "line": {"width": 1.2, "color": line},
        }
        figure.add_scatter(
            x=[None], y=[None], mode="markers", marker=marker, name=name, legendgroup=name
        )
