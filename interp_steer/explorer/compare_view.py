"""The fourth view: two to four configurations on one scenario, side by side.

The words that differ from the first answer are marked; the frontier shows what each configuration
scores over all scenarios, in which one answer is one draw. A configuration can be taken away as
files, with the lines of code that load it.
"""

import io
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from interp_steer.cells import ALIGNED, MALICIOUS, Cell, steered_cell
from interp_steer.errors import InterpSteerError
from interp_steer.explorer.boundary_view import choice_of
from interp_steer.explorer.compared import Piece, differences, share_changed, visible_lines
from interp_steer.explorer.library import Library, RunView
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
    table,
)
from interp_steer.explorer.selection import MOST_COMPARED, Selection
from interp_steer.explorer.stored import cell_key, keyed
from interp_steer.explorer.theming import Screen
from interp_steer.plots.figure_files import MissingStageError
from interp_steer.plots.from_sweep import layer_sweep
from interp_steer.plots.frontier import frontiers
from interp_steer.plots.layers import LayerSweep
from interp_steer.plots.style import INK, Column, number
from interp_steer.plots.text import as_text
from interp_steer.steering_files import loading_code, run_provenance, save_steering

FRONTIER = "compare-frontier"
SHOWN_MEASURES = (
    ("trait", "trait (0-100)"),
    ("coherence", "coherence (0-100)"),
    ("n_tokens", "tokens"),
    ("cross_entropy", "cross-entropy (nats)"),
    ("embedding_cosine", "embedding cosine to aligned"),
    ("fired_share", "fired share"),
    ("target_distance", "mean |ρ′ − ρ| (a.u.)"),
)
"""Columns of the sweep that are shown of every answer, where they were measured."""


def layout() -> list[Any]:
    """The view's page, without answers."""
    return [
        hint(
            "Same scenario, same random numbers. Words that the first answer does not have there "
            "are underlined, words that it has and another lacks are struck through."
        ),
        html.Div(
            [
                labelled(
                    "Scenario",
                    dcc.Dropdown(id="compare-scenario", clearable=False),
                    of="compare-scenario",
                ),
                labelled(
                    f"Configurations (two to {MOST_COMPARED})",
                    dcc.Dropdown(id="compared", multi=True),
                    of="compared",
                ),
                html.Button("Add the selected one", id="add-selected", type="button"),
            ],
            className="bar wide",
        ),
        html.Div(id="compare-messages"),
        html.Div(id="compare-panes", className="panes"),
        html.Div(id="compare-numbers"),
        figure_place(FRONTIER),
        html.H2("Take the selected configuration away"),
        html.Div(id="take-away-name"),
        html.Div(
            [
                html.Button("Export steering.json + safetensors", id="take-away", type="button"),
                html.Span(id="take-away-message", role="status"),
            ],
            className="bar",
        ),
        dcc.Download(id="take-away-file"),
        html.Div(
            [
                html.Pre(id="take-away-code", tabIndex=0),
                dcc.Clipboard(target_id="take-away-code", title="copy the code"),
            ],
            className="code",
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """One configuration's answer to the scenario."""

    cell: Cell
    """The configuration."""
    row: pd.Series | None
    """Its row of the sweep; None where the sweep has none for this scenario."""


def cells_to_compare(view: RunView, selection: Selection) -> list[Cell]:
    """The configurations of the URL that the sweep has; by default the selected, and the baselines.

    Raises:
        MissingStageError: the run has no sweep.
    """
    known = keyed(view.stored.cells)
    asked = [known[key] for key in selection.compared if key in known]
    if asked:
        return asked[:MOST_COMPARED]
    chosen = selected_cell(selection)
    return [cell for cell in (MALICIOUS, chosen, ALIGNED) if cell_key(cell) in known]


def selected_cell(selection: Selection) -> Cell:
    """The selection as a cell of a sweep."""
    return steered_cell(
        method=selection.method,
        layer=selection.layer,
        alpha=selection.alpha,
        scope=selection.scope,
    )


def answers(view: RunView, cells: Sequence[Cell], scenario: str) -> list[Answer]:
    """What each configuration answered."""
    rows = view.stored.rows_of(scenario)
    found = []
    for cell in cells:
        mine = rows[rows["key"] == cell_key(cell)]
        found.append(Answer(cell=cell, row=None if mine.empty else mine.iloc[0]))
    return found


def scenario_to_compare(view: RunView, selection: Selection) -> str:
    """The URL's scenario; by default the first that most configurations answered."""
    scenarios = view.stored.swept_scenarios
    return selection.scenario if selection.scenario in scenarios else scenarios[0]


def answer_panes(found: Sequence[Answer]) -> list[html.Section]:
    """The answers side by side, each marked against the first that there is."""
    first = next((str(a.row["response"]) for a in found if a.row is not None), "")
    panes, is_first = [], True
    for place, answer in enumerate(found, start=1):
        head = html.H3(f"{place}. {visible_lines(answer.cell.label)}")
        if answer.row is None:
            body = [html.P("The sweep has no answer of this configuration to this scenario.")]
        elif is_first:
            body = [html.P(visible_lines(first), className="plain-response")]
            is_first = False
        else:
            pieces = differences(first, str(answer.row["response"]))
            changed = f"{100 * share_changed(pieces):.0f} % of the words differ from the first"
            marked = html.P([_marked(piece) for piece in pieces], className="plain-response")
            body = [hint(changed), marked]
        panes.append(html.Section([head, *body], className="pane"))
    return panes


def _marked(piece: Piece) -> Any:
    text = visible_lines(piece.text)
    if piece.change == "same":
        return html.Span(text)
    return html.Ins(text) if piece.change == "added" else html.Del(text)


def answers_table(found: Sequence[Answer]) -> html.Table:
    """Scores and measures of the answers, a row a configuration."""
    names = [
        (name, title)
        for name, title in SHOWN_MEASURES
        if any(_value(answer, name) is not None for answer in found)
    ]
    rows = [
        [
            f"{place}. {visible_lines(answer.cell.label)}",
            *(
                "–" if (value := _value(answer, name)) is None else number(value, 4)
                for name, _ in names
            ),
        ]
        for place, answer in enumerate(found, start=1)
    ]
    return table(
        ["configuration", *(title for _, title in names)], rows, caption="this scenario alone"
    )


def _value(answer: Answer, name: str) -> float | None:
    """A measure of an answer; None where it was not measured."""
    value = None if answer.row is None else answer.row.get(name)
    return None if value is None or value != value else float(value)


def frontier_figure(
    view: RunView, selection: Selection, cells: Sequence[Cell], column: Column
) -> go.Figure:
    """Trait against coherence in the selected scope, with the compared configurations numbered."""
    sweep = layer_sweep(view.source, selection.scope)
    figure = frontiers(
        {as_text(selection.scope): sweep},
        title=f"{view.source.heading}, scope {as_text(selection.scope)}: the compared points",
        column=column,
    )
    places: dict[tuple[float, float], list[str]] = {}
    for place, cell in enumerate(cells, start=1):
        scores = _scores(sweep, cell, selection.scope)
        if scores is not None:
            places.setdefault((scores["coherence"], scores["trait"]), []).append(str(place))
    figure.add_scatter(
        x=[x for x, _ in places],
        y=[y for _, y in places],
        text=[", ".join(numbers) for numbers in places.values()],
        mode="markers+text",
        textposition="middle left",
        textfont={"size": 14, "color": INK},
        marker={"symbol": "circle-open", "size": 14, "color": INK, "line": {"width": 2}},
        name="compared (numbers as above)",
        cliponaxis=False,
        hovertemplate="%{text}: trait %{y:.1f}, coherence %{x:.1f}<extra></extra>",
    )
    return figure


def _scores(sweep: LayerSweep, cell: Cell, scope: str) -> dict[str, float] | None:
    """Mean trait and coherence of a configuration that the frontier of `scope` shows."""
    if cell in (ALIGNED, MALICIOUS):
        side = sweep.aligned if cell == ALIGNED else sweep.malicious
        return {"trait": side.trait, "coherence": side.coherence}
    is_there = cell.is_trait_steering and cell.is_usual_threat and cell.scope == scope
    if not is_there or cell.layer is None or cell.alpha is None:
        return None
    return sweep.cell(cell.method, cell.layer, cell.alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeAway:
    """A configuration as files."""

    name: str
    """Of the folder in the archive."""
    archive: bytes
    """A zip archive: steering.json, steering.safetensors and load_it.py in that folder."""
    code: str
    """The lines that load it."""


def take_away(view: RunView, selection: Selection) -> TakeAway:
    """The selected configuration as files.

    Raises:
        SteeringError: a selection that cannot be applied.
        MissingStageError: the run has no probes.
    """
    name, sink = folder_name(selection), io.BytesIO()
    provenance = run_provenance(view.run.manifest)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(sink, "w") as archive:
        spec = choice_of(selection).spec()
        written = save_steering(folder, spec, view.source.probes, provenance=provenance)
        model = str(view.run.manifest["sources"]["model"])
        code = loading_code(folder, model=model, shown_as=name)
        for path in written:
            archive.write(path, f"{name}/{path.name}")
        archive.writestr(f"{name}/load_it.py", code)
    return TakeAway(name=name, archive=sink.getvalue(), code=code)


def folder_name(selection: Selection) -> str:
    """A name for the files of a configuration."""
    trait = "".join(c if c.isalnum() else "-" for c in selection.trait) or "steering"
    scope = selection.scope.replace(":", "-").replace("+", "-")
    return f"{trait}-{selection.method}-layer-{selection.layer}-alpha-{selection.alpha:g}-{scope}"


def register(app: Dash, library: Library) -> None:
    """Show the answers; hand out the configuration."""

    @app.callback(
        Output("compare-messages", "children"),
        Output("compare-scenario", "options"),
        Output("compared", "options"),
        Output("compare-panes", "children"),
        Output("compare-numbers", "children"),
        Output(f"{FRONTIER}-place", "children"),
        Output("take-away-name", "children"),
        Output("take-away-code", "children"),
        Input(SELECTION, "data"),
        Input(SCREEN, "data"),
        Input(VERSION, "data"),
        prevent_initial_call=True,
    )
    def draw(stored: dict[str, Any], page: dict[str, Any], _version: str) -> Any:
        if not is_shown("compare", stored, page):
            raise PreventUpdate
        selection, screen = Selection.from_json(stored), Screen.from_json(page)
        said, view = Said(), library.view(selection.trait)
        scenarios: list[Any] = []
        options: list[Any] = []
        panes: list[Any] = []
        numbers: Any = []
        figure, code = None, ""
        with said.or_say():
            code = take_away(view, selection).code
        with said.or_say():
            options = [
                {"label": cell.label, "value": key}
                for key, cell in keyed(view.stored.cells).items()
            ]
            scenarios = sorted(view.stored.swept_scenarios)
            cells = cells_to_compare(view, selection)
            if not cells:
                raise MissingStageError(
                    "the sweep has none of these configurations",
                    command=view.source.command("sweep"),
                )
            found = answers(view, cells, scenario_to_compare(view, selection))
            panes, numbers = answer_panes(found), answers_table(found)
            figure = frontier_figure(view, selection, cells, screen.column())
        chosen = f"{selected_cell(selection).label}, trait {selection.trait}"
        return (
            said.messages,
            scenarios,
            options,
            panes,
            numbers,
            placed(FRONTIER, figure, screen),
            hint(f"{chosen} (change it in the bar at the top)"),
            code,
        )

    @app.callback(
        Output("take-away-file", "data"),
        Output("take-away-message", "children"),
        Input("take-away", "n_clicks"),
        State(SELECTION, "data"),
        prevent_initial_call=True,
    )
    def export(clicks: int | None, stored: dict[str, Any]) -> Any:
        if not clicks:
            return no_update, no_update
        selection = Selection.from_json(stored)
        try:
            found = take_away(library.view(selection.trait), selection)
        except InterpSteerError as error:
            return no_update, problem(str(error))
        file = f"{found.name}.zip"
        return dcc.send_bytes(found.archive, file), f"{file} is ready"  # pyright: ignore[reportArgumentType]
