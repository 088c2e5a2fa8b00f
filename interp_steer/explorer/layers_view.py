"""The first view: where the trait is readable, where steering works, where the trait lives.

Readability, downstream scores and the causal scan by layer, one under the other, since they answer
different questions: a layer that reads perfectly may not steer. A click on any of them selects the
layer, a click on a score its method and coefficient too.
"""

from typing import Any

import plotly.graph_objects as go
from dash import Dash, Input, Output, dcc, html
from dash.exceptions import PreventUpdate

from interp_steer.explorer.library import Library, RunView
from interp_steer.explorer.parts import (
    SCREEN,
    SELECTION,
    VERSION,
    Said,
    figure_or_nothing,
    graph,
    hint,
    is_shown,
)
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.theming import Screen
from interp_steer.plots.from_analyses import draw_scan
from interp_steer.plots.from_probes import draw_agreement, draw_readability
from interp_steer.plots.from_sweep import layer_sweep
from interp_steer.plots.layers import trait_coherence_by_layer
from interp_steer.plots.lines import mark_layer
from interp_steer.plots.style import METHOD_TITLES, Column
from interp_steer.plots.text import as_text

GRAPHS = ("layers-readability", "layers-scores", "layers-agreement", "layers-scan")
"""Places of the figures; a click on any of them selects a layer."""


def layout() -> list[Any]:
    """The view's page, without figures."""
    return [
        hint(
            "Click a point to select its layer (and, among the scores, its method and α). Readable "
            "is not steerable: choose by what steering does downstream."
        ),
        html.Div(id="layers-messages"),
        dcc.Loading([graph(name) for name in GRAPHS], delay_show=400, type="dot"),
    ]


def layer_figures(
    view: RunView, selection: Selection, column: Column, said: Said
) -> dict[str, go.Figure]:
    """The figures that the run can show, by place; what is missing is said."""
    found: dict[str, go.Figure] = {}
    with said.or_say():
        found["layers-readability"] = draw_readability(view.source)[0].build(column)
    if not found:
        return found
    with said.or_say():
        sweep = layer_sweep(view.source, selection.scope)
        found["layers-scores"] = trait_coherence_by_layer(
            sweep,
            title=f"{view.source.heading}, scope {as_text(selection.scope)}: "
            "at which layers does each method work?",
            column=column,
            shown_alphas={selection.method: selection.alpha},
        )
    with said.or_say():
        found["layers-agreement"] = draw_agreement(view.source)[0].build(column)
    with said.or_say():
        found["layers-scan"] = draw_scan(view.source)[0].build(column)
    for figure in found.values():
        mark_layer(figure, selection.layer)
    return found


def clicked_layer(point: dict[str, Any]) -> dict[str, Any]:
    """Layer, and for a score method and alpha, of a click's point; empty for anything else."""
    place = point.get("x")
    if not isinstance(place, int | float) or isinstance(place, bool) or place != int(place):
        return {}
    found: dict[str, Any] = {"layer": int(place)}
    custom = point.get("customdata")
    if isinstance(custom, list) and len(custom) == 4 and custom[2] in METHOD_TITLES:
        found |= {"method": custom[2], "alpha": float(custom[3])}
    return found


def register(app: Dash, library: Library) -> None:
    """Draw the view whenever its selection, the page or the run changes."""

    @app.callback(
        output={
            "messages": Output("layers-messages", "children"),
            "figures": [Output(name, "figure") for name in GRAPHS],
            "styles": [Output(name, "style") for name in GRAPHS],
        },
        inputs=[Input(SELECTION, "data"), Input(SCREEN, "data"), Input(VERSION, "data")],
        prevent_initial_call=True,
    )
    def draw(
        stored: dict[str, Any] | None, page: dict[str, Any] | None, _version: str | None
    ) -> dict[str, Any]:
        if stored is None or not is_shown("layers", stored, page):
            raise PreventUpdate
        selection, screen = Selection.from_json(stored), Screen.from_json(page)
        said = Said()
        figures = layer_figures(library.view(selection.trait), selection, screen.column(), said)
        drawn = [figure_or_nothing(figures.get(name), screen) for name in GRAPHS]
        return {
            "messages": said.messages,
            "figures": [figure for figure, _ in drawn],
            "styles": [style for _, style in drawn],
        }
