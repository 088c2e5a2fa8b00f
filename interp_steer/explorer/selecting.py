"""From whatever a user did to the next selection.

Address, controls, clicks and drags all change one `Selection`, here and nowhere else, so that no
two parts of the page can disagree. Pure functions: Dash only brings the event and takes the result.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp_steer.errors import InterpSteerError
from interp_steer.explorer.answers import cells_to_compare, selected_cell
from interp_steer.explorer.boundary_view import choice_of
from interp_steer.explorer.layers_view import clicked_layer
from interp_steer.explorer.library import Library, RunView
from interp_steer.explorer.selection import (
    MOST_COMPARED,
    ParsedQuery,
    Selection,
    parse_query,
)
from interp_steer.explorer.stored import cell_key
from interp_steer.plots.figure_files import MissingStageError

PLAIN = ("trait", "method", "scope", "mode", "sample")
"""Controls whose value is a text of the selection, taken as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a user did."""

    source: str
    """Id of the component; for buttons of a kind, the kind."""
    value: Any
    """Its new value."""


def next_selection(library: Library, now: Selection, event: Event) -> ParsedQuery:
    """The selection after an event; what could not be taken is said in the notes."""
    if event.source in ("url", "variants"):
        return _from_address(library, str(event.value or ""))
    view = library.view(now.trait)
    try:
        return ParsedQuery(selection=_changed(library, view, now, event), notes=())
    except (InterpSteerError, ValueError) as error:
        return ParsedQuery(selection=now, notes=(str(error),))


def _from_address(library: Library, query: str) -> ParsedQuery:
    first = parse_query(query, library.choices(""))
    if first.selection.trait == library.traits[0]:
        return first
    return parse_query(query, library.choices(first.selection.trait))


def _changed(library: Library, view: RunView, now: Selection, event: Event) -> Selection:
    name, value = event.source, event.value
    if name == "trait":
        return library.choices(str(value)).default.changed(view=now.view, mode=now.mode)
    if name == "method":
        return _with_method(view, now, str(value))
    if name == "sample":
        return _with_sample(view, now, value)
    if name in PLAIN:
        return now.changed(**{name: str(value)})
    if name.startswith("view-"):
        return now.changed(view=name.removeprefix("view-"))
    if name == "layer":
        return now.changed(layer=int(value))
    if name in ("alpha", "threshold", "target"):
        return _with_number(view, now, name, value)
    if name == "reset-threshold":
        return now.changed(threshold=None)
    if name == "relayout":
        for moved, place in dragged(value).items():
            now = _with_number(view, now, moved, place)
        return now
    if name == "click":
        return _with_click(view, now, value)
    if name == "jump":
        return now.changed(mode="stored", sample=str(value["sample"]), pos=int(value["pos"]))
    if name == "compare-scenario":
        return now.changed(scenario=str(value or ""))
    if name == "compared":
        return now.changed(compared=tuple(value or ())[:MOST_COMPARED])
    if name == "add-selected":
        return now.changed(compared=_with_selected(view, now))
    raise ValueError(f"no control is called {name!r}")


def _with_sample(view: RunView, now: Selection, value: Any) -> Selection:
    """Another stored response; a list that was only filled says its value again, or none."""
    shown = view.stored.find(now.sample, now.edit)
    if not value or (shown is not None and shown.key == value):
        return now
    return now.changed(sample=str(value), pos=None)


def _with_method(view: RunView, now: Selection, method: str) -> Selection:
    """Another method at its operating point's coefficient, else in the middle of its grid."""
    if method == now.method:
        return now
    point = view.source.shown_points(now.scope).get(method)
    if point is not None and point.layer == now.layer:
        return now.changed(method=method, alpha=point.alpha)
    alphas = view.alphas(method, now.scope)
    if point is not None and point.alpha in alphas:
        return now.changed(method=method, alpha=point.alpha)
    return now.changed(method=method, alpha=alphas[(len(alphas) - 1) // 2])


def _with_number(view: RunView, now: Selection, name: str, value: Any) -> Selection:
    """A typed or dragged number; an emptied threshold is m again, other emptied fields stay."""
    if value is None or value == "":
        return now.changed(threshold=None) if name == "threshold" else now
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {value}")
    if name == "threshold":
        return now if now.method == "swfc" else now.changed(threshold=number)
    if name == "alpha":
        return now.changed(alpha=number)
    if now.method != "sttp":
        return now
    choice = choice_of(now).with_target(number, view.source.probe_layer(now.layer))
    return now.changed(alpha=float(f"{choice.alpha:.6g}"))


def _with_click(view: RunView, now: Selection, value: Any) -> Selection:
    points = (value or {}).get("points") or [{}]
    found = clicked_layer(points[0])
    if found.get("layer") not in view.layers:
        return now
    return now.changed(**found)


def _with_selected(view: RunView, now: Selection) -> tuple[str, ...]:
    """The compared configurations and the selected one; the last gives way where there are four."""
    keys = [cell_key(cell) for cell in cells_to_compare(view, now)]
    mine = cell_key(selected_cell(now))
    return (*[key for key in keys if key != mine][: MOST_COMPARED - 1], mine)


def shown_controls(view: RunView, selection: Selection) -> Mapping[str, Any]:
    """What every control shows for a selection; None where it is empty."""
    shown: dict[str, Any] = {
        name: getattr(selection, name)
        for name in ("trait", "method", "layer", "alpha", "scope", "mode")
    }
    shown |= {"threshold": None, "target": None, "variants": None}
    try:
        steering = choice_of(selection).at(view.source.probe_layer(selection.layer))
        shown["threshold"] = _rounded(steering.threshold)
        shown["target"] = _rounded(steering.target)
    except InterpSteerError:
        shown["threshold"] = _rounded(selection.threshold)
    one = view.stored.find(selection.sample, selection.edit) if selection.view == "tokens" else None
    shown["sample"] = selection.sample if one is None else one.key
    shown["compared"], shown["compare-scenario"] = _shown_comparison(view, selection)
    return shown


def _shown_comparison(view: RunView, selection: Selection) -> tuple[list[str], str | None]:
    if selection.view != "compare":
        return list(selection.compared), selection.scenario or None
    try:
        keys = [cell_key(cell) for cell in cells_to_compare(view, selection)]
        scenarios = view.stored.swept_scenarios
    except MissingStageError:
        return [], None
    is_known = selection.scenario in scenarios
    return keys, selection.scenario if is_known else scenarios[0]


def _rounded(value: float | None) -> float | str:
    """The number as a field shows it; an empty text for none (a number field refuses null)."""
    return "" if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def dragged(relayout: dict[str, Any] | None) -> dict[str, float]:
    """New threshold or target out of plotly's relayout event; empty for zooms and others."""
    found: dict[str, float] = {}
    for place, name in enumerate(("threshold", "target")):
        ends = [(relayout or {}).get(f"shapes[{place}].x{end}") for end in (0, 1)]
        known = [float(x) for x in ends if isinstance(x, int | float)]
        if known:
            found[name] = sum(known) / len(known)
    return found
