"""The fourth view, live side: generate the answers that the sweep does not have.

All that are missing are rows of one batch. Texts appear as they are sampled; stopping keeps what is
there. They stay with the page, not with the run.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html, no_update

from interp_steer.errors import InterpSteerError
from interp_steer.explorer.answers import (
    answers,
    cells_to_compare,
    missing_cells,
    rows_to_generate,
    scenario_to_compare,
)
from interp_steer.explorer.library import ExplorerError, Library, RunView
from interp_steer.explorer.live_view import PULSE_MS, LivePanes, resting, status_text
from interp_steer.explorer.parts import SELECTION, problem
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.stored import cell_key

GENERATE = "compare-generate"
"""The button."""
GENERATED = "compare-generated"
"""Store: `Generated.as_json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What the page has generated for one scenario."""

    live_id: str = ""
    """The generation; empty for none."""
    trait: str = ""
    """Run that was asked."""
    scenario: str = ""
    """Scenario that was answered."""
    texts: Mapping[str, str]
    """Responses so far, by cell key (untrusted)."""
    is_running: bool = False
    """Whether more will come."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> "Generated":
        """What `as_json` wrote; nothing for None."""
        return cls(texts={}) if stored is None else cls(**stored)

    def as_json(self) -> dict[str, Any]:
        """The value as a browser keeps it."""
        return asdict(self)

    def texts_of(self, trait: str, scenario: str) -> Mapping[str, str]:
        """The texts that have begun, where they answer this scenario of this run."""
        if (trait, scenario) != (self.trait, self.scenario):
            return {}
        return {key: text for key, text in self.texts.items() if text or not self.is_running}


def layout() -> html.Div:
    """Buttons and clock."""
    return html.Div(
        [
            html.Button("Generate what is missing", id=GENERATE, type="button", disabled=True),
            html.Button("Stop", id="compare-stop", type="button", disabled=True),
            html.Span(id="compare-status", role="status", **{"aria-live": "polite"}),  # pyright: ignore[reportArgumentType]
            dcc.Interval(id="compare-pulse", interval=PULSE_MS, disabled=True),
            dcc.Store(id=GENERATED),
        ],
        className="bar",
    )


def start(view: RunView, selection: Selection, live: LivePanes) -> Generated:
    """Begin to generate every compared answer that the sweep lacks.

    Raises:
        ExplorerError: nothing is missing, or the scenario's file has moved.
        LiveError: too many generations are running.
    """
    name = scenario_to_compare(view, selection)
    missing = missing_cells(answers(view, cells_to_compare(view, selection), name))
    if name not in view.scenarios:
        raise ExplorerError(
            f"scenario {name!r} is not in the run's scenario file, which has moved or changed; put "
            "the file back to generate"
        )
    rows = rows_to_generate(missing, view.scenarios[name], selection)
    return Generated(
        live_id=live.start(selection.trait, rows),
        trait=selection.trait,
        scenario=name,
        texts={cell_key(cell): "" for cell in missing},
        is_running=True,
    )


def register(app: Dash, library: Library, live: LivePanes) -> None:
    """Start, follow and stop."""

    @app.callback(
        Output(GENERATED, "data"),
        Output("compare-pulse", "disabled"),
        Output("compare-stop", "disabled"),
        Output("compare-status", "children"),
        Input(GENERATE, "n_clicks"),
        Input("compare-stop", "n_clicks"),
        Input("compare-pulse", "n_intervals"),
        State(GENERATED, "data"),
        State(SELECTION, "data"),
        prevent_initial_call=True,
        running=resting("compare-pulse"),
    )
    def follow(
        _starts: int | None,
        _stops: int | None,
        _pulses: int | None,
        stored: dict[str, Any] | None,
        chosen: dict[str, Any],
    ) -> Any:
        now = Generated.from_json(stored)
        try:
            if ctx.triggered_id == GENERATE:
                selection = Selection.from_json(chosen)
                begun = start(library.view(selection.trait), selection, live)
                return begun.as_json(), False, False, "starting"
            return _followed(now, live, is_stopped=ctx.triggered_id == "compare-stop")
        except InterpSteerError as error:
            return no_update, True, True, problem(str(error))


def _followed(now: Generated, live: LivePanes, *, is_stopped: bool) -> tuple[Any, bool, bool, Any]:
    """What there is of a generation, whether clock and stop button rest, and a line on it."""
    session = live.session(now.live_id)
    if is_stopped:
        session.stop()
    found = session.snapshot()
    is_over = found.state in ("done", "stopped", "failed")
    texts = dict(zip(now.texts, found.texts or ("",) * len(now.texts), strict=True))
    later = Generated(
        live_id=now.live_id,
        trait=now.trait,
        scenario=now.scenario,
        texts=texts,
        is_running=not is_over,
    )
    says = problem(status_text(found)) if found.state == "failed" else status_text(found)
    return (no_update if later == now else later.as_json()), is_over, is_over, says
