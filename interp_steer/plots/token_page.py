"""Responses as strips of tokens: what a strip holds, and where on a page its tokens stand.

Why apart: the layout is arithmetic on a monospaced typeface and can be checked without a picture.
Tokens are untrusted; what is placed here is spelled out and escaped.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.style import Column, wrapped
from interp_steer.plots.text import as_text, n_cells
from interp_steer.trace_blocks import N_STEPS, make_visible

MONO = "DejaVu Sans Mono, Menlo, Consolas, Liberation Mono, monospace"
CELL = 0.602
"""Advance of the monospaced typeface, in em."""
LINE = 2.35
"""Distance of lines, in type sizes: the token's box, and above it room for the bar."""
BOX = 1.45
"""Height of a token's box, in type sizes."""
GUTTER = 9
"""Cells left of the tokens, for the segment's name."""
LONGEST_TOKEN = 24
"""Cells of a token that are drawn; longer ones end in an ellipsis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripToken:
    """One token of a strip."""

    text: str
    """The token, as the tokenizer has it (untrusted)."""
    segment: str
    """Segment name."""
    distance: float = math.nan
    """rho - m of the residual as it arrived, activation units; NaN where it was not stored."""
    moved: float = 0.0
    """|rho' - rho|, activation units."""
    fired: bool = False
    """Whether the gate let the method act."""
    capped: bool = False
    """Whether the cap shortened the move."""
    row: tuple[tuple[str, str], ...] = ()
    """Names and values of its whole trace row, for hovering (untrusted)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStrip:
    """One response, with its prompt or without."""

    heading: str
    """What it is, e.g. "malicious prompt, unsteered" (untrusted)."""
    tokens: tuple[StripToken, ...]
    """In the order of the sequence."""
    note: str = ""
    """Beneath the heading: scores, or why there are no tints (untrusted)."""
    n_left_out: int = 0
    """Tokens of the response that are not drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStrips:
    """Strips that are compared, on one scale of tints and moves."""

    strips: tuple[TokenStrip, ...]
    """One under the other."""
    hook: str
    """Where the projections are read, e.g. the hook's name."""
    scale: float = field(init=False)
    """|rho - m| of the full tint: the 95th percentile over all strips."""
    largest: float = field(init=False)
    """|rho' - rho| of the highest bar."""

    def __post_init__(self) -> None:
        tokens = [token for strip in self.strips for token in strip.tokens]
        if not tokens:
            raise FigureError(
                "there are no tokens to draw; record a trace with `interp-steer trace`"
            )
        distances = np.abs([token.distance for token in tokens])
        known = distances[np.isfinite(distances)]
        moves = np.array([token.moved for token in tokens if math.isfinite(token.moved)])
        scale = float(np.quantile(known, 0.95)) if known.size else 1.0
        object.__setattr__(self, "scale", scale or 1.0)
        object.__setattr__(self, "largest", float(moves.max(initial=0.0)))

    def step(self, token: StripToken) -> int:
        """Tint of a token, -N_STEPS to N_STEPS; 0 without a projection or on the boundary."""
        if not math.isfinite(token.distance):
            return 0
        size = min(N_STEPS, math.ceil(abs(token.distance) * N_STEPS / self.scale))
        return size if token.distance > 0 else -size

    def table(self) -> pd.DataFrame:
        """One row a drawn token."""
        return pd.DataFrame(
            [
                {
                    "strip": make_visible(strip.heading),
                    "place": place,
                    "token": make_visible(token.text),
                    "segment": token.segment,
                    "distance_to_boundary": token.distance,
                    "moved": token.moved,
                    "fired": token.fired,
                    "capped": token.capped,
                }
                for strip in self.strips
                for place, token in enumerate(strip.tokens)
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A token with its place, in pixels from the top left."""

    token: StripToken
    shown: str
    x: float
    y: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A heading, a note or a segment's name."""

    text: str
    x: float
    y: float
    is_mono: bool = False


class Page:
    """Places strips line by line; afterwards `placed` and `labels` say what stands where."""

    def __init__(self, column: Column) -> None:
        self.font = 0.96 * column.font
        self.width = column.width - 8.0
        self.cell = CELL * self.font
        self.n_cells = int(self.width / self.cell)
        self.column = column
        self.placed: list[Placed] = []
        self.labels: list[Label] = []
        self.y = 0.0

    def add(self, strip: TokenStrip) -> None:
        """Place one strip below what is there: heading, note, then its tokens, wrapped."""
        self._label(f"<b>{as_text(strip.heading)}</b>", strip.heading)
        note = strip.note
        if strip.n_left_out:
            note = f"{note}; {strip.n_left_out} more tokens are not drawn".removeprefix("; ")
        if note:
            self._label(as_text(note), note)
        # Room for the bars of the first line.
        self.y += 0.2 * self.font
        at, segment = self.n_cells, ""
        for token in strip.tokens:
            cells = min(n_cells(make_visible(_trimmed(token.text))), LONGEST_TOKEN) + 1
            # Template tokens follow on the line they close; every other segment opens a line.
            is_new = token.segment != segment and (token.segment != "template" or not segment)
            if at + cells > self.n_cells or is_new:
                at = GUTTER
                self.y += LINE * self.font
            if is_new:
                segment = token.segment
                name = as_text(token.segment, n_most=GUTTER - 1)
                self.labels.append(Label(text=name, x=0.0, y=self.y - 0.5 * BOX * self.font))
            self._place(token, at=at, cells=cells)
            at += cells
        self.y += 1.2 * self.font

    def _place(self, token: StripToken, *, at: int, cells: int) -> None:
        self.placed.append(
            Placed(
                token=token,
                shown=as_text(_trimmed(token.text), n_most=LONGEST_TOKEN),
                x=at * self.cell,
                y=self.y,
                width=(cells - 0.15) * self.cell,
            )
        )

    def _label(self, text: str, plain: str) -> None:
        rows = math.ceil(len(plain) / self.column.n_characters(self.width))
        if rows > 1:
            text = wrapped(text, self.column.n_characters(self.width))
        height = 1.4 * self.column.font * rows
        self.labels.append(Label(text=text, x=0.0, y=self.y + 0.5 * height))
        self.y += height


def _trimmed(text: str) -> str:
    """A leading space is the gap between boxes; anything else is shown."""
    return text[1:] if len(text) > 1 and text[0] == " " else text
