"""Operating points and baselines as a table in a notebook, and estimates as text.

What a table shows are the numbers of the report, with their intervals; it adds none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from interp_steer.comparisons import ControlSummary
from interp_steer.html_tables import DASH, fixed, html_table
from interp_steer.measuring import Measured
from interp_steer.statistics import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLine:
    """One line of a table."""

    name: str
    """What was measured, in words."""
    measured: Measured
    """Trait, coherence and recovered share."""
    layer: int | None = None
    """Steered layer; None where nothing is steered."""
    alpha: float | None = None
    """Coefficient; None where nothing is steered."""
    is_baseline: bool = False
    """It defines the gap, so that no share of it is recovered."""


def measured_table(
    caption: str,
    lines: Sequence[MeasuredLine],
    *,
    controls: Sequence[ControlSummary] = (),
    note: str = "",
) -> str:
    """Return the lines as an HTML table, controls below them."""
    return html_table(
        caption,
        columns=("", "layer", "alpha", "trait", "coherence", "recovered"),
        rows=[*map(_cells, lines), *map(_control_cells, controls)],
        note=note,
    )


def with_interval(estimate: Estimate | None, *, scale: float = 1.0, digits: int = 0) -> str:
    """Like "75 [68, 81]"; a dash where there is no value, no brackets without an interval."""
    if estimate is None or not math.isfinite(estimate.value):
        return DASH
    value, interval = fixed(scale * estimate.value, digits), estimate.interval
    if not interval.is_finite:
        return value
    low, high = (fixed(scale * end, digits) for end in (interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def recovered_text(measured: Measured) -> str:
    """Like "75 % [68, 81]"; "no gap" where there is nothing to recover."""
    if not math.isfinite(measured.recovered.value):
        return "no gap"
    value, _, interval = with_interval(measured.recovered, scale=100).partition(" ")
    return f"{value} % {interval}".rstrip()


def _cells(line: MeasuredLine) -> tuple[str, ...]:
    return (
        line.name,
        "" if line.layer is None else str(line.layer),
        "" if line.alpha is None else f"{line.alpha:g}",
        with_interval(line.measured.trait),
        with_interval(line.measured.coherence),
        "" if line.is_baseline else recovered_text(line.measured),
    )


def _control_cells(control: ControlSummary) -> tuple[str, ...]:
    group, (mean, most) = control.group, (control.mean, control.max)
    return (
        f"control: {control.kind.replace('_', ' ')}, {group.method}, {group.scope}, "
        f"{len(control.recovered)} draws",
        *("", "", ""),
        fixed(control.coherence, 0),
        f"{fixed(100 * mean, 0)} % (at most {fixed(100 * most, 0)} %)",
    )
