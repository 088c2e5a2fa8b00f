"""What a steered call did to each of its rows, summed up inside the hooks.

A trace keeps every token; a sweep of a hundred thousand rows wants a handful of numbers per row and
may not pay for more. An `EditMeter` adds up, on the device, without waiting for it and without a
loop over rows. How far a residual was moved says how strong an edit was, not what it changed.

Distances are the law's, in float32, before the result is rounded to the model's dtype: the edit is
a shift along a unit vector, so |rho' - rho| = |h' - h| = |shift|. (A trace reads both off the
rounded residuals instead; in bfloat16 the two differ by the rounding of h.) Under a control, which
moves along another unit vector u by the same signed shift, the target distance is the length of
that matched shift, not the change of <h, v_hat>.

Source: arXiv 2604.08169v2, section C.5 (target distance, relative L2).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interp_steer.hook_records import HookRecord
from interp_steer.measures import EDIT_COLUMNS, MeasureArrays, MeasureError
from interp_steer.tokens import Segment

_N_SEGMENTS = max(Segment) + 1
_SUMS = ("in_scope", "fired", "distance", "relative")


class EditMeter:
    """Sums over the tokens of one call, row by row; give it to `steer` as the recorder.

    One meter serves one `generate` or `forward`. A row steered at several layers counts each of its
    tokens once a layer. Rows may leave the batch on the way.
    """

    only_in_scope = True
    """Prompts may be shared (`hook_records.Recorder`): what is out of scope does not count."""

    def __init__(self) -> None:
        self._totals: dict[torch.device, Tensor] = {}

    def record(self, record: HookRecord) -> None:
        """Add one hook call (called by the hooks).

        Per token in scope: 1, whether it fired, |shift|, and |shift| / |h| (0 where h = 0). Padding
        is out of scope, whatever its residual holds.
        """
        distance, norm = record.shift.abs(), record.norm
        relative = torch.where(norm > 0, distance / norm, 0.0)  # also where padding's norm is NaN
        values = torch.stack([record.in_scope, record.fired, distance, relative], dim=-1)
        # Padding has segment -1 and adds only zeros, so it may be counted in any segment.
        place = record.rows[:, None] * _N_SEGMENTS + record.segments.clamp(min=0)
        self._total(record).index_add_(0, place.reshape(-1), values.reshape(-1, len(_SUMS)))

    def _total(self, record: HookRecord) -> Tensor:
        """Return the running sums [row x segment, sum] on the record's device."""
        device = record.rows.device
        if device not in self._totals:
            slots = record.steering.slot_of_row  # None for a uniform plan: then all rows are here
            n_rows = record.rows.numel() if slots is None else slots.numel()
            self._totals[device] = torch.zeros(n_rows * _N_SEGMENTS, len(_SUMS), device=device)
        return self._totals[device]

    def results(self, n_rows: int) -> MeasureArrays:
        """Return `EDIT_COLUMNS` of every row of the call; only this waits for the device.

        target_distance = mean |shift| over tokens in scope (activation units), relative_l2 = mean
        |shift| / |h| over the same; the columns with _fired take the mean over fired tokens.
        fired_share = fired / in scope, over all tokens and over each segment's. Earlier assistant
        turns count in the totals and have no column of their own. NaN where no token is in scope
        (or none fired, for the means over fired ones): so for every unsteered row.

        Args:
            n_rows: sequences of the call.

        Raises:
            MeasureError: fewer rows than were recorded.
        """
        by_segment = np.zeros((n_rows, _N_SEGMENTS, len(_SUMS)))
        for total in self._totals.values():
            found = total.cpu().numpy().reshape(-1, _N_SEGMENTS, len(_SUMS))
            if len(found) > n_rows:
                raise MeasureError(
                    f"expected all sequences of the metered call, {len(found)}, got {n_rows}; use "
                    "one EditMeter per call and give the number of its sequences"
                )
            by_segment[: len(found)] += found
        in_scope, fired, distance, relative = by_segment.sum(axis=1).T
        values = (
            _ratio(distance, in_scope),
            _ratio(distance, fired),
            _ratio(relative, in_scope),
            _ratio(relative, fired),
            _ratio(fired, in_scope),
            *(
                _ratio(by_segment[:, segment, 1], by_segment[:, segment, 0])
                for segment in _SEGMENTS
            ),
        )
        return dict(zip(EDIT_COLUMNS, values, strict=True))


_SEGMENTS: Sequence[Segment] = (
    Segment.SYSTEM,
    Segment.USER,
    Segment.TEMPLATE,
    Segment.PREFILL,
    Segment.RESPONSE,
)
"""Segments with a column of their own, in the order of `measures.FIRED_COLUMNS`."""


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
