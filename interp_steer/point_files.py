"""operating_points.json as a stage finds it: what every entry must have is checked here, once.

What the file says of intervals and halves is for reports; stages take method, scope, threat, layer
and coefficient, and steer by them.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

from interp_steer.cells import steered_cell
from interp_steer.errors import InterpSteerError, RunError
from interp_steer.files import read_json
from interp_steer.scopes import Scope

USUAL_THREAT = "malicious_prompt"
"""Threat of entries that name none: those of the first versions."""
_LAST_LAYER = 9999
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "method": str,
    "scope": str,
    "threat": str,
    "layer": int,
    "alpha": (int, float),
}


def read_operating_points(path: str | os.PathLike[str], *, remedy: str) -> dict[str, Any]:
    """Return what the file says; each of its `operating_points` names a cell that can be steered.

    Args:
        path: the file.
        remedy: what a refusal tells the reader to do.

    Raises:
        RunError: it is missing, damaged, or has an entry that names no cell.
    """
    record = read_json(path, remedy=remedy)
    entries = record.get("operating_points") if isinstance(record, dict) else None
    if not isinstance(entries, list):
        raise RunError(f"{path} has no list of operating points; {remedy}")
    share = record.get("coherence_share")
    if share is not None and not _is_number(share):
        raise RunError(
            f"{path} has the coherence_share {share!r:.60}, which is no number; {remedy}"
        )
    for place, entry in enumerate(entries, start=1):
        if wrong := _wrong(entry):
            raise RunError(f"{path}, operating point {place}: {wrong}; {remedy}")
    return record | {"operating_points": [{"threat": USUAL_THREAT} | entry for entry in entries]}


def _wrong(entry: Any) -> str | None:
    """What is wrong with an entry; None where nothing is."""
    if not isinstance(entry, dict):
        return f"expected an object, got {entry!r:.60}"
    whole: dict[str, Any] = {"threat": USUAL_THREAT} | entry
    for name, kind in _TYPES.items():
        if name not in whole:
            return f"it has no {name}"
        if not isinstance(whole[name], kind) or isinstance(whole[name], bool):
            return f"{name} is {whole[name]!r:.60}"
    if not 0 <= whole["layer"] <= _LAST_LAYER or not _is_number(whole["alpha"]):
        return f"layer {whole['layer']!r:.60} and alpha {whole['alpha']!r:.60}"
    try:
        Scope.parse(whole["scope"])
        steered_cell(**{name: whole[name] for name in _TYPES})
    except (InterpSteerError, ValueError) as error:  # a number of thousands of digits
        return str(error)[:300]
    return None


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False
