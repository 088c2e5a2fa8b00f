"""The one look of every figure: the registered template `interp_steer`, colours, column widths.

Print quality on white, one typeface, colours that stay apart with the common colour vision
deficiencies, and for every colour a second sign (dash, marker, hatch), since colour alone is lost
in a grey-scale print. A builder lays its figure out for one `Column`, in that column's type size;
scaling a wide figure down to a narrow column would make its text unreadable. The template is
registered when this module loads, never made the default.
"""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import plotly.graph_objects as go
import plotly.io as pio

TEMPLATE = "interp_steer"
"""Name of the registered plotly template."""

INK = "#222222"
FAINT = "#777777"
GRID = "#e6e6e6"
ALIGNED = "#0072B2"
MALICIOUS = "#D55E00"
TARGET = "#009E73"
PALETTE = (ALIGNED, MALICIOUS, TARGET, "#CC79A7", "#E69F00", "#56B4E9", INK)
"""Okabe and Ito's colours; the first three stand for aligned, malicious and target everywhere."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "pentagon")

RAMP = ("#fde725", "#a0da39", "#4ac16d", "#1fa187", "#277f8e", "#365c8d", "#46327e", "#440154")
"""Viridis from light to dark: ordered values, told apart by lightness too."""

DIVERGING = (
    "#b35806",
    "#ec8f3e",
    "#f6b477",
    "#fbd5ae",
    "#f7f7f7",
    "#c0d9ef",
    "#92bfe3",
    "#5aa0d3",
    "#1f5f99",
)
"""Orange (below, malicious) over white (the boundary) to blue (above, aligned)."""

METHOD_TITLES = {"swfc": "SwFC", "sttp": "StTP", "stmp": "StMP"}
"""The paper's spelling, in the paper's order."""
METHOD_LOOKS = {
    "swfc": ("#CC79A7", "solid", "circle"),
    "sttp": (TARGET, "dash", "square"),
    "stmp": ("#B07A00", "dot", "diamond"),
}
"""Colour, dash and marker of each method wherever methods share a panel."""

SERIES_LINE = 1.5
"""Width of a line that carries data, in pixels at print size."""
_CHARACTER = 0.56
"""Mean width of a character of the typeface, in em (DejaVu Sans, the widest of the list)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A place for a figure: how wide it is and how large its text."""

    name: str
    """single, double or screen."""
    width: int
    """In CSS pixels, 96 to the inch."""
    font: float
    """Size of tick labels and legends, in CSS pixels (4/3 of a point)."""

    @property
    def is_narrow(self) -> bool:
        """Whether panels should stand one under the other."""
        return self.width < 480

    def em(self, size: float) -> float:
        """`size` type sizes in pixels."""
        return size * self.font

    def n_characters(self, width: float | None = None) -> int:
        """How many characters fit on a line of `width` pixels, of the column by default."""
        return max(8, int((self.width if width is None else width) / (_CHARACTER * self.font)))


SINGLE = Column(name="single", width=312, font=9.4)
"""One column of a two-column page: 3.25 inches, text of 7 points."""
DOUBLE = Column(name="double", width=648, font=9.4)
"""The whole width of a page: 6.75 inches, text of 7 points."""
SCREEN = Column(name="screen", width=960, font=13)
"""A browser window."""


def ramp_colour(rank: int, n: int) -> str:
    """Colour of the `rank`-th of `n` ordered values, without the steps too faint on white."""
    usable = RAMP[2:]
    return usable[-1] if n < 2 else usable[round(rank * (len(usable) - 1) / (n - 1))]


def faded(colour: str, opacity: float = 0.15) -> str:
    """The hex colour as rgba of the given opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def diverging_scale() -> list[tuple[float, str]]:
    """`DIVERGING` as a plotly colour scale."""
    return [(i / (len(DIVERGING) - 1), colour) for i, colour in enumerate(DIVERGING)]


def ramp_scale() -> list[tuple[float, str]]:
    """`RAMP`, dark for low values, as a plotly colour scale."""
    return [(i / (len(RAMP) - 1), colour) for i, colour in enumerate(reversed(RAMP))]


def wrapped(text: str, n_characters: int) -> str:
    """`text` broken into lines of at most so many characters; tags and entities count as little."""
    lines = textwrap.wrap(
        text, max(8, n_characters), break_long_words=False, break_on_hyphens=False
    )
    return "<br>".join(lines)


def number(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits and a true minus sign; an en dash for NaN."""
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else "–"


def n_visible(text: str) -> int:
    """Characters of `text` that are drawn: without tags, an entity as one."""
    return len(re.sub(r"&\w+;|&#\w+;", "x", re.sub(r"<[^>]*>", "", text)))


def legend_rows(names: Sequence[str], column: Column, width: float | None = None) -> int:
    """Lines that a horizontal legend with these entries needs in `width` pixels of `column`."""
    room = column.width - 12 if width is None else width
    rows, used = 0, math.inf
    for name in names:
        entry = 45 + 1.04 * _CHARACTER * column.font * n_visible(name)
        if used + entry > room:
            rows, used = rows + 1, 0.0
        used += entry
    return rows


def finish(
    figure: go.Figure,
    headline: str,
    *,
    plot_height: float,
    subtitle: str = "",
    column: Column = SCREEN,
    left: float = 4.6,
    right: float = 1.2,
    bottom: float = 3.6,
    panel_titles: float = 1.6,
) -> go.Figure:
    """Put template, headline, legend, margins and size on `figure` (changed in place).

    Args:
        figure: with its traces and axis titles.
        headline: what it is of; may hold plotly's tags, so untrusted text comes escaped.
        plot_height: height of all panels together with the gaps between them, in pixels.
        subtitle: n, intervals, conventions; wrapped to the column.
        column: for which place it is laid out.
        left: room for tick labels and axis title, in type sizes; so are the next three.
        right: likewise.
        bottom: room for tick labels and axis title below the lowest panel.
        panel_titles: room for the titles of the first row of panels.
    """
    head, height = _title(headline, subtitle, column)
    traces = cast(Sequence[Any], figure.data)
    entries = [t.name for t in traces if t.showlegend is not False and t.name]
    # Plotly wraps a horizontal legend at the width of the plot, not of the figure.
    room = column.width - column.em(left + right)
    legend = legend_rows(entries, column, room) * (column.font + 9) + (4 if entries else 0)
    margin = {
        "l": column.em(left),
        "r": column.em(right),
        "t": height + column.em(panel_titles),
        "b": column.em(bottom) + legend,
    }
    total = round(plot_height + margin["t"] + margin["b"])
    figure.update_layout(
        template=TEMPLATE,
        font_size=column.font,
        title=head,
        width=column.width,
        height=total,
        margin=margin,
    )
    # Plotly puts the first of several lines higher than a single one.
    top = 1 - column.em(1.25 if "<br>" in str(head["text"]) else 0.7) / total
    figure.update_layout(
        title_y=top,
        legend={
            "orientation": "h",
            "font_size": column.font,
            "xref": "container",
            "x": 4 / column.width,
            "xanchor": "left",
            "yref": "container",
            "y": 2 / total,
            "yanchor": "bottom",
        },
    )
    figure.update_xaxes(title_font_size=column.font, tickfont_size=column.font)
    figure.update_yaxes(title_font_size=column.font, tickfont_size=column.font)
    return figure


def _title(headline: str, subtitle: str, column: Column) -> tuple[dict[str, object], float]:
    """The title with its subtitle, and the height of both in pixels."""
    large = round(1.15 * column.font, 1)
    room = column.width - 10
    head = wrapped(headline, int(room / (1.06 * _CHARACTER * large)))
    lines = head.count("<br>") + 1
    text, height = f"<b>{head}</b>", 1.3 * large * lines
    if subtitle:
        below = wrapped(subtitle, column.n_characters(room))
        text += f'<br><span style="font-size:{column.font}px;color:#555555">{below}</span>'
        height += 1.3 * column.font * (below.count("<br>") + 1)
    title = {
        "text": text,
        "font": {"size": large},
        "x": 4 / column.width,
        "xref": "container",
        "xanchor": "left",
        "yref": "container",
        "yanchor": "top",
    }
    return title, height + column.em(0.9)


def _template() -> go.layout.Template:
    axis = {
        "automargin": True,
        "gridcolor": GRID,
        "linecolor": INK,
        "linewidth": 1,
        "mirror": False,
        "showline": True,
        "tickcolor": INK,
        "ticklen": 3,
        "ticks": "outside",
        "title": {"standoff": 4},
        "zeroline": False,
    }
    family = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
    layout = go.Layout(
        colorway=PALETTE,
        font={"family": family, "size": 12, "color": INK},
        hoverlabel={"align": "left"},
        legend={"borderwidth": 0, "tracegroupgap": 0, "itemwidth": 30},
        paper_bgcolor="white",
        plot_bgcolor="white",
        title={"font": {"color": INK}},
        xaxis=axis,
        yaxis=axis,
    )
    return go.layout.Template(layout=layout)


pio.templates[TEMPLATE] = _template()
