"""Which stored tokens a scope covers, told from their rows as a hook tells it from their places.

Rows of `projections.parquet` have a position and a segment, not the response index that a hook is
told; the report and the explorer need the same answer from them.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool

from interp_steer.analysis.frames import numbers
from interp_steer.scopes import Scope


def scope_mask(frame: pd.DataFrame, scope: str) -> Bool[np.ndarray, "token"]:
    """Which rows a scope covers.

    Args:
        frame: token rows of one layer with scenario, side, response_index, pos and segment.
        scope: as `Scope.parse` reads it.

    Raises:
        SteeringError: no such scope.
    """
    asked = Scope.parse(scope)
    in_response = frame["segment"].isin(("response", "thinking")).to_numpy()
    if asked.kind in ("all", "prompt"):
        return np.ones(len(frame), dtype=bool) if asked.kind == "all" else ~in_response
    if asked.kind == "response" and not asked.include_last_prompt:
        return in_response
    grouped = frame.assign(start=frame["pos"].where(in_response)).groupby(
        ["scenario", "side", "response_index"]
    )
    starts, last = (
        grouped[name].transform(how) for name, how in (("start", "min"), ("pos", "max"))
    )
    # An empty response starts where the prompt ends.
    start = np.where(starts.isna(), last.to_numpy() + 1, starts)
    index = numbers(frame, "pos") - start
    limit = np.inf if asked.k is None else asked.k
    covered = (index >= 0) & (index < limit)
    return covered | (index == -1) if asked.include_last_prompt else covered
