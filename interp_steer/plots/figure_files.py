"""A figure on disk: one self-contained page, and a sidecar that says where it comes from.

The page carries plotly.js and fetches nothing, so it opens without a network and years later. The
sidecar holds the command, the settings and a hash of what is drawn: two figures with one hash show
the same numbers. It does not establish that those numbers are right.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import plotly.graph_objects as go

from interp_steer.errors import InterpSteerError
from interp_steer.runs import atomic_write_bytes


class FigureError(InterpSteerError):
    """A result that cannot be drawn, or a figure that cannot be written as asked."""


def write_html(figure: go.Figure, path: Path, sidecar: Mapping[str, Any]) -> Path:
    """Write `figure` as one self-contained page, and its JSON sidecar, each atomically.

    The sidecar has the same stem and suffix .json: what the caller says, the page's name, and
    `data_sha256`, the hash of the traces that are drawn.

    Args:
        figure: what to write.
        path: target, with suffix .html; its folder is made.
        sidecar: at least `command` (what made it) and `config` (with which settings), as JSON.

    Returns:
        The path of the page.

    Raises:
        FigureError: another suffix, a sidecar without `command` or `config` or that is no JSON.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise FigureError(f"the page needs the suffix .html, got {path.name!r}")
    note = _sidecar_text(figure, path.name, sidecar)
    page = figure.to_html(
        include_plotlyjs=True,
        full_html=True,
        div_id=path.stem,
        config={"displaylogo": False},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, page.encode("utf-8"))
    atomic_write_bytes(path.with_suffix(".json"), note.encode("utf-8"))
    return path


def data_sha256(figure: go.Figure) -> str:
    """Hash of what the figure draws: its traces with their coordinates, not the layout."""
    drawn = json.loads(cast(str, figure.to_json()))["data"]
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode("utf-8")).hexdigest()


def _sidecar_text(figure: go.Figure, name: str, sidecar: Mapping[str, Any]) -> str:
    missing = [key for key in ("command", "config") if key not in sidecar]
    if missing:
        raise FigureError(f"the sidecar of {name} lacks {missing}; say what made the figure")
    said = {**sidecar, "figure": name, "data_sha256": data_sha256(figure)}
    try:
        text = json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FigureError(f"the sidecar of {name} is no JSON: {error}") from error
    return text + "\n"
