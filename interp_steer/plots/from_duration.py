"""From a run's sweep to what figure 10 draws: trait by steered, and by prefilled, tokens."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import mean_columns, named_groups
from interp_steer.analysis.duration_grid import duration_command
from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.analysis.run_rows import (
    Baselines,
    is_cell,
    on_most_scenarios,
    steered_rows,
    unsteered,
)
from interp_steer.cells import ALIGNED, Cell
from interp_steer.plots.duration import SteeringDuration, steering_duration
from interp_steer.plots.figure_files import Drawing, MissingStageError
from interp_steer.plots.sources import RunSource
from interp_steer.plots.style import METHOD_TITLES


def draw_duration(source: RunSource) -> list[Drawing]:
    """Figure 10: trait by K for `first:K`, and by P for the threat prefill:P.

    Raises:
        MissingStageError: the sweep has neither.
    """
    sweep = source.sweep
    rows, tokens = [], []
    for panel, part in (("first", _first_rows(sweep)), ("prefill", _prefill_rows(sweep))):
        for key, group in named_groups(part, _KEY):
            rows.append(_duration(source, panel, key, group))
            tokens.append(numbers(group, "n_tokens"))
    shares = pd.DataFrame([row for row in rows if np.isfinite(row["trait"])])
    if shares.empty or not np.isfinite(shares["k"].to_numpy(dtype=float)).any():
        raise MissingStageError(
            "the sweep has neither scopes first:K nor prefilled threats",
            command=duration_command(source.run),
        )
    result = SteeringDuration(shares=shares, mean_tokens=float(np.concatenate(tokens).mean()))
    title = f"{source.heading}: how long must one steer?"
    return [
        Drawing(
            name="steering-duration",
            table=shares,
            build=lambda column: steering_duration(result, title=title, column=column),
        )
    ]


_KEY = ("method", "layer", "alpha", "scope", "threat")


def _first_rows(sweep: pd.DataFrame) -> pd.DataFrame:
    """Rows under the malicious prompt of each method's configuration with the most first:K."""
    rows = steered_rows(sweep)
    is_first = rows["scope"].str.startswith("first:")
    kept = [rows.iloc[:0]]
    for method in METHOD_TITLES:
        best = _most_varied(rows_where(rows, is_first & (rows["method"] == method)), ("scope",))
        if best is not None:
            mine = _of_configuration(rows, {"method": method, "layer": best[0], "alpha": best[1]})
            kept.append(rows_where(mine, [s == "response" or ":" in s for s in mine["scope"]]))
    return pd.concat(kept)


def _prefill_rows(sweep: pd.DataFrame) -> pd.DataFrame:
    """Rows under prefilled threats, of each method's configuration with the most of them."""
    threats = sorted({t for t in texts(sweep, "threat") if t.startswith("prefill:")})
    rows = pd.concat([sweep.iloc[:0], *(steered_rows(sweep, threat=t) for t in threats)])
    kept = [rows.iloc[:0]]
    for method in METHOD_TITLES:
        mine = rows_where(rows, rows["method"] == method)
        mine = rows_where(mine, [":" not in scope for scope in mine["scope"]])
        best = _most_varied(mine, ("threat",), by=("layer", "alpha", "scope"))
        if best is not None:
            names = ("layer", "alpha", "scope")
            kept.append(_of_configuration(mine, dict(zip(names, best, strict=True))))
    return pd.concat(kept)


def _most_varied(
    rows: pd.DataFrame, of: tuple[str, ...], by: tuple[str, ...] = ("layer", "alpha")
) -> tuple[Any, ...] | None:
    """The configuration with the most values in `of`; at a tie one of scope `all`, the lowest."""
    kinds = rows.drop_duplicates([*by, *of])
    counts = Counter(zip(*(kinds[name].tolist() for name in by), strict=True))
    return min(counts, key=lambda key: (-counts[key], "all" not in key, key), default=None)


def _of_configuration(rows: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in wanted.items():
        rows = rows_where(rows, rows[name] == value)
    return rows


def _duration(
    source: RunSource, panel: str, key: dict[str, Any], rows: pd.DataFrame
) -> dict[str, Any]:
    rows, sweep = on_most_scenarios(rows), source.sweep
    cell = Cell.from_row({**rows.iloc[0].to_dict(), "control": "none", "direction": "aligned"})
    found = Baselines(sweep).recovered(cell, rows)
    k = cell.prefill
    if panel == "first":
        k = int(key["scope"].split(":")[1]) if key["scope"].startswith("first:") else None
    return {
        "panel": panel,
        **key,
        "k": np.nan if k is None else float(k),
        **mean_columns(rows, ["trait"]),
        "unsteered": _baseline(sweep, unsteered(cell), rows),
        "aligned": _baseline(sweep, ALIGNED, rows),
        "recovered": found["recovered"],
        "low": found["recovered_low"],
        "high": found["recovered_high"],
    }


def _baseline(sweep: pd.DataFrame, cell: Cell, rows: pd.DataFrame) -> float:
    """Mean trait of an unsteered cell on the scenarios of `rows`; NaN where it has none."""
    there = is_cell(sweep, cell) & sweep["scenario"].isin(texts(rows, "scenario"))
    trait = numbers(rows_where(sweep, there), "trait")
    known = trait[np.isfinite(trait)]
    return float(known.mean()) if known.size else np.nan
