"""The third view, stored side: a response token by token, its table, its map, the tokens that fire.

A trace stands between the unsteered baselines of its scenario, where their projections are stored.
A training response shows what the gate would do to it. The live side is `live_view`; both write
into the same panes.
"""

from typing import Any

import plotly.graph_objects as go
from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from interp_steer.cells import ALIGNED, MALICIOUS
from interp_steer.errors import InterpSteerError
from interp_steer.explorer.boundary_numbers import BoundaryChoice
from interp_steer.explorer.boundary_view import choice_of
from interp_steer.explorer.downloads import KINDS, token_download
from interp_steer.explorer.fired_tokens import FiredTokens, most_fired
from interp_steer.explorer.library import Library, RunView
from interp_steer.explorer.live_view import LivePanes, live_layout
from interp_steer.explorer.parts import (
    SCREEN,
    SELECTION,
    VERSION,
    Said,
    figure_place,
    hint,
    is_shown,
    labelled,
    placed,
    problem,
)
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.stored import StoredResponse, cell_key
from interp_steer.explorer.theming import Screen
from interp_steer.explorer.token_grid import token_grid
from interp_steer.explorer.token_panes import Pane, panes_page
from interp_steer.plots.figure_files import MissingStageError
from interp_steer.plots.style import number
from interp_steer.plots.token_map import token_maps
from interp_steer.trace_blocks import make_visible

PANES, MAP = "token-panes", "token-map"
JUMP = "jump"
"""Kind of the ids of buttons that lead to an example."""


def layout() -> list[Any]:
    """The view's page, without responses."""
    return [
        html.Div(
            [
                labelled(
                    "Show",
                    dcc.RadioItems(
                        id="mode",
                        options=[
                            {"label": "stored responses", "value": "stored"},
                            {"label": "live generation", "value": "live"},
                        ],
                        value="stored",
                        inline=True,
                    ),
                    of="mode",
                ),
            ],
            className="bar",
        ),
        html.Div(
            labelled("Response", dcc.Dropdown(id="sample", clearable=False), of="sample"),
            id="stored-form",
            className="bar wide",
        ),
        *live_layout(),
        html.Div(id="token-messages"),
        hint(
            "Tint: projection about the boundary m, orange below, blue above. ⟦framed⟧ tokens "
            "fired, ⟪double framed⟫ ones hit the cap; the bar over a token is the size of its "
            "move. Arrow keys go from token to token."
        ),
        html.Div(id=PANES, className="panes"),
        html.Div(
            "Point at a token, or reach it with the keyboard, to see its trace row.",
            id="token-detail",
            className="detail",
            role="status",
            **{"aria-live": "polite"},  # pyright: ignore[reportArgumentType]
        ),
        html.Div(
            [
                html.Span("Export what is shown:"),
                *(
                    html.Button(kind.upper(), id={"type": "export", "kind": kind}, type="button")
                    for kind in KINDS
                ),
                dcc.Loading(html.Span(id="export-message", role="status"), type="dot"),
            ],
            className="bar",
        ),
        dcc.Download(id="download"),
        html.H2("Trace rows"),
        html.Div(id="grid-place"),
        html.H2("Layer × token map"),
        html.Div(id="map-message"),
        figure_place(MAP),
        html.H2("Most-fired tokens"),
        html.Div(id="most-fired"),
    ]


def stored_panes(view: RunView, selection: Selection, one: StoredResponse) -> list[Pane]:
    """A stored response; a trace between the unsteered baselines of its scenario."""
    choice = choice_of(selection)
    table = view.stored.tokens_of(one, choice)
    mine = Pane(heading=one.label, table=table)
    if one.kind != "trace":
        return [mine]
    first = table.slice(0, 1).to_pylist()[0]
    edit = BoundaryChoice(
        method=first["method"],
        layer=first["layer"],
        alpha=first["alpha"],
        scope=first["scope"],
        threshold=first["threshold"],
    )
    before, after = (_baseline(view, one.scenario, side, edit) for side in ("malicious", "aligned"))
    return [pane for pane in (before, mine, after) if pane is not None]


def _baseline(view: RunView, scenario: str, side: str, choice: BoundaryChoice) -> Pane | None:
    """The unsteered answer of a side, with what `choice` would do to it; None if none is stored."""
    heading = f"{scenario} · {side} prompt, unsteered"
    table = view.stored.baseline(scenario, side, choice)
    row = None
    try:
        rows = view.stored.rows_of(scenario)
        key = cell_key(MALICIOUS if side == "malicious" else ALIGNED)
        found = rows[rows["key"] == key]
        row = None if found.empty else found.iloc[0]
    except MissingStageError:
        pass
    if row is None:
        return Pane(heading=heading, table=table) if table is not None else None
    note = f"trait {row['trait']:.0f}, coherence {row['coherence']:.0f}"
    if table is None:
        command = f"python -m analyses.baseline_projections {view.run.path}"
        note += f"; without projections: they come from `{command}`"
    return Pane(heading=heading, table=table, text=str(row["response"]), note=note)


def map_figure(
    view: RunView, one: StoredResponse | None, screen: Screen
) -> tuple[go.Figure | None, str]:
    """The layer x token map of a response, or why there is none."""
    found = None if one is None else view.stored.layer_map(one)
    if one is None or found is None:
        return None, (
            "Only the steered layer of a trace is stored. Training responses have every layer, and "
            "a live generation can be mapped."
        )
    title = f"{view.source.heading}: on which side is each token, layer by layer?"
    return token_maps((found,), title=title, column=screen.column()), ""


def fired_list(found: FiredTokens) -> list[Any]:
    """Buttons that lead to an example of each token."""
    if not found.tokens:
        return [hint(f"No token fired, counted on {found.counted_on}.")]
    buttons = [
        html.Li(
            html.Button(
                [html.Code(make_visible(one.token)), f" {one.n_fired:,} of {one.n:,}"],
                id={"type": JUMP, "sample": one.sample, "pos": one.pos},
                type="button",
                title=f"mean move {number(one.mean_move)} a.u.; go to an example",
            )
        )
        for one in found.tokens
    ]
    return [hint(f"Fired, of all in scope; {found.counted_on}."), html.Ol(buttons)]


def register(app: Dash, library: Library, live: LivePanes) -> None:
    """Show stored responses, list what fires, export what is shown."""

    @app.callback(
        Output("sample", "options"),
        Output("stored-form", "hidden"),
        Output("token-messages", "children"),
        Output(PANES, "children"),
        Output("grid-place", "children"),
        Output(f"{MAP}-place", "children"),
        Output("map-message", "children"),
        Input(SELECTION, "data"),
        Input(SCREEN, "data"),
        Input(VERSION, "data"),
        prevent_initial_call=True,
    )
    def draw(stored: dict[str, Any], page: dict[str, Any], _version: str) -> Any:
        if not is_shown("tokens", stored, page):
            raise PreventUpdate
        selection, screen = Selection.from_json(stored), Screen.from_json(page)
        if selection.mode == "live":
            return (no_update, True, [], *(no_update,) * 4)
        said, view = Said(), library.view(selection.trait)
        options: list[dict[str, str]] = []
        panes: list[Pane] = []
        figure, why = None, ""
        with said.or_say():
            every = (*view.stored.traces, *view.stored.training)
            options = [{"label": make_visible(one.label), "value": one.key} for one in every]
            panes = shown_panes(view, selection)
            figure, why = map_figure(
                view, view.stored.find(selection.sample, selection.edit), screen
            )
        return (
            options,
            False,
            said.messages,
            panes_page(panes, pos=selection.pos),
            token_grid(panes),
            placed(MAP, figure, screen),
            why,
        )

    @app.callback(
        Output("most-fired", "children"),
        Input(SELECTION, "data"),
        Input(VERSION, "data"),
        prevent_initial_call=True,
    )
    def count(stored: dict[str, Any], _version: str) -> Any:
        selection = Selection.from_json(stored)
        if selection.view != "tokens":
            return no_update
        said, view = Said(), library.view(selection.trait)
        with said.or_say():
            return fired_list(most_fired(view, choice_of(selection)))
        return said.messages

    @app.callback(
        Output("download", "data"),
        Output("export-message", "children"),
        Input({"type": "export", "kind": ALL}, "n_clicks"),
        State(SELECTION, "data"),
        State("live-id", "data"),
        prevent_initial_call=True,
    )
    def export(clicks: list[int | None], stored: dict[str, Any], live_id: str | None) -> Any:
        if not any(clicks) or not isinstance(ctx.triggered_id, dict):
            return no_update, no_update
        selection, kind = Selection.from_json(stored), str(ctx.triggered_id["kind"])
        try:
            if selection.mode == "live":
                panes = live.panes(live_id)
            else:
                panes = shown_panes(library.view(selection.trait), selection)
            content = token_download(panes, kind, title=f"{selection.trait}: tokens")
        except InterpSteerError as error:
            return no_update, problem(str(error))
        name = f"tokens-{selection.trait}.{kind}"
        return dcc.send_bytes(content, name), f"{name} is ready"  # pyright: ignore[reportArgumentType]


def shown_panes(view: RunView, selection: Selection) -> list[Pane]:
    """Panes of the selected stored response.

    Raises:
        MissingStageError: the run has no response with token rows.
    """
    one = view.stored.find(selection.sample, selection.edit)
    if one is None:
        if selection.sample and (view.stored.traces or view.stored.training):
            raise MissingStageError(
                f"the run has no stored response {selection.sample[:80]!r}; pick another",
                command=f"{view.source.command('trace')} --scenario ID --parquet FILE",
            )
        raise MissingStageError(
            "the run has no traces and no token projections",
            command=f"{view.source.command('fit')} --model MODEL --scenarios FILE",
        )
    return stored_panes(view, selection, one)
