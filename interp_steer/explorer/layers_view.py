"""The first view: where the trait is readable, where steering works, where the trait lives.

Readability, downstream scores and the causal scan by layer, one under the other, since they answer
different questions: a layer that reads perfectly may not steer. A click on any of them selects the
layer, a click on a score its method and coefficient too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go
from dash import Dash, Input, Output, State, dcc
from dash.exceptions import PreventUpdate

from interp_steer.explorer.library import Library, RunView
from interp_steer.explorer.parts import (
    SCREEN,
    SELECTION,
    VERSION,
    Said,
    figure_place,
    hint,
    is_shown,
    placed,
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

Stored = dict[str, Any] | None
"""What a store of the page holds; None before it holds anything."""


def layout() -> list[Any]:
    """The view's page, without figures."""
    return [
        hint(
            "Click a point to select its layer (and, among the scores, its method and α). Readable "
            "is not steerable: choose by what steering does downstream."
        ),
        *(dcc.Loading(figure_place(name), delay_show=600, type="dot") for name in GRAPHS),
    ]


def layer_figure(name: str, view: RunView, selection: Selection, column: Column) -> go.Figure:
    """One of `GRAPHS`, with the selected layer shaded.

    Raises:
        MissingStageError: the run does not hold it yet.
    """
    figure = mark_layer(_BUILDERS[name](view, selection, column), selection.layer)
    if name not in _WITH_WORDS:
        # With automatic margins plotly.js draws every axis twice; builders leave room for numbers.
        figure.update_xaxes(automargin=False).update_yaxes(automargin=False)
    return figure


def _scores(view: RunView, selection: Selection, column: Column) -> go.Figure:
    return trait_coherence_by_layer(
        layer_sweep(view.source, selection.scope),
        title=f"{view.source.heading}, scope {as_text(selection.scope)}: "
        "at which layers does each method work?",
        column=column,
        shown_alphas={selection.method: selection.alpha},
    )


_BUILDERS: Mapping[str, Callable[[RunView, Selection, Column], go.Figure]] = {
    "layers-readability": lambda view, _, column: draw_readability(view.source)[0].build(column),
    "layers-scores": _scores,
    "layers-agreement": lambda view, _, column: draw_agreement(view.source)[0].build(column),
    "layers-scan": lambda view, _, column: draw_scan(view.source)[0].build(column),
}
_WITH_WORDS = ("layers-scan",)
"""Figures with an axis of words, whose width nobody knows before."""
GRAPHS = tuple(_BUILDERS)
"""Figures of the view, one under the other; a click on any of them selects a layer."""


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
    """Draw one figure after the other, so that the first is seen before the others are made."""
    page = (SELECTION, SCREEN)
    first, *others = GRAPHS
    changes = [Input(name, "data") for name in (*page, VERSION)]

    @app.callback(Output(f"{first}-place", "children"), changes, prevent_initial_call=True)
    def draw_first(stored: Stored, screen: Stored, _version: str | None) -> Any:
        return _drawn(library, first, stored, screen)

    for before, name in zip(GRAPHS, others, strict=False):

        @app.callback(
            Output(f"{name}-place", "children"),
            Input(f"{before}-place", "children"),
            [State(one, "data") for one in page],
            prevent_initial_call=True,
        )
        def draw_next(_before: Any, stored: Stored, screen: Stored, name: str = name) -> Any:
            return _drawn(library, name, stored, screen)


def _drawn(library: Library, name: str, stored: Stored, page: Stored) -> Any:
    """Children of the figure's place."""
    if stored is None or not is_shown("layers", stored, page):
        raise PreventUpdate
    selection, screen = Selection.from_json(stored), Screen.from_json(page)
    said, figure = Said(), None
    with said.or_say():
        view = library.view(selection.trait)
        figure = layer_figure(name, view, selection, screen.column())
    return said.messages or placed(name, figure, screen)
