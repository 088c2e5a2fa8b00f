"""The steering effect of each layer, in one number: what the causal scan's order is held against.

Per layer, scope and method: the largest recovered share among the coefficients that keep coherence,
as an operating point is chosen, on the scenarios that the screen answered. The largest of several
noisy numbers flatters every layer alike; orders of layers suffer less from that than values do.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp_steer.analysis.bootstrap import named_groups
from interp_steer.analysis.run_rows import (
    Baselines,
    by_cell,
    is_cell,
    on_most_scenarios,
    steered_rows,
    sweep_frame,
)
from interp_steer.cells import ALIGNED
from interp_steer.runs import Run

BEST = "best"
"""Method name of the row that takes the best of all methods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecovery:
    """How far steering at one layer gets, in one scope."""

    layer: int
    """Zero-based."""
    scope: str
    """Scope of the edit."""
    method: str
    """swfc, sttp, stmp, or `BEST`."""
    alpha: float
    """Coefficient that got there."""
    recovered: float
    """Share of the trait gap; NaN without a gap."""
    coherence: float
    """Mean coherence there, 0-100."""
    keeps_coherence: bool
    """False where no coefficient kept enough: then this is the most coherent one."""

    def as_row(self) -> dict[str, Any]:
        """As table columns."""
        return asdict(self)


def layer_recoveries(run: Run) -> list[LayerRecovery]:
    """Every layer, scope and method under the malicious prompt; empty without a sweep."""
    if run.read_shards() is None or "sweep" not in run.manifest:
        return []
    frame = sweep_frame(run)
    rows = on_most_scenarios(steered_rows(frame))
    if rows.empty:
        return []
    share = run.manifest["sweep"]["config"].get("coherence_share", 0.9)
    is_top = is_cell(frame, ALIGNED) & frame["scenario"].isin(rows["scenario"])
    top = frame.loc[is_top, "coherence"].to_numpy(np.float64)
    floor = share * _known_mean(top)
    scored = pd.DataFrame(list(_scores(frame, rows)))
    both = pd.concat([scored, scored.assign(method=BEST)])
    return [
        _best(key, cells, floor) for key, cells in named_groups(both, ["scope", "method", "layer"])
    ]


def _scores(frame: pd.DataFrame, rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    baselines = Baselines(frame)
    for cell, _, group in by_cell(rows):
        yield {
            "scope": cell.scope,
            "method": cell.method,
            "layer": cell.layer,
            "alpha": cell.alpha,
            "recovered": baselines.recovered(cell, group)["recovered"],
            "coherence": _known_mean(group["coherence"].to_numpy(np.float64)),
        }


def _known_mean(scores: Float[np.ndarray, "row"]) -> float:
    """Mean over the rows that the judge could score; NaN where there are none."""
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if known.size else math.nan


def _best(key: dict[str, Any], cells: pd.DataFrame, floor: float) -> LayerRecovery:
    records = cells.to_dict("records")
    keeping = [cell for cell in records if cell["coherence"] >= floor]
    by = "recovered" if keeping else "coherence"
    # A share that is not a number (no gap) comes last.
    chosen = max(keeping or records, key=lambda c: (math.isfinite(c[by]), c[by]))
    return LayerRecovery(
        layer=int(key["layer"]),
        scope=str(key["scope"]),
        method=str(key["method"]),
        keeps_coherence=bool(keeping),
        **{name: float(chosen[name]) for name in ("alpha", "recovered", "coherence")},
    )
