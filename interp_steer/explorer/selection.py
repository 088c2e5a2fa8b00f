"""What the explorer shows, as one value that lives in the URL.

All four views look at one selection. It is read from the query of the URL and written back to it,
so that reloading a page, or sending its address to a colleague, shows the same thing. A query is
typed by people and mangled by mail programs: what does not fit the run is replaced, and said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qs, urlencode

VIEWS = ("layers", "boundary", "tokens", "compare")
MOST_COMPARED = 4
"""Configurations side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """One trait, method, layer, coefficient and scope, and what each view adds to them."""

    view: str = "layers"
    """layers, boundary, tokens or compare."""
    trait: str = ""
    """Which of the runs."""
    method: str = "sttp"
    """swfc, sttp or stmp."""
    layer: int = 0
    """Zero-based."""
    alpha: float = 0.0
    """Coefficient of the method."""
    scope: str = "all"
    """all, response, prompt or first:K."""
    threshold: float | None = None
    """Moved gate in activation units; None for the probe's boundary m."""
    mode: str = "stored"
    """What the tokens view shows: stored responses or live generations."""
    sample: str = ""
    """Stored response of the tokens view; empty for the first."""
    pos: int | None = None
    """Token of that response that is pointed at."""
    scenario: str = ""
    """Scenario of the compare view; empty for the first."""
    compared: tuple[str, ...] = ()
    """Configurations of the compare view, as `config_key` writes them."""

    def to_query(self) -> str:
        """The selection as the query of a URL, with its question mark; defaults left out."""
        pairs: list[tuple[str, str]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "compared":
                pairs += [("compared", one) for one in value]
            elif value not in (None, ""):
                pairs.append((field.name, f"{value:g}" if _is_float(value) else str(value)))
        return f"?{urlencode(pairs)}"

    @property
    def edit(self) -> tuple[str, int, str]:
        """Method, layer and scope."""
        return self.method, self.layer, self.scope

    def as_json(self) -> dict[str, Any]:
        """The selection as a browser keeps it."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Selection":
        """What `as_json` wrote."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in stored.items() if name in known}
        values["compared"] = tuple(values.get("compared", ()))
        return cls(**values)

    def changed(self, **values: Any) -> "Selection":
        """The selection with other values; another layer or method drops a moved threshold."""
        moved = any(
            name in values and values[name] != getattr(self, name)
            for name in ("trait", "layer", "method")
        )
        if moved and "threshold" not in values:
            values["threshold"] = None
        return replace(self, **values)


def _is_float(value: object) -> bool:
    return isinstance(value, float)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a run offers to select."""

    traits: Sequence[str]
    """Runs by trait."""
    layers: Sequence[int]
    """Layers with a probe."""
    default: Selection
    """What is shown when nothing is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedQuery:
    """A selection and what had to be replaced."""

    selection: Selection
    """It fits the run."""
    notes: tuple[str, ...]
    """One line for each value that did not (holds text of the URL: untrusted)."""


def parse_query(query: str, choices: Choices) -> ParsedQuery:
    """Read the query of a URL; values that do not fit are the default's, with a note.

    Args:
        query: with or without its question mark; untrusted.
        choices: of the run that the query's trait names.
    """
    given = parse_qs(query.removeprefix("?"), keep_blank_values=False, max_num_fields=64)
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name, read in _READERS.items():
        if name not in given:
            continue
        try:
            found[name] = read(given[name], choices)
        except ValueError as error:
            shown = getattr(choices.default, name)
            notes.append(f"{name}={given[name][0][:60]} in the address: {error}; showing {shown}")
    selection = replace(choices.default, **found)
    if found.keys() & {"layer", "method"} and "threshold" not in found:
        selection = replace(selection, threshold=None)
    return ParsedQuery(selection=selection, notes=tuple(notes))


def _one_of(options: Sequence[str]) -> Any:
    def read(values: list[str], _choices: Choices) -> str:
        if values[0] not in options:
            raise ValueError(f"expected one of {', '.join(options)}")
        return values[0]

    return read


def _trait(values: list[str], choices: Choices) -> str:
    if values[0] not in choices.traits:
        raise ValueError(f"expected one of {', '.join(choices.traits)}")
    return values[0]


def _layer(values: list[str], choices: Choices) -> int:
    if not values[0].isdecimal() or int(values[0]) not in choices.layers:
        raise ValueError(
            f"expected a layer with a probe, {min(choices.layers)} to {max(choices.layers)}"
            if choices.layers
            else "the run has no probes"
        )
    return int(values[0])


def _place(values: list[str], _choices: Choices) -> int:
    if not values[0].isdecimal():
        raise ValueError("expected a position from 0")
    return int(values[0])


def _number(values: list[str], _choices: Choices) -> float:
    try:
        value = float(values[0])
    except ValueError as error:
        raise ValueError("expected a number") from error
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _scope(values: list[str], _choices: Choices) -> str:
    from interp_steer.errors import SteeringError
    from interp_steer.scopes import Scope

    try:
        return str(Scope.parse(values[0]))
    except SteeringError as error:
        raise ValueError("expected all, response, prompt or first:K") from error


def _text(values: list[str], _choices: Choices) -> str:
    return values[0][:500]


def _several(values: list[str], _choices: Choices) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value[:200] for value in values))[:MOST_COMPARED]


_READERS: Mapping[str, Any] = {
    "view": _one_of(VIEWS),
    "trait": _trait,
    "method": _one_of(("swfc", "sttp", "stmp")),
    "layer": _layer,
    "alpha": _number,
    "scope": _scope,
    "threshold": _number,
    "mode": _one_of(("stored", "live")),
    "sample": _text,
    "pos": _place,
    "scenario": _text,
    "compared": _several,
}
"""How each value of a query is read."""
