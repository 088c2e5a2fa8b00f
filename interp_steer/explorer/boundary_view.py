"""The second view: move the boundary, and see at once which tokens would fire and how far they go.

Everything follows from cached projections of the training responses, without a run of the model.
The threshold and StTP's target can be dragged in the figure or typed; a boundary worth keeping is
stored in the run as a named variant.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, Patch, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from interp_steer.errors import InterpSteerError
from interp_steer.explorer.boundary_numbers import (
    SIDES,
    BoundaryChoice,
    EditNumbers,
    edit_numbers,
    moved_projections,
)
from interp_steer.explorer.library import Library, RunView, explaining
from interp_steer.explorer.parts import (
    HIDDEN,
    SCREEN,
    SELECTION,
    SHOWN,
    VERSION,
    Said,
    graph,
    hint,
    is_shown,
    labelled,
    problem,
    table,
)
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.theming import Screen
from interp_steer.explorer.variants import Variant, keep_variant, read_variants
from interp_steer.plots.from_probes import pooled_sample
from interp_steer.plots.moved_boundary import MovedBoundary, moved_boundary
from interp_steer.plots.style import METHOD_TITLES, Column, number
from interp_steer.plots.transfer import (
    CURVE,
    TransferCurve,
    TransferCurves,
    curve_title,
    transfer_figure,
)
from interp_steer.specs import LayerSteering

HISTOGRAMS, TRANSFER = "boundary-histograms", "boundary-transfer"
MOVED = "boundary-moved"
"""Store: plotly's relayout event that moved a line of the first figure."""
N_PLACES = 401


def layout() -> list[Any]:
    """The view's page, without figures and numbers."""
    number_input = {"type": "number", "debounce": True, "step": "any"}
    return [
        hint(
            "Drag the heavy lines, or type. What follows is arithmetic on stored projections of "
            "unsteered training tokens; a steered model writes other tokens."
        ),
        html.Div(
            [
                labelled(
                    "Threshold (a.u.)",
                    dcc.Input(id="threshold", **number_input),
                    of="threshold",
                ),
                labelled(
                    "StTP target s (a.u.)", dcc.Input(id="target", **number_input), of="target"
                ),
                html.Button("Back to m", id="reset-threshold", type="button"),
                html.Div(className="gap"),
                labelled(
                    "Keep as variant",
                    dcc.Input(id="variant-name", type="text", placeholder="name", maxLength=60),
                    of="variant-name",
                ),
                html.Button("Keep", id="keep-variant", type="button"),
                labelled(
                    "Kept variants",
                    dcc.Dropdown(id="variants", placeholder="none yet", clearable=True),
                    of="variants",
                ),
            ],
            className="bar",
        ),
        html.Div(id="variant-message", role="status"),
        html.Div(id="boundary-body"),
        dcc.Store(id=MOVED),
    ]


def _body() -> list[Any]:
    """Numbers and figures, made when the view is first shown: graphs make a page start late."""
    return [
        html.Div(id="boundary-messages"),
        html.Div(id="boundary-numbers", **{"aria-live": "polite"}),  # pyright: ignore[reportArgumentType]
        graph(HISTOGRAMS, config={"edits": {"shapePosition": True}}),
        graph(TRANSFER),
        dcc.Store(id="boundary-drawn"),
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundaryAnswer:
    """Everything that the view shows for one choice."""

    steering: LayerSteering
    """The choice in numbers."""
    histograms: MovedBoundary
    """For the first figure."""
    transfer: TransferCurves
    """For the second."""
    numbers: dict[str, EditNumbers]
    """What the choice does to the tokens of each kind, by its name."""


def choice_of(selection: Selection) -> BoundaryChoice:
    """The selection as something that can be resolved against a probe."""
    return BoundaryChoice(
        method=selection.method,
        layer=selection.layer,
        alpha=selection.alpha,
        scope=selection.scope,
        threshold=selection.threshold,
    )


def answer(view: RunView, selection: Selection) -> BoundaryAnswer:
    """What the selection's threshold, target and coefficient do at its layer.

    Raises:
        SteeringError: a choice that cannot be applied (a cap below the threshold, for one).
        MissingStageError: no probes or no projections.
    """
    probe = view.source.probe_layer(selection.layer)
    steering = choice_of(selection).at(probe)
    tokens = view.tokens(selection.layer)
    malicious = tokens.of("malicious", selection.scope)
    traced = view.stored.traced_projections(
        layer=selection.layer, method=selection.method, scope=selection.scope
    )
    histograms = MovedBoundary(
        probe=probe,
        method=selection.method,
        threshold=steering.threshold,
        target=steering.target,
        pooled=pooled_sample(view.source, probe),
        tokens=tokens.responses,
        expected=moved_projections(malicious, steering),
        traced=None if traced is None else traced.after,
    )
    numbers = {
        f"{side} tokens (training, unsteered)": edit_numbers(
            tokens.of(side, selection.scope), steering
        )
        for side in SIDES
    }
    if traced is not None:
        words = "steered tokens (traced, as they arrived)"
        numbers[words] = edit_numbers(traced.before, steering)
    return BoundaryAnswer(
        steering=steering,
        histograms=histograms,
        transfer=_transfer(steering, histograms),
        numbers=numbers,
    )


def _transfer(steering: LayerSteering, histograms: MovedBoundary) -> TransferCurves:
    spec, probe = steering.spec, histograms.probe
    places = np.linspace(*histograms.span, N_PLACES)
    if steering.threshold is not None:
        upright = [steering.threshold, np.nextafter(steering.threshold, -np.inf)]
        places = np.unique(np.r_[places, upright])
    after = moved_projections(places, steering)
    fired = np.ones_like(places) if steering.threshold is None else places < steering.threshold
    curve = TransferCurve(
        method=spec.method,
        alpha=float(spec.alpha),
        before=places,
        after=after,
        fired=np.asarray(fired, dtype=np.float64),
        threshold=steering.threshold,
    )
    return TransferCurves(probe=probe, curves=(curve,), chosen={spec.method: float(spec.alpha)})


def numbers_table(found: BoundaryAnswer, selection: Selection) -> html.Table:
    """Firing rates and sizes of edits, a row a kind of tokens."""
    rows = [
        [
            kind,
            f"{one.n:,}",
            _percent(one.fired),
            _percent(one.capped),
            number(one.mean_edit),
            number(one.mean_edit_fired),
        ]
        for kind, one in found.numbers.items()
    ]
    head = [
        "tokens",
        f"n in scope {selection.scope}",
        "fires",
        "capped",
        "mean |ρ′ − ρ|, in scope (a.u.)",
        "mean |ρ′ − ρ|, fired (a.u.)",
    ]
    steering = found.steering
    said = [
        f"{name} {number(value)}"
        for name, value in (
            ("threshold", steering.threshold),
            ("target", steering.target),
            ("cap", steering.cap),
        )
        if value is not None
    ]
    caption = f"{METHOD_TITLES[selection.method]}, α = {selection.alpha:.4g}; " + ", ".join(said)
    return table(head, rows, caption=caption.rstrip("; "))


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f} %"


def boundary_figures(
    found: BoundaryAnswer, view: RunView, column: Column
) -> tuple[go.Figure, go.Figure]:
    """The figures of an answer."""
    heading = view.source.heading
    layer = found.histograms.probe.layer
    return (
        moved_boundary(
            found.histograms, title=f"{heading}: the boundary at layer {layer}", column=column
        ),
        transfer_figure(
            found.transfer,
            title=f"{heading}: what the edit does to a projection",
            note="the jump is the threshold in force",
            column=column,
        ),
    )


def register(app: Dash, library: Library) -> None:
    """Answer every change of the selection; keep and list variants."""
    app.clientside_callback(
        ClientsideFunction("interpSteer", "moved"),
        Output(MOVED, "data"),
        Input(HISTOGRAMS, "relayoutData"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("boundary-body", "children"),
        Input(SELECTION, "data"),
        State("boundary-body", "children"),
        prevent_initial_call=True,
    )
    def begin(stored: dict[str, Any] | None, body: list[Any] | None) -> list[Any]:
        if body or stored is None or stored.get("view") != "boundary":
            raise PreventUpdate
        return _body()

    @app.callback(
        output={
            "messages": Output("boundary-messages", "children"),
            "numbers": Output("boundary-numbers", "children"),
            "figures": [Output(HISTOGRAMS, "figure"), Output(TRANSFER, "figure")],
            "styles": [Output(HISTOGRAMS, "style"), Output(TRANSFER, "style")],
            "drawn": Output("boundary-drawn", "data"),
        },
        inputs=[Input(SELECTION, "data"), Input(SCREEN, "data"), Input(VERSION, "data")],
        state=[State("boundary-drawn", "data")],
    )
    def draw(
        stored: dict[str, Any] | None,
        page: dict[str, Any] | None,
        version: str | None,
        drawn: list[Any] | None,
    ) -> dict[str, Any]:
        if stored is None or not is_shown("boundary", stored, page):
            raise PreventUpdate
        selection, screen = Selection.from_json(stored), Screen.from_json(page)
        said, found = Said(), None
        view = library.view(selection.trait)
        with said.or_say():
            found = answer(view, selection)
        if found is None:
            return _empty(said)
        now = _drawing(selection, screen, version, found)
        is_same = drawn is not None and drawn[:-1] == now
        if drawn is not None and is_same:
            figures, n_traces = _patches(found, screen, n_traces=drawn[-1]), drawn[-1]
        else:
            built = boundary_figures(found, view, screen.column())
            figures, n_traces = (
                [screen.dressed(figure) for figure in built],
                len(list(built[0].data)),
            )
        return {
            "messages": said.messages,
            "numbers": numbers_table(found, selection),
            "figures": figures,
            "styles": [SHOWN, SHOWN],
            "drawn": [*now, n_traces],
        }

    @app.callback(
        Output("variant-message", "children"),
        Output("variants", "options"),
        Output("variant-name", "value"),
        Input("keep-variant", "n_clicks"),
        Input(SELECTION, "data"),
        State("variant-name", "value"),
        prevent_initial_call=True,
    )
    def keep(_clicks: int | None, stored: dict[str, Any], name: str | None) -> Any:
        selection = Selection.from_json(stored)
        if selection.view != "boundary":
            return no_update, no_update, no_update
        run, message, typed = library.run(selection.trait), no_update, no_update
        try:
            with explaining():
                if ctx.triggered_id == "keep-variant":
                    variant = _variant(library.view(selection.trait), selection, name or "")
                    path = keep_variant(run, variant)
                    message, typed = f"kept as {variant.name} in {path}", ""
                kept = read_variants(run)
        except InterpSteerError as error:
            return problem(str(error)), no_update, no_update
        options = [{"label": one.label, "value": one.to_query()} for one in kept]
        return message, options, typed


def _empty(said: Said) -> dict[str, Any]:
    """What the view shows where there is no answer: why."""
    return {
        "messages": said.messages,
        "numbers": [],
        "figures": [go.Figure(), go.Figure()],
        "styles": [HIDDEN, HIDDEN],
        "drawn": None,
    }


def _drawing(
    selection: Selection, screen: Screen, version: str | None, found: BoundaryAnswer
) -> list[Any]:
    """What a drawn figure depends on besides threshold and coefficient, as values of JSON."""
    span = [round(end, 6) for end in found.histograms.span]
    chosen = [selection.trait, selection.layer, selection.method, selection.scope]
    return [*chosen, screen.theme, screen.width, version, *span]


def _patches(found: BoundaryAnswer, screen: Screen, *, n_traces: int) -> list[Patch]:
    """What changes in the drawn figures when threshold or coefficient do.

    Building a figure anew takes longer than everything that it shows.
    """
    histograms, transfer = Patch(), Patch()
    histograms["layout"]["shapes"] = screen.coloured(found.histograms.dragged_shapes())
    edited = found.histograms.edited_steps()
    if edited is not None:
        histograms["data"][n_traces - 1]["x"] = edited.edges
        histograms["data"][n_traces - 1]["y"] = edited.heights
    (curve,) = found.transfer.curves
    transfer["data"][CURVE]["x"], transfer["data"][CURVE]["y"] = curve.before, curve.after
    transfer["layout"]["annotations"][0]["text"] = curve_title(curve.method, [curve.alpha])
    return [histograms, transfer]


def _variant(view: RunView, selection: Selection, name: str) -> Variant:
    found = answer(view, selection)
    return Variant(
        name=name,
        selection=selection,
        threshold=found.steering.threshold,
        target=found.steering.target,
        fired={kind: one.fired for kind, one in found.numbers.items() if one.n},
    )
