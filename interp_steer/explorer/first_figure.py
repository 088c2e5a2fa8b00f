"""The first figure, drawn before Dash has started.

Loading Dash takes a browser longer than anything that the page has of its own. So the page asks for
the figure that its address shows first, and for plotly.js, ahead of Dash's scripts, and a script of
its own (`assets/ahead.js`) draws it; where Dash has drawn its own, this one goes.
"""

from typing import Any

from dash import Dash, html
from flask import Response, request
from plotly.io.json import to_json_plotly

from interp_steer.errors import InterpSteerError
from interp_steer.explorer.layers_view import GRAPHS, layer_figure
from interp_steer.explorer.library import Library, explaining
from interp_steer.explorer.selecting import Event, next_selection
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.theming import Screen
from interp_steer.plots.plotly_bundle import plotly_js

SCRIPT = "ahead.js"
"""File of the assets that Dash must not load a second time."""
PLOTLY_PATH = "_dash-component-suites/plotly/package_data/plotly.min.js"
"""Where Dash's page looks for plotly.js, below its own address."""
_KEEP_AN_HOUR = {"Cache-Control": "private, max-age=3600"}
_NONE = 204


def first_place() -> html.Div:
    """Where the early figure waits for Dash's own to be drawn."""
    return html.Div(id="ahead-place")


def register(app: Dash, library: Library) -> None:
    """Serve figure and plotly.js, and let the page ask for both at once."""
    prefix = app.config.requests_pathname_prefix
    plotly_url = f"{prefix}{PLOTLY_PATH}"
    early = (
        f'<script async id="plotly-js" src="{plotly_url}"></script>'
        f'<script src="{app.get_asset_url(SCRIPT)}" data-figure="{prefix}first-figure">'
        "</script>"
    )
    place = '<div id="ahead" class="ahead" aria-hidden="true"></div>'
    app.index_string = app.index_string.replace("{%css%}", early + "{%css%}").replace(
        "{%app_entry%}", place + "{%app_entry%}"
    )

    @app.server.route(plotly_url)
    def plotly() -> Response:
        """The build of plotly.js that pages here need."""
        return Response(plotly_js(), mimetype="text/javascript", headers=_KEEP_AN_HOUR)

    @app.server.route(f"{prefix}first-figure")
    def figure() -> Response:
        """The figure that an address shows first; nothing where that is no figure."""
        drawn = first_figure(library, request.args)
        if drawn is None:
            return Response(status=_NONE)
        return Response(to_json_plotly(drawn), mimetype="application/json")


def first_figure(library: Library, asked: Any) -> dict[str, Any] | None:
    """Return the first figure of the first view, None where another view or a message is shown.

    Args:
        library: the runs.
        asked: `search` (the page's query), `theme` and `width`.
    """
    try:
        with explaining():
            event = Event(source="url", value=asked.get("search", ""))
            selection = next_selection(library, Selection(), event).selection
            if selection.view != "layers":
                return None
            width = asked.get("width", "")
            screen = Screen.from_json(
                {"theme": asked.get("theme"), "width": int(width) if width.isdigit() else None}
            )
            view = library.view(selection.trait)
            return screen.dressed(layer_figure(GRAPHS[0], view, selection, screen.column()))
    except InterpSteerError:
        return None  # the view says it in words
