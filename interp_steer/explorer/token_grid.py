"""The table under the token panes: sorted, filtered and scrolled by AG Grid.

Cells are text and numbers; no cell of AG Grid is given markup to draw.
"""

from collections.abc import Sequence
from typing import Any

import dash_ag_grid as dag
import pandas as pd

from interp_steer.explorer.token_panes import TOKEN_COLUMNS, Pane, known_value, pane_frame
from interp_steer.trace_blocks import make_visible

GRID = "token-grid"
_TEXTS = ("pane", "token", "segment")
_FLAGS = ("in_scope", "fired", "capped")
_HEADINGS = {
    "projection_before": "ρ before (a.u.)",
    "projection_after": "ρ after (a.u.)",
    "delta_norm": "|Δh| (a.u.)",
    "relative_norm": "|Δh| / |h|",
    "logprob": "log p (nats)",
}


def token_grid(panes: Sequence[Pane]) -> dag.AgGrid:
    """The trace rows of all panes."""
    return dag.AgGrid(
        id=GRID,
        columnDefs=[_column(name) for name in ("pane", *TOKEN_COLUMNS)],
        rowData=grid_rows(pane_frame(panes)),
        columnSize="autoSize",
        defaultColDef={"sortable": True, "filter": True, "resizable": True, "minWidth": 90},
        dashGridOptions={"animateRows": False, "enableCellTextSelection": True},
        className="ag-theme-quartz grid",
        style={"height": "22rem"},
    )


def _column(name: str) -> dict[str, Any]:
    column: dict[str, Any] = {
        "field": name,
        "headerName": _HEADINGS.get(name, name.replace("_", " ")),
    }
    if name in _TEXTS:
        column["filter"] = "agTextColumnFilter"
    elif name not in _FLAGS:
        column |= {"filter": "agNumberColumnFilter", "type": "numericColumn"}
    if name in _HEADINGS:
        column["valueFormatter"] = {"function": "d3.format('.4~g')(params.value)"}
    return column


def grid_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as the grid takes them: visible text, plain numbers."""
    rows = []
    for row in frame.to_dict("records"):
        shown = {name: known_value(name, row[name]) for name in ("pane", *TOKEN_COLUMNS)}
        for name in _TEXTS:
            shown[name] = make_visible(str(shown[name]))
        rows.append({name: None if value != value else value for name, value in shown.items()})
    return rows
