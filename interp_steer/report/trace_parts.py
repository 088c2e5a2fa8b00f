"""Stored traces, one object a steered sequence and layer, as columns.

Token strings are spelled out here (`make_visible`), so that the page never sees a control or a
direction override; it must still treat them as text, never as markup.
"""

from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import named_groups
from interp_steer.analysis.frames import numbers, rows_where
from interp_steer.analysis.run_rows import is_cell
from interp_steer.cells import Cell
from interp_steer.errors import InterpSteerError
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.sources import USUAL_THREAT, RunSource
from interp_steer.report.parts import float32, plain
from interp_steer.trace_blocks import make_visible

MOST_ROWS = 40_000
"""Trace rows that are embedded; whole sequences beyond are left out, and the page says how many."""
SEQUENCE = ("sample", "scenario", "side", "turn", "layer", "method", "direction", "scope", "alpha")
LIMITS = ("boundary", "threshold", "target", "cap")
"""With `SEQUENCE`: the columns of a trace that are the same in all rows of one sequence."""
NUMBERS = ("projection_before", "projection_after", "delta_norm", "relative_norm", "logprob")
FLAGS = ("in_scope", "fired", "capped")


def traces_part(source: RunSource) -> dict[str, Any]:
    """Every stored trace, up to `MOST_ROWS` rows.

    Raises:
        MissingStageError: the run has none.
        FigureError: the stored traces have no row.
    """
    frame = source.traces
    if frame.empty:
        raise FigureError(
            f"the stored traces have no row; record one with `{source.command('trace')}`"
        )
    kept: list[dict[str, Any]] = []
    n_rows, n_left_out = 0, 0
    for key, rows in named_groups(frame, [*SEQUENCE, *LIMITS]):
        if kept and n_rows + len(rows) > MOST_ROWS:
            n_left_out += 1
            continue
        n_rows += len(rows)
        kept.append(_trace(source, key, rows.sort_values("pos")))
    return {"traces": kept, "n_left_out": n_left_out, "folder": str(source.run.traces_folder)}


def _trace(source: RunSource, key: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    texts = ("sample", "scenario", "side", "method", "direction", "scope")
    fixed = {name: make_visible(str(v)) if name in texts else v for name, v in key.items()}
    distances = np.abs(numbers(rows, "projection_before") - float(key["boundary"]))
    known = distances[np.isfinite(distances)]
    tokens = [str(token) for token in rows["token"]]
    return plain(
        {
            **fixed,
            # |rho - m| of the full tint, as in trace_blocks.
            "scale": float(np.quantile(known, 0.95)) or 1.0 if known.size else 1.0,
            "scores": _scores(source, key),
            "pos": rows["pos"].tolist(),
            "token_id": rows["token_id"].tolist(),
            "token": [make_visible(token) for token in tokens],
            "ends_line": [place for place, token in enumerate(tokens) if "\n" in token],
            "segment": [make_visible(str(name)) for name in rows["segment"]],
            **{name: rows[name].astype(int).tolist() for name in FLAGS},
            **{name: float32(numbers(rows, name)) for name in NUMBERS},
        }
    )


def _scores(source: RunSource, key: dict[str, Any]) -> dict[str, float] | None:
    """Trait and coherence of the same cell and scenario in the sweep, where it has them."""
    if key["side"] != "malicious":
        return None
    try:
        sweep = source.sweep
    except InterpSteerError:  # no sweep, or one that the layer view says is damaged
        return None
    cell = Cell(
        side="malicious",
        threat=USUAL_THREAT,
        direction=key["direction"],
        method=key["method"],
        layer=int(key["layer"]),
        alpha=float(key["alpha"]),
        scope=key["scope"],
    )
    found = rows_where(sweep, is_cell(sweep, cell) & (sweep["scenario"] == key["scenario"]))
    if len(found) != 1:
        return None
    return {name: float(numbers(found, name)[0]) for name in ("trait", "coherence")}
