"""Figure 11: ratings of a pairwise tournament, one line a player.

A rating is relative to the other players and to one judge; only differences mean something.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp_steer.analysis.frames import numbers, texts
from interp_steer.plots.figure_files import Drawing, FigureError, MissingStageError
from interp_steer.plots.sources import RunSource
from interp_steer.plots.style import (
    ALIGNED,
    FAINT,
    INK,
    MALICIOUS,
    METHOD_LOOKS,
    SCREEN,
    Column,
    finish,
    number,
    wrapped,
)
from interp_steer.plots.text import as_text

RATING_COLUMNS = (
    *("player", "side", "method", "rating", "rating_low", "rating_high"),
    *("n_games", "ties", "n_missing", "n_scenarios", "judge"),
)
"""Columns of the tournament's table that are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TournamentRatings:
    """Ratings, ready to draw."""

    ratings: pd.DataFrame
    """With `RATING_COLUMNS`, one row a player."""
    judge: str
    """Who judged, escaped for plotly."""
    first_share: float
    """Share of decided games that the answer shown first won, 0-1; NaN where nothing was."""

    def __post_init__(self) -> None:
        missing = [name for name in RATING_COLUMNS if name not in self.ratings]
        if missing or self.ratings.empty:
            raise FigureError(
                f"the tournament cannot be drawn: it lacks {', '.join(missing) or 'players'}"
            )


def tournament_ratings(
    result: TournamentRatings, *, title: str = "", column: Column = SCREEN
) -> go.Figure:
    """Ratings as points with their 95 % intervals, the strongest on top; 1500 is the mean."""
    ratings = result.ratings.sort_values("rating")
    figure = go.Figure()
    room = column.n_characters(column.width * 0.3)
    for place, row in enumerate(ratings.to_dict("records")):
        colour, symbol = _look(str(row["side"]), str(row["method"]))
        value, low, high = (float(row[name]) for name in RATING_COLUMNS[3:6])
        figure.add_scatter(
            x=[value],
            y=[place],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - value],
                "arrayminus": [value - low],
                "color": colour,
            },
            name=as_text(str(row["player"])),
            showlegend=False,
            hovertemplate=(
                f"{as_text(str(row['player']))}: {number(value, 4)} "
                f"[{number(low, 4)}, {number(high, 4)}], {row['n_games']} games<extra></extra>"
            ),
        )
    figure.add_vline(x=1500, line={"color": FAINT, "dash": "dot", "width": 1})
    names = [wrapped(as_text(name), room) for name in texts(ratings, "player")]
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[-0.6, len(names) - 0.4]
    )
    figure.update_xaxes(title_text="ELO rating (Bradley-Terry, mean 1500)")
    longest = max(len(line) for name in names for line in name.split("<br>"))
    return finish(
        figure,
        title or "pairwise tournament",
        subtitle=_subtitle(result),
        plot_height=column.em(2.6) * len(names),
        column=column,
        left=0.58 * longest + 1,
    )


def draw_ratings(source: RunSource) -> list[Drawing]:
    """Figure 11, the tournament, once it was played; one figure a threat.

    Raises:
        MissingStageError: it was not.
    """
    there = list(source.run.analyses_folder.glob("pairwise_elo*.parquet"))
    if not there:
        raise MissingStageError(
            f"the run has no pairwise tournament ({source.run.analyses_folder / 'pairwise_elo'})",
            command=source.command("judge-tournament"),
        )
    stems = sorted(p.stem for p in there if re.fullmatch(r"pairwise_elo(_prefill_\d+)?", p.stem))
    return [_drawing(source, stem) for stem in stems]


def _drawing(source: RunSource, stem: str) -> Drawing:
    ratings = source.analysis(stem, RATING_COLUMNS)
    order = source.analysis(f"{stem}_order", ["first_share"])
    result = TournamentRatings(
        ratings=ratings,
        judge=as_text(texts(ratings, "judge")[0]),
        first_share=float(numbers(order, "first_share")[0]),
    )
    k = stem.removeprefix("pairwise_elo").removeprefix("_prefill_")
    under = f" after a malicious start of {k} tokens" if k else ""
    title = f"{source.heading}: which configuration wins in pairs{under}?"
    return Drawing(
        name=f"elo-prefill-{k}" if k else "elo",
        table=ratings,
        build=lambda column: tournament_ratings(result, title=title, column=column),
    )


def _look(side: str, method: str) -> tuple[str, str]:
    if method in METHOD_LOOKS:
        colour, _, symbol = METHOD_LOOKS[method]
        return colour, symbol
    return {"aligned": (ALIGNED, "cross"), "malicious": (MALICIOUS, "x")}.get(side, (INK, "circle"))


def _subtitle(result: TournamentRatings) -> str:
    ratings = result.ratings
    games = numbers(ratings, "n_games")
    missing = int(numbers(ratings, "n_missing").sum()) // 2
    words = [
        f"judge {result.judge}; n = {int(games.min())} games a player at least on "
        f"{int(numbers(ratings, 'n_scenarios').max())} scenarios; bars: 95 % intervals"
    ]
    if np.isfinite(result.first_share):
        words.append(f"the answer shown first won {result.first_share:.0%} of decided games")
    if missing:
        words.append(f"{missing} games without a verdict")
    return "; ".join(words)
