"""The one look of every figure: the registered template `interp_steer`, colours, a headline.

Print quality on white, one typeface, colours that stay apart with the common colour vision
deficiencies, and for every colour a second sign (dash, marker, hatch), since colour alone is lost
in a grey-scale print. The template is registered when this module loads, never made the default.
"""

import plotly.graph_objects as go
import plotly.io as pio

TEMPLATE = "interp_steer"
"""Name of the registered plotly template."""

INK = "#222222"
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


def ramp_colour(rank: int, n: int) -> str:
    """Colour of the `rank`-th of `n` ordered values, without the steps too faint on white."""
    usable = RAMP[2:]
    return usable[-1] if n < 2 else usable[round(rank * (len(usable) - 1) / (n - 1))]


def faded(colour: str, opacity: float = 0.15) -> str:
    """The hex colour as rgba of the given opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def finish(
    figure: go.Figure, headline: str, *, subtitle: str = "", height: int, width: int = 760
) -> go.Figure:
    """Put template, headline and size on `figure` (changed in place) and return it."""
    figure.update_layout(
        template=TEMPLATE,
        title={"text": headline, "subtitle": {"text": subtitle}},
        height=height,
        width=width,
    )
    return figure


def _template() -> go.layout.Template:
    axis = {
        "automargin": True,
        "gridcolor": GRID,
        "linecolor": INK,
        "linewidth": 1,
        "mirror": False,
        "showline": True,
        "tickcolor": INK,
        "ticks": "outside",
        "title": {"font": {"size": 13}, "standoff": 10},
        "zeroline": False,
    }
    layout = go.Layout(
        colorway=PALETTE,
        font={"family": "Helvetica, Arial, Liberation Sans, sans-serif", "size": 12, "color": INK},
        hoverlabel={"align": "left"},
        legend={"borderwidth": 0, "font": {"size": 12}, "tracegroupgap": 2},
        margin={"l": 70, "r": 30, "t": 90, "b": 60},
        paper_bgcolor="white",
        plot_bgcolor="white",
        title={
            "x": 0.0,
            "xref": "paper",
            "xanchor": "left",
            "yref": "container",
            "y": 0.97,
            "yanchor": "top",
            "font": {"size": 16},
            "subtitle": {"font": {"size": 12, "color": "#555555"}},
        },
        xaxis=axis,
        yaxis=axis,
    )
    return go.layout.Template(layout=layout)


pio.templates[TEMPLATE] = _template()
