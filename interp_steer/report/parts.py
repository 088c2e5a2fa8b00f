"""What of a run is embedded in a page: values of JSON, packed numbers, and what is missing.

A part is an object with `here: true` and its data, or `here: false`, what is missing and the
command that makes it, so that a page of an unfinished run says what to run instead of failing.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from interp_steer.errors import InterpSteerError
from interp_steer.plots.figure_files import FigureError, MissingStageError
from interp_steer.plots.sources import refusing

MOST_VALUES = 4096
"""Projections of one layer, side and set of tokens that are embedded as they are; of more, that
many evenly spaced quantiles."""

Part = dict[str, Any]


def part(make: Callable[[], Mapping[str, Any]]) -> Part:
    """What `make` returns as a part that is here, or why it is not and what would make it.

    Damaged and unfamiliar artifacts are parts that are not here; errors of this library's own code
    pass through.
    """
    try:
        with refusing():
            return {"here": True, **make()}
    except MissingStageError as missing:
        return {"here": False, "what": missing.what, "command": missing.command}
    except InterpSteerError as error:
        return {"here": False, "what": str(error), "command": None}


def packed(values: Float[np.ndarray, "value"], what: str) -> dict[str, Any]:
    """Projections as base64 of little-endian float32, rising.

    Up to `MOST_VALUES` all of them; of more, the quantiles (i + 1/2) / MOST_VALUES, each of which
    stands for equally many.

    Args:
        values: projections, activation units.
        what: names them in a refusal.

    Returns:
        `n` (of all values), `exact` (whether all are embedded) and `f32`.

    Raises:
        FigureError: a value that is not finite.
    """
    if bad := int((~np.isfinite(values)).sum()):
        raise FigureError(
            f"{bad} of {values.size} {what} are not finite; check the residuals they come from"
        )
    exact = values.size <= MOST_VALUES
    places = (np.arange(MOST_VALUES) + 0.5) / MOST_VALUES
    kept = np.sort(values) if exact else np.quantile(values, places)
    return {"n": int(values.size), "exact": exact, "f32": float32(kept)}


def float32(values: Sequence[float | None] | np.ndarray) -> str:
    """Numbers as base64 of little-endian float32; None becomes NaN."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")


def plain(value: Any) -> Any:
    """`value` as JSON knows it: numpy's numbers become Python's, what is not finite None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
