"""The Dash app: one page, four views, one selection in the address.

Views are always on the page and shown one at a time; each draws itself when the selection, the page
or the run changes, and only while it is shown. Everything is served from this machine.
"""

from pathlib import Path
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update

from interp_steer import __version__
from interp_steer.explorer import (
    boundary_view,
    compare_view,
    first_figure,
    layers_view,
    live_view,
    tokens_view,
)
from interp_steer.explorer.library import Library
from interp_steer.explorer.parts import SCREEN, SELECTION, VERSION, labelled, problem
from interp_steer.explorer.selecting import Event, next_selection, shown_controls
from interp_steer.explorer.selection import VIEWS, Selection
from interp_steer.plots.style import METHOD_TITLES

LOOK_AGAIN_MS = 3000
"""Between two looks at whether the run has changed."""
_TITLES = {
    "layers": "Layers",
    "boundary": "Boundary",
    "tokens": "Tokens",
    "compare": "Compare",
}
_VALUES = (
    "trait",
    "method",
    "layer",
    "alpha",
    "scope",
    "mode",
    "threshold",
    "target",
    "variants",
    "sample",
    "compared",
    "compare-scenario",
)
"""Controls whose value is part of the selection."""
_FILLED_LATER = ("sample", "compared", "compare-scenario")
"""Lists of those that a view fills when it is drawn."""
_CLICKS = (*(f"view-{view}" for view in VIEWS), "reset-threshold", "add-selected")
"""Buttons that change the selection."""


def make_app(library: Library, live: live_view.LivePanes) -> Dash:
    """The app that shows the runs of `library`, with the generations of `live`."""
    app = Dash(
        "interp_steer.explorer",
        assets_folder=str(Path(__file__).parent / "assets"),
        assets_ignore=first_figure.SCRIPT,
        title="interp_steer explorer",
        update_title="",
        suppress_callback_exceptions=True,
    )
    first_figure.register(app, library)
    app.layout = lambda: _page(library)
    _register_selection(app, library)
    _register_version(app, library)
    layers_view.register(app, library)
    boundary_view.register(app, library)
    live_view.register(app, library, live)
    tokens_view.register(app, library, live)
    compare_view.register(app, library, live)
    return app


def _page(library: Library) -> html.Div:
    views = {
        "layers": [first_figure.first_place(), *layers_view.layout()],
        "boundary": boundary_view.layout(),
        "tokens": tokens_view.layout(),
        "compare": compare_view.layout(),
    }
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id=SELECTION),
            dcc.Store(id=SCREEN),
            dcc.Store(id=VERSION),
            dcc.Interval(id="look-again", interval=LOOK_AGAIN_MS),
            _header(),
            _bar(library),
            html.Div(id="notes", role="status"),
            html.Main(
                [
                    html.Section(
                        content,
                        id=f"{view}-view",
                        hidden=True,
                        role="tabpanel",
                        className="view",
                        **{"aria-labelledby": f"view-{view}"},  # pyright: ignore[reportArgumentType]
                    )
                    for view, content in views.items()
                ],
                id="view",
            ),
        ],
        id="page",
    )


def _header() -> html.Header:
    return html.Header(
        [
            html.H1(["interp_steer ", html.Span("explorer")]),
            html.Span(id="heading"),
            html.Nav(
                [
                    html.Button(
                        title,
                        id=f"view-{view}",
                        type="button",
                        role="tab",
                        className="view-tab",
                        **{"aria-selected": "false", "aria-controls": f"{view}-view"},  # pyright: ignore[reportArgumentType]
                    )
                    for view, title in _TITLES.items()
                ],
                role="tablist",
                **{"aria-label": "views"},  # pyright: ignore[reportArgumentType]
            ),
            html.Button(
                "Dark / light",
                id="theme",
                type="button",
                title=f"interp_steer {__version__}: change between dark and light",
            ),
        ]
    )


def _bar(library: Library) -> html.Div:
    methods = [{"label": title, "value": name} for name, title in METHOD_TITLES.items()]
    return html.Div(
        [
            labelled("Trait", _dropdown("trait", list(library.traits)), of="trait"),
            labelled("Method", _dropdown("method", methods), of="method"),
            labelled("Layer", _dropdown("layer", []), of="layer"),
            labelled(
                "α",
                dcc.Input(id="alpha", type="number", debounce=True, step="any", list="alphas"),
                of="alpha",
            ),
            html.Datalist(id="alphas"),
            labelled("Scope", _dropdown("scope", []), of="scope"),
        ],
        className="bar selection",
        role="group",
        **{"aria-label": "selection"},  # pyright: ignore[reportArgumentType]
    )


def _dropdown(name: str, options: list[Any]) -> dcc.Dropdown:
    return dcc.Dropdown(id=name, options=options, clearable=False, className="small")


def _event(values: dict[str, Any]) -> Event:
    """What the callback was called for."""
    source = ctx.triggered_id
    if source is None or source == SCREEN:
        return Event(source="url", value=values["url"])
    if isinstance(source, dict):
        return Event(source="jump", value=source)
    if source in layers_view.GRAPHS:
        return Event(source="click", value=values["clicks"][layers_view.GRAPHS.index(source)])
    if source == boundary_view.MOVED:
        return Event(source="relayout", value=values["moved"])
    return Event(source=source, value=values.get(source))


def _register_selection(app: Dash, library: Library) -> None:
    values = {name: Input(name, "value") for name in _VALUES}

    @app.callback(
        output={
            "selection": Output(SELECTION, "data"),
            "version": Output(VERSION, "data"),
            "search": Output("url", "search"),
            "values": {name: Output(name, "value") for name in _VALUES},
            "layers": Output("layer", "options"),
            "alphas": Output("alphas", "children"),
            "scopes": Output("scope", "options"),
            "hidden": [Output(f"{view}-view", "hidden") for view in VIEWS],
            "chosen": [Output(f"view-{view}", "aria-selected") for view in VIEWS],
            "heading": Output("heading", "children"),
            "notes": Output("notes", "children"),
        },
        inputs={
            "url": Input("url", "search"),
            "values": values,
            "buttons": [Input(name, "n_clicks") for name in _CLICKS],
            "clicks": [
                Input(name, "clickData", allow_optional=True) for name in layers_view.GRAPHS
            ],
            "moved": Input(boundary_view.MOVED, "data"),
            "jumps": Input({"type": tokens_view.JUMP, "sample": ALL, "pos": ALL}, "n_clicks"),
        },
        state={
            "stored": State(SELECTION, "data"),
            "options": {name: State(name, "options") for name in _FILLED_LATER},
        },
    )
    def select(
        url: str | None,
        values: dict[str, Any],
        buttons: list[int | None],  # noqa: ARG001 - which one it was says the context
        clicks: list[Any],
        moved: Any,
        jumps: list[int | None],
        stored: dict[str, Any] | None,
        options: dict[str, list[Any] | None],
    ) -> dict[str, Any]:
        event = _event({**values, "url": url, "clicks": clicks, "moved": moved})
        is_first = stored is None
        if event.source == "jump" and not any(jumps):
            return _nothing()
        now = Selection() if stored is None else Selection.from_json(stored)
        if is_first:
            event = Event(source="url", value=url)
        elif (event.source == "variants" and not event.value) or (
            event.source == "url" and (url or "") == now.to_query()
        ):
            return _nothing()
        if event.source in options and not options[event.source]:
            # A list without options drops its value by itself; it gets it again.
            return _outputs(library, now, (), url=url, was=stored) | {"notes": no_update}
        parsed = next_selection(library, now, event)
        return _outputs(library, parsed.selection, parsed.notes, url=url, was=stored)


def _nothing() -> dict[str, Any]:
    return {
        "selection": no_update,
        "version": no_update,
        "search": no_update,
        "values": dict.fromkeys(_VALUES, no_update),
        "layers": no_update,
        "alphas": no_update,
        "scopes": no_update,
        "hidden": [no_update for _ in VIEWS],
        "chosen": [no_update for _ in VIEWS],
        "heading": no_update,
        "notes": no_update,
    }


def _outputs(
    library: Library,
    selection: Selection,
    notes: tuple[str, ...],
    *,
    url: str | None,
    was: dict[str, Any] | None,
) -> dict[str, Any]:
    view = library.view(selection.trait)
    query = selection.to_query()
    now = selection.as_json()
    alphas = [html.Option(value=f"{a:g}") for a in view.alphas(selection.method, selection.scope)]
    scopes = list(dict.fromkeys(["all", "response", *(c.scope for c in view.cells)]))
    scopes = [scope for scope in scopes if scope != "none"]
    if selection.scope not in scopes:
        scopes.append(selection.scope)
    return {
        "selection": no_update if now == was else now,
        "version": no_update if now == was else view.source.fingerprint,
        "search": no_update if query == url else query,
        "values": dict(shown_controls(view, selection)),
        "layers": list(view.layers),
        "alphas": alphas,
        "scopes": scopes,
        "hidden": [one != selection.view for one in VIEWS],
        "chosen": [str(one == selection.view).lower() for one in VIEWS],
        "heading": view.heading,
        "notes": [problem(note) for note in notes],
    }


def _register_version(app: Dash, library: Library) -> None:
    @app.callback(
        Output(VERSION, "data", allow_duplicate=True),
        Input("look-again", "n_intervals"),
        State(SELECTION, "data"),
        State(VERSION, "data"),
        prevent_initial_call=True,
    )
    def look(_n: int | None, stored: dict[str, Any] | None, version: str | None) -> Any:
        if stored is None:
            return no_update
        found = library.version(Selection.from_json(stored).trait)
        return no_update if found == version else found
