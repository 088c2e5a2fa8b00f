"""Responses as spans of tokens: tinted by projection, fired ones framed and bracketed.

What is drawn is decided in `trace_blocks`, as for the terminal and the small HTML page, so that all
three tell the same story. Every token carries its numbers for the panel that follows pointer and
focus. Tokens are untrusted: they are children and attributes of components, never markup.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
from dash import html

from interp_steer.cells import NONE
from interp_steer.trace_blocks import MARKS, Block, ShownToken, make_visible, trace_blocks

TOKEN_COLUMNS = (
    "pos",
    "token",
    "token_id",
    "segment",
    "in_scope",
    "fired",
    "capped",
    "projection_before",
    "projection_after",
    "delta_norm",
    "relative_norm",
    "logprob",
)
"""Columns that differ from token to token."""
SHARED_COLUMNS = (
    "sample",
    "scenario",
    "side",
    "turn",
    "layer",
    "method",
    "direction",
    "scope",
    "alpha",
    "boundary",
    "threshold",
    "target",
    "cap",
)
"""Columns that a response's tokens share."""
MOST_TOKENS = 3000
"""Tokens of a response that are shown."""
TALLEST = 7
"""Pixels of the bar over the token that was moved farthest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pane:
    """One response, with its tokens' numbers or without."""

    heading: str
    """What it is (untrusted)."""
    table: pa.Table | None = None
    """Trace rows of one sample at one layer; None where only the text is stored."""
    text: str = ""
    """The response where there is no table (untrusted)."""
    note: str = ""
    """Beneath the heading (untrusted)."""


def pane_frame(panes: Sequence[Pane]) -> pd.DataFrame:
    """The trace rows of all panes, with the pane's heading in front."""
    parts = [
        pane.table.to_pandas().assign(pane=pane.heading)
        for pane in panes
        if pane.table is not None and pane.table.num_rows
    ]
    if not parts:
        return pd.DataFrame(columns=pd.Index(["pane", *SHARED_COLUMNS, *TOKEN_COLUMNS]))
    whole = pd.concat(parts, ignore_index=True)
    return whole.reindex(columns=["pane", *[name for name in whole.columns if name != "pane"]])


def panes_page(panes: Sequence[Pane], *, pos: int | None = None) -> list[html.Section]:
    """The panes side by side.

    Args:
        panes: in their order.
        pos: position that is pointed at, in every pane that has it.
    """
    return [_pane_page(pane, place, pos) for place, pane in enumerate(panes)]


def _pane_page(pane: Pane, place: int, pos: int | None) -> html.Section:
    head: list[Any] = [html.H3(make_visible(pane.heading))]
    head += [html.P(make_visible(pane.note), className="hint")] if pane.note else []
    if pane.table is None or not pane.table.num_rows:
        text = make_visible(pane.text) if pane.text else "(no tokens yet)"
        return html.Section([*head, html.P(text, className="plain-response")], className="pane")
    table = pane.table.slice(0, MOST_TOKENS)
    block = trace_blocks(table, n_largest=0)[0]
    head.append(html.P(block.numbers, className="hint"))
    head.append(html.P(_summary(block, table), className="hint"))
    if table.num_rows < pane.table.num_rows:
        left = pane.table.num_rows - table.num_rows
        head.append(html.P(f"{left:,} more tokens are not shown", className="hint"))
    shared = {name: _shown(table[name][0].as_py()) for name in SHARED_COLUMNS}
    return html.Section(
        [
            *head,
            html.Div(
                _runs(block, table, pos),
                className="tokens",
                role="group",
                **{
                    "aria-label": f"tokens: {make_visible(pane.heading)}",
                    "data-shared": json.dumps(shared),
                    "data-pane": str(place),
                },  # pyright: ignore[reportArgumentType]
            ),
        ],
        className="pane",
    )


def _summary(block: Block, table: pa.Table) -> str:
    """What fired; of an unsteered response, what the gate would have let through."""
    if table["method"][0].as_py() != NONE:
        return block.summary
    n, n_fired = (sum(table[name].to_pylist()) for name in ("in_scope", "fired"))
    if not n:
        return "unsteered"
    return f"unsteered: the gate would let {n_fired} of {n} tokens in scope through"


def _runs(block: Block, table: pa.Table, pos: int | None) -> list[html.Div]:
    rows = table.select(list(TOKEN_COLUMNS)).to_pylist()
    moves = [abs(row["projection_after"] - row["projection_before"]) for row in rows]
    largest = max((move for move in moves if move == move), default=0.0)
    found, at = [], 0
    for segment, tokens in block.runs():
        spans: list[Any] = []
        for token in tokens:
            bar = moves[at] / largest if largest and moves[at] == moves[at] else 0.0
            spans.append(_span(token, rows[at], bar=bar, is_chosen=rows[at]["pos"] == pos))
            if token.ends_line:
                spans.append(html.Br())
            at += 1
        found.append(html.Div([html.B(segment), html.Div(spans)], className="run"))
    return found


def _span(token: ShownToken, row: dict[str, Any], *, bar: float, is_chosen: bool) -> html.Span:
    sign = "p" if token.step > 0 else "m"
    classes = ["tok", f"{sign}{abs(token.step)}" if token.step else "", token.mark]
    classes += ["chosen"] if is_chosen else []
    before, after = MARKS[token.mark]
    numbers = [_shown(known_value(name, row[name])) for name in TOKEN_COLUMNS]
    return html.Span(
        before + token.text + after,
        className=" ".join(filter(None, classes)),
        tabIndex=0 if is_chosen or (row["pos"] == 0) else -1,
        style={"borderTopWidth": f"{round(TALLEST * bar, 1)}px"} if bar else {},
        **{"data-row": json.dumps(numbers), "data-pos": str(row["pos"])},  # pyright: ignore[reportArgumentType]
    )


def known_value(name: str, value: Any) -> Any:
    """The value; None for the id of a token that was stored without one."""
    return None if name == "token_id" and value < 0 else value


def _shown(value: Any) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    return make_visible(str(value)) if isinstance(value, str) else str(value)
