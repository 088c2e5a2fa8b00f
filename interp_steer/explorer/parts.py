"""Pieces of pages that several views use: messages, key-value lists, figures, ids.

All text that comes from a run goes into children or attributes of Dash components, which React
writes as text; nothing here makes HTML out of strings.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html

from interp_steer.errors import InterpSteerError
from interp_steer.explorer.library import explaining
from interp_steer.explorer.theming import Screen
from interp_steer.plots.figure_files import MissingStageError

SELECTION = "selection"
"""Store: `Selection.as_json`, what all views show."""
SCREEN = "screen"
"""Store: theme and width of the page, as `Screen.from_json` reads them."""
VERSION = "version"
"""Store: fingerprint of the shown run."""

GRAPH_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "toImageButtonOptions": {"format": "svg"},
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}


SHOWN, HIDDEN = {"display": "block"}, {"display": "none"}
"""Styles of a place that has a figure, and of one that has none."""


class Said:
    """What a view says instead of what could not be shown; empty where all went well."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    @contextmanager
    def or_say(self) -> Iterator[None]:
        """Run the block; a refusal becomes a message."""
        try:
            with explaining():
                yield
        except MissingStageError as missing:
            self.messages.append(missing_stage(missing))
        except InterpSteerError as error:
            self.messages.append(problem(str(error)))


def missing_stage(missing: MissingStageError) -> html.Div:
    """What is missing and the command that makes it."""
    return html.Div(
        [html.Span(f"{missing.what}. Make it with "), html.Code(missing.command)],
        className="message missing",
        role="note",
    )


def problem(text: str) -> html.Div:
    """Something that went wrong, in words."""
    return html.Div(text, className="message problem", role="alert")


def hint(text: str) -> html.P:
    """A line of explanation."""
    return html.P(text, className="hint")


def graph(name: str, *, config: dict[str, Any] | None = None) -> dcc.Graph:
    """An empty place for a figure; hidden until it has one."""
    return dcc.Graph(
        id=name,
        figure=go.Figure(),
        config=GRAPH_CONFIG | (config or {}),  # pyright: ignore[reportArgumentType]
        style=HIDDEN,
    )


def figure_place(name: str) -> html.Div:
    """Where the figure `name` goes once there is one; empty graphs would make a page start late."""
    return html.Div(id=f"{name}-place")


def placed(name: str, figure: go.Figure | None, screen: Screen) -> dcc.Graph | list[Any]:
    """Children of `figure_place`: the figure, or nothing."""
    if figure is None:
        return []
    return dcc.Graph(
        id=name,
        figure=screen.dressed(figure),
        config=GRAPH_CONFIG,  # pyright: ignore[reportArgumentType]
    )


def is_shown(
    view: str, selection: Mapping[str, Any] | None, page: Mapping[str, Any] | None
) -> bool:
    """Whether `view` is the one on the screen; not before the page has said how wide it is."""
    return selection is not None and page is not None and selection.get("view") == view


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> html.Table:
    """A small table; the first cell of a row is its header."""
    return html.Table(
        [
            html.Caption(caption),
            html.Thead(html.Tr([html.Th(text, scope="col") for text in head])),
            html.Tbody(
                [
                    html.Tr([html.Th(row[0], scope="row"), *(html.Td(text) for text in row[1:])])
                    for row in rows
                ]
            ),
        ],
        className="numbers",
    )


def labelled(text: str, control: Any, *, of: str) -> html.Div:
    """A control under its label."""
    return html.Div([html.Label(text, htmlFor=of), control], className="field")
