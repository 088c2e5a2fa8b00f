"""The operating points of a run, as figures mark them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_steer.point_files import USUAL_THREAT, read_operating_points

__all__ = ["USUAL_THREAT", "Point", "read_points"]


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
        RunError: the file is missing or damaged, or an entry names no cell.
    """
    return tuple(
        Point(
            method=entry["method"],
            scope=entry["scope"],
            threat=entry["threat"],
            layer=entry["layer"],
            alpha=float(entry["alpha"]),
            record=entry,
        )
        for entry in read_operating_points(path, remedy=remedy)["operating_points"]
    )
