"""A print figure on a screen: as wide as its place, and in the colours of the page.

Builders draw for paper: black on white. On a dark page the same figure gets light ink, a dark
ground and lighter series colours; what is told apart by dash, marker and hatch stays so. Only
values of colour properties are exchanged, never text: a token that reads "#222222" stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from interp_steer.plots.style import (
    ALIGNED,
    FAINT,
    GRID,
    INK,
    METHOD_LOOKS,
    RAMP,
    TARGET,
    Column,
)

Theme = Literal["light", "dark"]

PAPER_DARK = "#14171b"
_DARK_RAMP = (
    "#f2e9a2",
    "#d4e58f",
    "#a6dba0",
    "#62c7a9",
    "#4ba3c3",
    "#7f95dc",
    "#ab83de",
    "#c86fd6",
)
"""In the places of RAMP: light to deeper, all of them legible on a dark ground."""
DARK: Mapping[str, str] = {
    INK: "#e8eaed",
    FAINT: "#9aa0a6",
    GRID: "#30353b",
    "#555555": "#b7bcc2",
    "white": PAPER_DARK,
    "#ffffff": PAPER_DARK,
    ALIGNED: "#5fb0e6",
    TARGET: "#2fc79b",
    METHOD_LOOKS["stmp"][0]: "#d9a21b",
    **dict(zip(RAMP, _DARK_RAMP, strict=True)),
}
"""Colour on paper to colour on a dark page; the others serve on both."""
MARGIN = 36
"""Pixels of a page that a figure leaves free."""
WIDEST, NARROWEST = 1320, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The page that figures are drawn for."""

    theme: Theme = "light"
    """light or dark."""
    width: int = 1100
    """Of the window, in CSS pixels."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> "Screen":
        """What the page says of itself; defaults before it has."""
        said = stored or {}
        width = said.get("width")
        return cls(
            theme="dark" if said.get("theme") == "dark" else "light",
            width=int(width) if isinstance(width, int | float) and width > 0 else 1100,
        )

    def column(self, share: float = 1.0) -> Column:
        """The place of a figure that takes `share` of the page's width."""
        width = min(WIDEST, max(NARROWEST, int(share * (self.width - MARGIN))))
        return Column(name="screen", width=width, font=12 if width < 480 else 13)

    def dressed(self, figure: go.Figure) -> dict[str, Any]:
        """The figure as a browser takes it: as wide as its place, in the colours of the page."""
        drawn: dict[str, Any] = figure.to_plotly_json()
        layout = drawn["layout"]
        layout["autosize"] = True
        layout.pop("width", None)
        if self.theme == "light":
            return drawn
        title = layout.get("title", {})
        if "text" in title:
            title["text"] = title["text"].replace("color:#555555", f"color:{DARK['#555555']}")
        return _darkened(drawn)

    def coloured(self, part: Any) -> Any:
        """Part of a figure (shapes, a line) in the colours of the page."""
        return _darkened(part) if self.theme == "dark" else part


def _darkened(node: Any, name: str = "") -> Any:
    """`node` with the values of colour properties exchanged."""
    if isinstance(node, dict):
        return {key: _darkened(value, key) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_darkened(value, name) for value in node]
    if isinstance(node, str) and ("color" in name or name == "colorway"):
        return DARK.get(node, node)
    return node
