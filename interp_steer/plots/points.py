"""The operating points of a run, as figures mark them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_steer.files import read_json

USUAL_THREAT = "malicious_prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The operating point of one method, scope and threat."""

    method: str
    """swfc, sttp or stmp."""
    scope: str
    """Scope of the edit."""
    threat: str
    """malicious_prompt or prefill:K."""
    layer: int
    """Chosen layer, zero-based."""
    alpha: float
    """Chosen coefficient."""
    record: dict[str, Any]
    """Its whole entry in operating_points.json."""


def read_points(path: Path, *, remedy: str) -> tuple[Point, ...]:
    """The operating points, in the file's order.

    Raises:
        RunError: the file is missing or damaged.
    """
    return tuple(
        Point(
            method=str(entry["method"]),
            scope=str(entry["scope"]),
            threat=str(entry.get("threat", USUAL_THREAT)),
            layer=int(entry["layer"]),
            alpha=float(entry["alpha"]),
            record=entry,
        )
        for entry in read_json(path, remedy=remedy)["operating_points"]
    )
