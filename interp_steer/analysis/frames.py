"""Rows and columns of a frame as one type each.

`frame[mask]` and `frame[name]` are a frame, a series or a scalar to a type checker, depending on
what the index holds at run time. Whoever selects rows or wants a column's numbers says so here.
"""

from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float


def rows_where(frame: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """The rows at which `mask` is true, in order; the mask goes by place, not by index.

    Raises:
        IndexError: a mask of another length.
    """
    chosen: Bool[np.ndarray, row] = np.asarray(mask, dtype=bool)
    if len(chosen) != len(frame):
        raise IndexError(f"a mask of {len(chosen)} values for a frame of {len(frame)} rows")
    return frame.take(np.flatnonzero(chosen).tolist())


def numbers(frame: pd.DataFrame, name: str) -> Float[np.ndarray, "row"]:
    """The column `name` in float64; whatever is missing is NaN."""
    return cast(pd.Series, frame[name]).to_numpy(dtype=np.float64, na_value=np.nan)


def texts(frame: pd.DataFrame, name: str) -> list[str]:
    """The column `name` as strings."""
    return [str(value) for value in frame[name].tolist()]


def values_of(frame: pd.DataFrame, name: str) -> set[str]:
    """The different strings of the column `name`; quick where many rows share few."""
    return {str(value) for value in cast(pd.Series, frame[name]).unique().tolist()}
