"""Capabilities by coefficient, and multi-turn curves.

Their suites are commands of their own; until a run holds their tables, the readers refuse and say
so. Every score is that of one suite's own scale and judge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.lines import Line, draw_line
from interp_steer.plots.style import (
    ALIGNED,
    DASHES,
    MALICIOUS,
    MARKERS,
    METHOD_LOOKS,
    METHOD_TITLES,
    PALETTE,
    SCREEN,
    Column,
    finish,
    wrapped,
)

SIDE_LOOKS = {
    "aligned": (ALIGNED, "longdash", "cross"),
    "malicious": (MALICIOUS, "longdashdot", "x"),
}
"""Looks of series that start with the name of a side: unsteered baselines."""

SUITE_COLUMNS = ("panel", "series", "x", "value", "low", "high", "n")
"""Columns of every suite's table: panel (the measure, with its unit), series (a method or a
configuration), x (coefficient, turn or place), value with its interval, n behind it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SuiteCurves:
    """What a suite measured, ready to draw."""

    values: pd.DataFrame
    """With `SUITE_COLUMNS`."""
    x_title: str
    """What x is, with its unit."""
    what: str
    """What n counts, in the plural."""
    chosen: Mapping[str, float]
    """Series to the x of its operating point, where x is a coefficient."""

    def __post_init__(self) -> None:
        check_table(self.values, SUITE_COLUMNS)


def check_table(values: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a suite's table that cannot be drawn.

    Raises:
        FigureError: it lacks columns, by name, or rows.
    """
    missing = [name for name in columns if name not in values]
    if missing or values.empty:
        raise FigureError(
            f"the suite's table cannot be drawn: it lacks {', '.join(missing) or 'rows'}"
        )


def suite_curves(result: SuiteCurves, *, title: str = "", column: Column = SCREEN) -> go.Figure:
    """One panel a measure, one line a series with its interval; operating points ringed."""
    panels = list(dict.fromkeys(result.values["panel"]))
    n_cols = min(len(panels), 1 if column.is_narrow else 3)
    n_rows = -(-len(panels) // n_cols)
    panel, gap = column.em(11), column.em(4.4)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        subplot_titles=panels,
        horizontal_spacing=0.08,
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
    )
    series = list(dict.fromkeys(result.values["series"]))
    named = result.values.drop_duplicates("series")
    shown_first = dict(zip(texts(named, "series"), texts(named, "panel"), strict=True))
    for place, name in enumerate(panels):
        row, col = place // n_cols + 1, place % n_cols + 1
        for one in series:
            _draw_series(
                figure, result, name, one, series, row=row, col=col, first=shown_first[one] == name
            )
        if place + n_cols >= len(panels):
            figure.update_xaxes(title_text=result.x_title, row=row, col=col)
    if _is_one_point_each(result.values):
        _name_places(figure, result, series, column)
    figure.update_annotations(font_size=column.font)
    n = int(numbers(result.values, "n").min())
    return finish(
        figure,
        title or "suites",
        subtitle=f"n ≥ {n} {result.what} a point; bands: 95 % intervals",
        plot_height=height,
        column=column,
        left=3.6,
    )


def _is_one_point_each(values: pd.DataFrame) -> bool:
    """Whether every series is a single point: a rating, not a curve."""
    return not values.duplicated(["panel", "series"]).any()


def _name_places(
    figure: go.Figure, result: SuiteCurves, series: Sequence[str], column: Column
) -> None:
    """Names below the points instead of a legend."""
    at = dict(zip(texts(result.values, "series"), numbers(result.values, "x"), strict=True))
    room = column.n_characters((column.width - column.em(6)) / len(series))
    names = [wrapped(METHOD_TITLES.get(s, s), room) for s in series]
    figure.update_xaxes(tickvals=[float(at[s]) for s in series], ticktext=names, tickangle=0)
    figure.update_traces(showlegend=False)


def _draw_series(
    figure: go.Figure,
    result: SuiteCurves,
    panel: str,
    name: str,
    series: Sequence[str],
    *,
    row: int,
    col: int,
    first: bool,
) -> None:
    values = result.values
    rows = rows_where(values, (values["panel"] == panel) & (values["series"] == name))
    rows = rows.sort_values("x")
    if rows.empty:
        return
    rank = list(series).index(name)
    usual = (
        PALETTE[rank % len(PALETTE)],
        DASHES[rank % len(DASHES)],
        MARKERS[rank % len(MARKERS)],
    )
    side = name.split()[0].strip(",")
    colour, dash, marker = METHOD_LOOKS.get(name) or SIDE_LOOKS.get(side, usual)
    line = Line(
        name=METHOD_TITLES.get(name, name),
        x=rows["x"].to_numpy(dtype=np.float64),
        y=rows["value"].to_numpy(dtype=np.float64),
        low=rows["low"].to_numpy(dtype=np.float64),
        high=rows["high"].to_numpy(dtype=np.float64),
        colour=colour,
        dash=dash,
        marker=marker,
    )
    draw_line(figure, line, row=row, col=col, in_legend=first)
    at = result.chosen.get(name)
    there = rows_where(rows, rows["x"] == at)
    if at is not None and len(there):
        figure.add_scatter(
            x=[at],
            y=[float(numbers(there, "value")[0])],
            mode="markers",
            marker={"symbol": "circle-open", "size": 12, "color": colour, "line": {"width": 2}},
            name="operating point",
            legendgroup="operating point",
            showlegend=first and name == next(one for one in series if one in result.chosen),
            hoverinfo="skip",
            row=row,
            col=col,
        )
