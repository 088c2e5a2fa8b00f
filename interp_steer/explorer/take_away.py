"""A configuration taken away: steering files, and the lines of code that load them."""

import io
import tempfile
import zipfile
from dataclasses import dataclass
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from interp_steer.errors import InterpSteerError
from interp_steer.explorer.boundary_view import choice_of
from interp_steer.explorer.library import Library, RunView
from interp_steer.explorer.parts import SELECTION, problem
from interp_steer.explorer.selection import Selection
from interp_steer.steering_files import loading_code, run_provenance, save_steering


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


def layout() -> list[Any]:
    """Button, message and code."""
    return [
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


def register(app: Dash, library: Library) -> None:
    """Hand out the selected configuration."""

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
