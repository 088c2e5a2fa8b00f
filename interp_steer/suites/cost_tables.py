"""What the suite cost found, as a table and as the points of its figure.

Medians, because a machine that is interrupted gives a few times that are far too long; ratios are
taken prompt by prompt before the median, so that what slows one prompt slows both sides of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.cells import NEUTRAL, Cell
from interp_steer.intervals import bootstrap_interval
from interp_steer.statistics import Estimate, draw_resamples
from interp_steer.suites.configurations import Configurations, in_order, printed_name
from interp_steer.suites.summaries import (
    Summary,
    cells_of,
    configuration_columns,
    configuration_values,
    point_row,
    rows_of_cell,
)
from interp_steer.suites.timing import WARM_UPS
from interp_steer.table_files import Column, Table

SHOWN = (
    ("single", "latency", "ms a call, one prompt at a time"),
    ("batch", "throughput", "tokens/s, prompts in batches"),
    ("single", "ratio", "time a token, one prompt at a time (ratio to unsteered)"),
    ("batch", "ratio", "time a token, prompts in batches (ratio to unsteered)"),
)
"""Mode, number and title of the figure's panels."""


def median_estimate(values: Sequence[float]) -> Estimate:
    """The median over items with its bootstrap interval; NaN items are left out."""
    known = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not len(known):
        nothing = np.full(1, math.nan)
        resamples = draw_resamples(["none"], n_resamples=1)
        return Estimate(value=math.nan, interval=bootstrap_interval(nothing, resamples))
    resamples = draw_resamples([str(i) for i in range(len(known))])
    order = np.argsort(known)
    # The weighted median of each resample: the first value at which half of the draws are reached.
    reached = resamples.weights[:, order].cumsum(axis=1) >= len(known) / 2
    draws = known[order][reached.argmax(axis=1)]
    interval = bootstrap_interval(draws, resamples)
    return Estimate(value=float(np.median(known)), interval=interval)


def cost_summary(frame: pd.DataFrame, chosen: Configurations, *, device: str) -> Summary:
    """The table and the figure's points.

    Args:
        frame: timed rows with their `cell`.
        chosen: the run's configurations; the figure shows operating points alone.
        device: what they were timed on.
    """
    lines: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for mode in ("single", "batch"):
        own = rows_where(frame, frame["mode"] == mode)
        base = _times(own, NEUTRAL, diagnostics=False)
        for cell in in_order(cells_of(own)):
            for diagnostics in (False, True):
                times = _times(own, cell, diagnostics=diagnostics)
                if not times:
                    continue
                named = configuration_values(cell, chosen)
                found = _numbers(times, base)
                state = "on" if diagnostics else "off"
                lines.append(
                    {**named, "mode": mode, "diagnostics": state, **found, "n": len(times)}
                )
                if not cell.is_steered or chosen.is_point(cell):
                    points += [
                        point_row(title, printed_name(cell), state, found[name], len(times))
                        for shown, name, title in SHOWN
                        if shown == mode and math.isfinite(found[name].value)
                    ]
    columns = (
        Column(name="mode", title="mode"),
        Column(name="diagnostics", title="diagnostics"),
        Column(name="latency", title="ms a call"),
        Column(name="per_token", title="ms a token", digits=2),
        Column(name="throughput", title="tokens/s"),
        Column(name="ratio", title="time a token, ratio to unsteered", digits=3),
        Column(name="n", title="n"),
    )
    table = Table(
        name="cost",
        caption=(
            f"Medians over prompts on {device}, greedy, prompt included, {WARM_UPS} warm-ups; "
            "ratios are medians of ratios prompt by prompt; 95 % bootstrap intervals."
        ),
        columns=(*configuration_columns(), *columns),
        rows=tuple(lines),
    )
    return Summary(tables=(table,), figure=pd.DataFrame(points))


def _times(frame: pd.DataFrame, cell: Cell, *, diagnostics: bool) -> dict[str, tuple[float, float]]:
    """By item, seconds and tokens of one configuration."""
    rows = rows_of_cell(frame, cell)
    rows = rows_where(rows, rows["diagnostics"] == diagnostics)
    pairs = zip(numbers(rows, "seconds"), numbers(rows, "n_tokens"), strict=True)
    return dict(zip(texts(rows, "item"), pairs, strict=True))


def _numbers(
    times: Mapping[str, tuple[float, float]], base: Mapping[str, tuple[float, float]]
) -> dict[str, Estimate]:
    per_token = {item: _a_token(*pair) for item, pair in times.items()}
    shared = [item for item in times if item in base]
    return {
        "latency": median_estimate([1000 * seconds for seconds, _ in times.values()]),
        "per_token": median_estimate([1000 * spent for spent in per_token.values()]),
        "throughput": median_estimate([1 / spent for spent in per_token.values()]),
        "ratio": median_estimate([per_token[item] / _a_token(*base[item]) for item in shared]),
    }


def _a_token(seconds: float, n_tokens: float) -> float:
    """Seconds a token; NaN where none was made."""
    return seconds / n_tokens if n_tokens else math.nan
