"""A figure on disk: one self-contained page, the table it was drawn from, and a sidecar.

The page carries plotly.js and fetches nothing, so it opens without a network and years later. The
sidecar holds the command, the settings and hashes of what is drawn and of the table: two figures
with one hash show the same numbers. It does not establish that those numbers are right.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go

from interp_steer.errors import InterpSteerError
from interp_steer.files import atomic_write_bytes
from interp_steer.plots.style import SCREEN, Column


class FigureError(InterpSteerError):
    """A result that cannot be drawn, or a figure that cannot be written as asked."""


class MissingStageError(FigureError):
    """A figure whose numbers the run does not hold yet."""

    def __init__(self, what: str, *, command: str) -> None:
        """Say what is missing and which command makes it."""
        super().__init__(f"{what}; make it with `{command}`")
        self.what = what
        self.command = command


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """One figure, before anything is written."""

    name: str
    """Stem of its files."""
    table: pd.DataFrame
    """What it is drawn from, one row a drawn mark or bin."""
    build: Callable[[Column], go.Figure]
    """Lays it out for one column."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside it: what was left out, and why."""


def write_drawing(drawing: Drawing, folder: Path, sidecar: Mapping[str, Any]) -> list[Path]:
    """Write NAME.html, NAME.csv and NAME.json into `folder`, each atomically.

    Args:
        drawing: what to write; the page is laid out for a screen.
        folder: made where missing.
        sidecar: at least `command` and `config`, as JSON; `inputs` and others are kept.

    Returns:
        The page and the table.

    Raises:
        FigureError: a sidecar without `command` or `config`, or that is no JSON.
        RunError: the files cannot be written.
    """
    csv = table_bytes(drawing.table)
    said = {
        **sidecar,
        "notes": list(drawing.notes),
        "table": f"{drawing.name}.csv",
        "n_rows": len(drawing.table),
        "columns": {name: str(kind) for name, kind in drawing.table.dtypes.items()},
        "table_sha256": hashlib.sha256(csv).hexdigest(),
    }
    page = write_html(drawing.build(SCREEN), Path(folder) / f"{drawing.name}.html", said)
    atomic_write_bytes(page.with_suffix(".csv"), csv)
    return [page, page.with_suffix(".csv")]


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
    ).replace("</head>", f"{_HEAD}</head>", 1)
    atomic_write_bytes(path, page.encode("utf-8", errors="backslashreplace"))
    atomic_write_bytes(path.with_suffix(".json"), note.encode("utf-8"))
    return path


_HEAD = """<style>
body { margin: 0; background: #ffffff; }
@media (prefers-color-scheme: dark) {
  body { background: #121212; }
  .plotly-graph-div { filter: invert(0.93) hue-rotate(180deg); }
}
</style>"""
"""Dark where the reader's system is dark: lightness turned round, hues kept, one set of colours."""


def table_bytes(table: pd.DataFrame) -> bytes:
    """The table as CSV, the same bytes for the same numbers."""
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue().encode("utf-8", errors="backslashreplace")


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
        text = json.dumps(said, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FigureError(f"the sidecar of {name} is no JSON: {error}") from error
    return text + "\n"
