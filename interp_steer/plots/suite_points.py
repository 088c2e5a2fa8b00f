"""Configurations without an order among them: one line a configuration, one point a series.

Cost (is a guard slower, and by how much with diagnostics?) and cross-trait (what does the other
guard change?) are drawn with it. Every number is one suite's own, on one machine or by one judge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.plots.style import (
    FAINT,
    INK,
    MARKERS,
    METHOD_LOOKS,
    METHOD_TITLES,
    PALETTE,
    SCREEN,
    Column,
    finish,
    n_visible,
    number,
    wrapped,
)
from interp_steer.plots.suites import check_table
from interp_steer.plots.text import as_text

POINT_COLUMNS = ("panel", "group", "series", "value", "low", "high", "n")
"""Columns of such a suite's table: panel (the measure, with its unit), group (a configuration, a
line of the panel), series (told apart within the line), value with its interval, n behind it."""
NO_SERIES = "none"
"""Series of what belongs to none: an unsteered baseline among methods."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SuitePoints:
    """What a suite measured, ready to draw."""

    values: pd.DataFrame
    """With `POINT_COLUMNS`."""
    what: str
    """What n counts, in the plural."""
    measures: str = "means"
    """What the points are: means, medians."""
    reference: Mapping[str, float]
    """Word in a panel's title to the value at which that panel has a line."""
    series_titles: Mapping[str, str]
    """Series to its name in the legend, where that is not a method's."""

    def __post_init__(self) -> None:
        check_table(self.values, POINT_COLUMNS)


def suite_points(result: SuitePoints, *, title: str = "", column: Column = SCREEN) -> go.Figure:
    """One panel a measure, one line a configuration, one point with its interval a series."""
    panels, groups = (list(dict.fromkeys(texts(result.values, c))) for c in POINT_COLUMNS[:2])
    n_cols = 1 if column.is_narrow else min(2, len(panels))
    n_rows = -(-len(panels) // n_cols)
    names = [wrapped(as_text(g), column.n_characters(column.width * 0.3)) for g in groups]
    titles = [
        wrapped(as_text(p), column.n_characters(0.62 * column.width / n_cols)) for p in panels
    ]
    gap = column.em(4 + 1.3 * _most_breaks(titles))
    height = _panel_height(result, names, column) * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        shared_yaxes=True,
        subplot_titles=titles,
        horizontal_spacing=0.06,
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
    )
    for place, panel in enumerate(panels):
        at = {"row": place // n_cols + 1, "col": place % n_cols + 1}
        _draw_panel(figure, result, panel, groups, at)
    figure.update_yaxes(
        tickvals=list(range(len(groups))), ticktext=names, range=[len(groups) - 0.5, -0.5]
    )
    figure.update_annotations(font_size=column.font)
    n = int(numbers(result.values, "n").min())
    return finish(
        figure,
        title or "suites",
        subtitle=f"{result.measures} over n ≥ {n} {result.what}; bars: 95 % intervals",
        plot_height=height,
        column=column,
        left=0.58 * max(n_visible(line) for name in names for line in name.split("<br>")) + 1,
        panel_titles=1.6 + 1.3 * _most_breaks(titles),
    )


def _most_breaks(wrapped_texts: Sequence[str]) -> int:
    return max(text.count("<br>") for text in wrapped_texts)


def _panel_height(result: SuitePoints, names: Sequence[str], column: Column) -> float:
    """Room for the names of the lines and for the points of every series within a line."""
    n_series = len(set(texts(result.values, "series")))
    lines = max(1.3 * (_most_breaks(names) + 1), 0.8 * n_series)
    return column.em(lines + 0.6) * len(names)


def _draw_panel(
    figure: go.Figure,
    result: SuitePoints,
    panel: str,
    groups: Sequence[str],
    at: Mapping[str, int],
) -> None:
    values = result.values
    series = list(dict.fromkeys(texts(values, "series")))
    first = {one: rows_where(values, values["series"] == one)["panel"].iloc[0] for one in series}
    for rank, one in enumerate(series):
        is_it = (values["panel"] == panel) & (values["series"] == one)
        rows = rows_where(values, is_it)
        if rows.empty:
            continue
        colour, marker = _look(one, rank)
        name = result.series_titles.get(one) or METHOD_TITLES.get(one, as_text(one))
        # What belongs to no series has a line to itself; the others stand one below the other.
        offset = 0.0 if one == NO_SERIES else _offset(rank, series)
        value, low, high = (numbers(rows, column) for column in ("value", "low", "high"))
        figure.add_scatter(
            x=value,
            y=[groups.index(group) + offset for group in texts(rows, "group")],
            mode="markers",
            marker={"color": colour, "symbol": marker, "size": 7},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": high - value,
                "arrayminus": value - low,
                "color": colour,
                "thickness": 1.2,
                "width": 3,
            },
            name=name,
            legendgroup=one,
            showlegend=one != NO_SERIES and first[one] == panel,
            hovertext=[
                f"{as_text(group)}, {name}: {number(v)} [{number(a)}, {number(b)}]"
                for group, v, a, b in zip(texts(rows, "group"), value, low, high, strict=True)
            ],
            hoverinfo="text",
            **at,
        )
    for word, level in result.reference.items():
        if word in panel:
            line = {"color": FAINT, "dash": "dot", "width": 1}
            figure.add_vline(x=level, line=line, row=at["row"], col=at["col"])  # pyright: ignore[reportArgumentType]


def _look(series: str, rank: int) -> tuple[str, str]:
    """Colour and marker of a series."""
    if series == NO_SERIES:
        return INK, "cross"
    if series in METHOD_LOOKS:
        colour, _, marker = METHOD_LOOKS[series]
        return colour, marker
    return PALETTE[rank % len(PALETTE)], MARKERS[rank % len(MARKERS)]


def _offset(rank: int, series: Sequence[str]) -> float:
    """Place within a line of 1, so that the intervals of its series do not cover one another."""
    named = [one for one in series if one != NO_SERIES]
    place = named.index(series[rank])
    return 0.6 * ((place + 0.5) / len(named) - 0.5)
