"""How long must one steer: the first K response tokens, throughout, or after a bad start.

Trait by K at one configuration a method, beside the unsteered and the aligned prompt: a share of
the gap between those would be undefined where a prefilled start does no harm. That the first tokens
suffice on short responses says little about long ones; hence the length in the subtitle.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.lines import Line, draw_level, draw_line
from interp_steer.plots.style import (
    ALIGNED,
    MALICIOUS,
    METHOD_LOOKS,
    METHOD_TITLES,
    SCREEN,
    Column,
    faded,
    finish,
)
from interp_steer.plots.text import as_text

PANELS = {
    "first": ("steering the first K response tokens", "K: steered tokens"),
    "prefill": ("after a prefilled start of P tokens", "P: prefilled tokens"),
}

UNSTEERED = "threat, unsteered"
"""Legend entry: under the malicious prompt, or after the prefilled start."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteeringDuration:
    """Trait by K, and of continuous steering beside it."""

    shares: pd.DataFrame
    """Columns panel (first: malicious prompt, by steered tokens; prefill: by prefilled tokens),
    method, layer, alpha, scope, k (NaN for continuous steering in panel first), trait, trait_low,
    trait_high, unsteered, aligned (traits without steering on the same scenarios, 0-100), n_rows;
    any others are kept for the table."""
    mean_tokens: float
    """Mean length of the steered responses, tokens."""

    def __post_init__(self) -> None:
        needed = {"panel", "method", "scope", "k", "unsteered", "aligned", "n_rows"}
        missing = {*needed, "trait", "trait_low", "trait_high"} - set(self.shares.columns)
        if missing or self.shares.empty:
            raise FigureError(
                f"there are no durations to draw (missing columns: {sorted(missing) or 'none'})"
            )


def steering_duration(
    result: SteeringDuration, *, title: str = "", column: Column = SCREEN
) -> go.Figure:
    """Trait by K; thin level lines are continuous steering, grey ones what is not steered."""
    panels = [p for p in PANELS if p in set(result.shares["panel"])]
    n_rows, n_cols = (len(panels), 1) if column.is_narrow else (1, len(panels))
    panel, gap = column.em(12 if column.is_narrow else 16), column.em(5.4)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        subplot_titles=[PANELS[p][0] for p in panels],
        shared_yaxes=not column.is_narrow,
        horizontal_spacing=0.05,
        vertical_spacing=gap / height if n_rows > 1 else 0.0,
    )
    for place, name in enumerate(panels):
        row, col = (place + 1, 1) if column.is_narrow else (1, place + 1)
        _draw_panel(figure, result, name, row=row, col=col, first=place == 0)
        figure.update_xaxes(title_text=PANELS[name][1], row=row, col=col)
        if col == 1:
            figure.update_yaxes(title_text="trait (0-100)", row=row, col=col)
    figure.update_yaxes(range=[-4, 104])
    figure.update_annotations(font_size=column.font)
    n = int(numbers(result.shares, "n_rows").min())
    return finish(
        figure,
        title or "how long one must steer",
        subtitle=f"{_configurations(result)}; n ≥ {n} generations a point, 95 % intervals over "
        f"clusters of scenarios; responses have {result.mean_tokens:.0f} tokens on average",
        plot_height=height,
        column=column,
    )


def _configurations(result: SteeringDuration) -> str:
    """Layer and coefficient of each method, and the scope under prefilled starts."""
    rows = result.shares
    words = []
    for method in [m for m in METHOD_TITLES if m in set(rows["method"])]:
        mine = rows_where(rows, rows["method"] == method)
        kinds = mine.drop_duplicates(["layer", "alpha"])
        which = [f"layer {r['layer']:.0f}, α = {r['alpha']:g}" for r in kinds.to_dict("records")]
        words.append(f"{METHOD_TITLES[method]}: {' and '.join(which)}")
    prefilled = texts(rows_where(rows, rows["panel"] == "prefill"), "scope")
    scopes = ", ".join(dict.fromkeys(as_text(scope) for scope in prefilled))
    return "; ".join([*words, f"prefilled starts: scope {scopes}"] if scopes else words)


def _draw_panel(
    figure: go.Figure, result: SteeringDuration, panel: str, *, row: int, col: int, first: bool
) -> None:
    rows = rows_where(result.shares, result.shares["panel"] == panel)
    ks = sorted({float(k) for k in rows["k"] if np.isfinite(k)})
    places = {k: float(i) for i, k in enumerate(ks)}
    span = (-0.4, max(len(ks) - 0.6, 0.4))
    _draw_baselines(figure, rows, places, span, row=row, col=col, first=first)
    for method in [m for m in METHOD_TITLES if m in set(rows["method"])]:
        mine = rows_where(rows, rows["method"] == method)
        by_k = rows_where(mine, np.isfinite(numbers(mine, "k"))).sort_values("k")
        _draw_by_k(figure, by_k, method, places, row=row, col=col, first=first)
        if panel == "first":
            _draw_continuous(figure, mine, method, span, row=row, col=col)
    figure.update_xaxes(
        tickvals=list(places.values()),
        ticktext=[f"{k:g}" for k in ks],
        range=list(span),
        row=row,
        col=col,
    )


def _draw_baselines(
    figure: go.Figure,
    rows: pd.DataFrame,
    places: dict[float, float],
    span: tuple[float, float],
    *,
    row: int,
    col: int,
    first: bool,
) -> None:
    """Levels of the prompts; by P, the unsteered answer to each prefilled start."""
    levels = [("aligned", "aligned, unsteered", ALIGNED, "dash")]
    is_prefilled = "prefill" in set(rows["panel"])
    levels += [] if is_prefilled else [("unsteered", UNSTEERED, MALICIOUS, "dot")]
    for measure, name, colour, dash in levels:
        draw_level(
            figure,
            name,
            float(np.mean(_known(rows, measure))),
            span=span,
            colour=colour,
            dash=dash,
            row=row,
            col=col,
            in_legend=first,
        )
    if not is_prefilled:
        return
    at = [numbers(rows_where(rows, rows["k"] == k), "unsteered").mean() for k in places]
    line = Line(
        name=UNSTEERED,
        x=np.array(list(places.values())),
        y=np.array(at, dtype=np.float64),
        colour=MALICIOUS,
        dash="dot",
        marker="x",
        size=6,
    )
    draw_line(figure, line, row=row, col=col, in_legend=first)


def _known(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Known values of a column; a lone NaN where there are none."""
    values = numbers(rows, name)
    return values[np.isfinite(values)] if np.isfinite(values).any() else np.array([np.nan])


def _draw_by_k(
    figure: go.Figure,
    rows: pd.DataFrame,
    method: str,
    places: dict[float, float],
    *,
    row: int,
    col: int,
    first: bool,
) -> None:
    colour, dash, marker = METHOD_LOOKS[method]
    by = "scope" if "prefill" in set(rows["panel"]) else "panel"
    for rank, (_, mine) in enumerate(rows.groupby(by)):
        line = Line(
            name=METHOD_TITLES[method],
            x=np.array([places[float(k)] for k in mine["k"]]),
            y=mine["trait"].to_numpy(dtype=np.float64),
            low=mine["trait_low"].to_numpy(dtype=np.float64),
            high=mine["trait_high"].to_numpy(dtype=np.float64),
            colour=colour,
            dash=dash,
            marker=marker if rank == 0 else f"{marker}-open",
            size=6,
        )
        draw_line(figure, line, row=row, col=col, in_legend=first and rank == 0)


def _draw_continuous(
    figure: go.Figure,
    rows: pd.DataFrame,
    method: str,
    span: tuple[float, float],
    *,
    row: int,
    col: int,
) -> None:
    colour, dash, _ = METHOD_LOOKS[method]
    steady = rows_where(rows, ~np.isfinite(numbers(rows, "k")))
    for record in steady.to_dict("records"):
        if record["scope"] != "response":
            continue
        figure.add_scatter(
            x=list(span),
            y=[record["trait"]] * 2,
            mode="lines",
            name=f"{METHOD_TITLES[method]} throughout",
            legendgroup=f"{method} throughout",
            line={"color": faded(colour, 0.8), "dash": dash, "width": 1},
            hovertemplate=f"{METHOD_TITLES[method]} throughout: %{{y:.1f}}<extra></extra>",
            row=row,
            col=col,
        )
