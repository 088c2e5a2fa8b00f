"""The third view, live side: type a prompt, and watch it answered unsteered and steered.

Both answers are rows of one batch with the same random numbers, so that they differ by the edit
alone. Tokens appear as they are sampled, with their projections one step later; stopping keeps what
is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html, no_update

from interp_steer.config import ModelPlace
from interp_steer.errors import InterpSteerError
from interp_steer.explorer.boundary_view import choice_of
from interp_steer.explorer.library import ExplorerError, Library, RunView
from interp_steer.explorer.live import LiveRow, LiveSession, LiveSessions, LiveSnapshot
from interp_steer.explorer.parts import SCREEN as PAGE
from interp_steer.explorer.parts import SELECTION, labelled, placed, problem
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.theming import Screen
from interp_steer.explorer.token_grid import token_grid
from interp_steer.explorer.token_panes import Pane, panes_page
from interp_steer.fit_stage import load_probes
from interp_steer.plots.from_tokens import token_map_of
from interp_steer.plots.style import METHOD_TITLES
from interp_steer.plots.token_map import token_maps
from interp_steer.scenarios import Prompt, Scenario, Side
from interp_steer.study import reopen_study
from interp_steer.sweep_rows import sample_key

PULSE_MS = 250
"""Between two looks at a running generation."""
DEFAULT_TOKENS = 96
_PATIENCE = 10.0
"""Seconds that a stopped generation may take to end."""
OWN_PROMPT = "prompt"
"""Scenario name of a prompt that was typed."""


class LivePanes:
    """Live generations of all runs, and what each of them shows."""

    def __init__(self, library: Library, *, place: ModelPlace | None = None) -> None:
        self.library = library
        self.place = place
        self._sessions: dict[str, LiveSessions] = {}
        self._headings: dict[str, tuple[str, tuple[str, ...]]] = {}

    def sessions(self, trait: str) -> LiveSessions:
        """Sessions of a run; its model is loaded by the first one."""
        if trait not in self._sessions:
            run = self.library.run(trait)

            def load() -> Any:
                return reopen_study(run.path, place=self.place), load_probes(run)

            self._sessions[trait] = LiveSessions(load)
        return self._sessions[trait]

    def start(
        self, trait: str, rows: Sequence[LiveRow], *, max_new_tokens: int | None = None
    ) -> str:
        """Begin a generation, of the run's own length by default, and return its id."""
        found = self.sessions(trait).start(rows, max_new_tokens=max_new_tokens)
        self._headings[found] = (trait, tuple(row.label for row in rows))
        return found

    def session(self, live_id: str | None) -> LiveSession:
        """A generation by its id.

        Raises:
            ExplorerError: there is none (the server was started again, or it was long ago).
        """
        if live_id is None or live_id not in self._headings:
            raise ExplorerError(
                "this generation is not kept any more; press Generate to start another"
            )
        trait, _ = self._headings[live_id]
        return self.sessions(trait).get(live_id)

    def close(self) -> None:
        """Stop every generation and wait a little for the step that is being made."""
        for sessions in tuple(self._sessions.values()):
            sessions.close(timeout=_PATIENCE)

    def panes(self, live_id: str | None, found: LiveSnapshot | None = None) -> list[Pane]:
        """What a generation shows now."""
        now = self.session(live_id).snapshot() if found is None else found
        _, headings = self._headings[str(live_id)]
        if not now.tables:
            return [Pane(heading=heading) for heading in headings]
        return [
            Pane(heading=heading, table=table, text=text)
            for heading, table, text in zip(headings, now.tables, now.texts, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the form asks."""

    prompt: Prompt
    """The scenario's own, or what was typed."""
    scenario: str
    """Id of the scenario, or `OWN_PROMPT`."""
    side: str
    """Whose system prompt it is; neutral for a prompt that was typed."""


def asked(view: RunView, *, name: str | None, side: str, system: str, user: str) -> Asked:
    """The scenario's prompt where the form still holds it, else the typed one.

    Args:
        view: the run.
        name: scenario that the form was filled from.
        side: side that it was filled from.
        system: system prompt in the form.
        user: what the user says; for a base model the whole prompt.

    Raises:
        ExplorerError: an empty prompt.
    """
    if not user.strip():
        raise ExplorerError("type what the user says first, or pick a scenario")
    known = view.scenarios.get(name or "")
    if known is not None and prompts_of(known, side) == (system, user):
        return Asked(prompt=known.prompt(_side(side)), scenario=known.id, side=side)
    is_raw = any(scenario.is_raw for scenario in view.scenarios.values())
    prompt = Prompt(text=user) if is_raw else Prompt.chat(user, system or None)
    return Asked(prompt=prompt, scenario=OWN_PROMPT, side="neutral")


def live_rows(selection: Selection, asked: Asked) -> list[LiveRow]:
    """The unsteered and the steered row of a prompt.

    Raises:
        SteeringError: a selection that cannot be applied.
    """
    spec = choice_of(selection).spec()
    edit = (
        f"{METHOD_TITLES[selection.method]}, layer {selection.layer}, α = {selection.alpha:.4g}, "
        f"scope {selection.scope}"
    )
    shared: dict[str, Any] = {
        "prompt": asked.prompt,
        "read_layer": selection.layer,
        "scenario": asked.scenario,
        "side": asked.side,
        "sample_key": sample_key(asked.scenario, 0),
    }
    return [
        LiveRow(label="unsteered", spec=None, **shared),
        LiveRow(label=f"steered: {edit}", spec=spec, **shared),
    ]


def live_layout() -> list[Any]:
    """The form and its clock."""
    form = html.Div(
        [
            html.Div(
                [
                    labelled(
                        "Scenario",
                        dcc.Dropdown(id="live-scenario", placeholder="a prompt of your own"),
                        of="live-scenario",
                    ),
                    labelled(
                        "System prompt of",
                        dcc.RadioItems(
                            id="live-side",
                            options=["malicious", "aligned", "neutral"],
                            value="malicious",
                            inline=True,
                        ),
                        of="live-side",
                    ),
                    labelled(
                        "New tokens, at most",
                        dcc.Input(
                            id="live-tokens", type="number", min=1, value=DEFAULT_TOKENS, step=1
                        ),
                        of="live-tokens",
                    ),
                ],
                className="bar wide",
            ),
            html.Div(
                [
                    labelled(
                        "System prompt", dcc.Textarea(id="live-system", rows=3), of="live-system"
                    ),
                    labelled("User", dcc.Textarea(id="live-user", rows=3), of="live-user"),
                ],
                className="prompts",
            ),
            html.Div(
                [
                    html.Button("Generate", id="live-start", type="button", className="primary"),
                    html.Button("Stop", id="live-stop", type="button", disabled=True),
                    html.Button("Map all layers", id="live-map", type="button", disabled=True),
                    html.Span(id="live-status", role="status", **{"aria-live": "polite"}),  # pyright: ignore[reportArgumentType]
                ],
                className="bar",
            ),
        ],
        id="live-form",
        hidden=True,
    )
    clock = dcc.Interval(id="live-pulse", interval=PULSE_MS, disabled=True)
    return [form, clock, dcc.Store(id="live-id"), dcc.Store(id="live-seen")]


def resting(clock: str) -> list[Any]:
    """A callback's `running` that stops its clock until it has answered.

    Dash drops an answer as soon as the same callback is asked again, so one that takes longer than
    `PULSE_MS` (busy cores) would never be shown. What the callback says of its clock comes later.
    """
    return [(Output(clock, "disabled"), True, False)]


def status_text(found: LiveSnapshot) -> str:
    """One line on a generation."""
    counts = " and ".join(str(n) for n in found.n_tokens) or "0"
    words = {
        "waiting": "waiting for the model (loading it, or another generation is running)",
        "running": f"generating: {counts} tokens, {found.seconds:.1f} s",
        "done": f"done: {counts} tokens in {found.seconds:.1f} s",
        "stopped": f"stopped at {counts} tokens after {found.seconds:.1f} s",
        "failed": f"failed: {found.error}",
    }
    return words[found.state]


def prompts_of(scenario: Scenario, side: str) -> tuple[str, str]:
    """System prompt and last user turn of a scenario's side; a raw prompt whole, as the user's."""
    if scenario.is_raw and side == "neutral":
        return "", ""
    prompt = scenario.prompt(_side(side))
    if prompt.text is not None:
        return "", prompt.text
    said = {message.role: message.content for message in prompt.messages}
    return said.get("system", ""), said.get("user", "")


def _side(side: str) -> Side:
    for known in ("aligned", "malicious", "neutral"):
        if side == known:
            return known
    raise ExplorerError(f"expected aligned, malicious or neutral, got {side!r}")


def register(app: Dash, library: Library, live: LivePanes) -> None:
    """Fill the form, start, follow, stop and map generations."""

    @app.callback(
        Output("live-form", "hidden"),
        Output("live-scenario", "options"),
        Input(SELECTION, "data"),
        prevent_initial_call=True,
    )
    def offer(stored: dict[str, Any]) -> Any:
        selection = Selection.from_json(stored)
        if selection.view != "tokens" or selection.mode != "live":
            return True, no_update
        scenarios = library.view(selection.trait).scenarios.values()
        tests = sorted(scenarios, key=lambda s: (s.split != "test", s.id))
        return False, [{"label": f"{s.id} ({s.split})", "value": s.id} for s in tests]

    @app.callback(
        Output("live-system", "value"),
        Output("live-user", "value"),
        Input("live-scenario", "value"),
        Input("live-side", "value"),
        State(SELECTION, "data"),
        prevent_initial_call=True,
    )
    def fill(name: str | None, side: str, stored: dict[str, Any]) -> Any:
        selection = Selection.from_json(stored)
        scenario = library.view(selection.trait).scenarios.get(name or "")
        if scenario is None:
            return no_update, no_update
        return prompts_of(scenario, side)

    @app.callback(
        Output("live-id", "data"),
        Output("live-pulse", "disabled", allow_duplicate=True),
        Output("live-status", "children", allow_duplicate=True),
        Output("live-seen", "data", allow_duplicate=True),
        Input("live-start", "n_clicks"),
        State(SELECTION, "data"),
        State("live-scenario", "value"),
        State("live-side", "value"),
        State("live-system", "value"),
        State("live-user", "value"),
        State("live-tokens", "value"),
        prevent_initial_call=True,
    )
    def start(
        clicks: int | None,
        stored: dict[str, Any],
        name: str | None,
        side: str,
        system: str | None,
        user: str | None,
        n_tokens: int | None,
    ) -> Any:
        if not clicks:
            return (no_update,) * 4
        selection = Selection.from_json(stored)
        view = library.view(selection.trait)
        try:
            wanted = asked(view, name=name, side=side, system=system or "", user=user or "")
            rows = live_rows(selection, wanted)
            found = live.start(
                selection.trait, rows, max_new_tokens=int(n_tokens or DEFAULT_TOKENS)
            )
        except InterpSteerError as error:
            return no_update, no_update, problem(str(error)), no_update
        return found, False, "starting", None

    @app.callback(
        Output("token-panes", "children", allow_duplicate=True),
        Output("grid-place", "children", allow_duplicate=True),
        Output("live-status", "children"),
        Output("live-pulse", "disabled"),
        Output("live-stop", "disabled"),
        Output("live-map", "disabled"),
        Output("live-seen", "data"),
        Input("live-pulse", "n_intervals"),
        Input("live-stop", "n_clicks"),
        State("live-id", "data"),
        State("live-seen", "data"),
        State(SELECTION, "data"),
        prevent_initial_call=True,
        running=resting("live-pulse"),
    )
    def follow(
        _pulses: int | None,
        _stops: int | None,
        live_id: str | None,
        seen: list[Any] | None,
        stored: dict[str, Any],
    ) -> Any:
        selection = Selection.from_json(stored)
        if live_id is None or selection.view != "tokens" or selection.mode != "live":
            return (no_update,) * 7
        try:
            session = live.session(live_id)
            if ctx.triggered_id == "live-stop":
                session.stop()
            found = session.snapshot()
            panes = live.panes(live_id, found)
        except InterpSteerError as error:
            return (no_update, no_update, problem(str(error)), True, True, True, no_update)
        is_over = found.state in ("done", "stopped", "failed")
        now = [found.state, *found.n_tokens]
        says = problem(status_text(found)) if found.state == "failed" else status_text(found)
        if now == seen and not is_over:
            return (no_update, no_update, says, False, False, True, no_update)
        rows = token_grid(panes) if is_over else no_update
        can_map = is_over and any(found.n_tokens)
        return panes_page(panes), rows, says, is_over, is_over, not can_map, now

    @app.callback(
        Output("token-map-place", "children", allow_duplicate=True),
        Output("map-message", "children", allow_duplicate=True),
        Input("live-map", "n_clicks"),
        State("live-id", "data"),
        State(SELECTION, "data"),
        State(PAGE, "data"),
        prevent_initial_call=True,
    )
    def draw_map(
        clicks: int | None, live_id: str | None, stored: dict[str, Any], page: dict[str, Any]
    ) -> Any:
        if not clicks:
            return no_update, no_update
        selection, screen = Selection.from_json(stored), Screen.from_json(page)
        try:
            frames = live.session(live_id).layer_projections()
        except InterpSteerError as error:
            return no_update, problem(str(error))
        view: RunView = library.view(selection.trait)
        maps = tuple(token_map_of(view.source, frame, label) for label, frame in frames)
        title = f"{view.source.heading}: on which side is each token, layer by layer?"
        figure = token_maps(maps, title=title, column=screen.column())
        return placed("token-map", figure, screen), ""
