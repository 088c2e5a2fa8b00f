"""What a view of a trace shows, as values: blocks, runs of one segment, tinted and marked tokens.

Why apart: the terminal and the HTML page must tell the same story; both draw what is decided here.
One block is one sample at one layer. A token's tint says on which side of the decision boundary m
its residual arrived (`step` > 0: above m, the aligned side), in `N_STEPS` steps up to the block's
95th percentile of |rho - m|, larger values clipped; a projection that is not finite has no tint.
A tint says where a residual lies on one direction, not that the model uses that direction.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from interp_steer.errors import SteeringError
from interp_steer.traces import TRACE_SCHEMA

N_STEPS = 4
MARKS = {"fired": ("⟦", "⟧"), "capped": ("⟪", "⟫"), "none": ("", "")}
"""What stands around a token that fired, or fired and hit the cap."""

Mark = Literal["fired", "capped", "none"]

_SPELLED = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_KEPT_INSIDE = "\u200c\u200d"  # joiners, which scripts and emoji need between visible characters
_DOTTED_CIRCLE = "\u25cc"
_INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownToken:
    """One token, ready to draw."""

    text: str
    """Visible text, safe for a terminal; still to be escaped for HTML."""
    ends_line: bool
    """The token contains a newline."""
    step: int
    """Tint, -N_STEPS to N_STEPS; 0 for none."""
    mark: Mark
    """Whether it fired, and hit the cap."""
    segment: str
    """Segment name."""
    detail: str
    """Its trace row in one line; safe for a terminal, still to be escaped for HTML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One sample at one layer."""

    heading: str
    """Sample, scenario, side, layer and method."""
    numbers: str
    """Boundary, threshold, target, cap and the scale of the tint."""
    summary: str
    """How many tokens fired, where, and how far they moved."""
    tokens: tuple[ShownToken, ...]
    """In the order of the sequence."""
    largest: tuple[str, ...]
    """The tokens moved farthest, one line each."""

    def runs(self) -> Iterator[tuple[str, tuple[ShownToken, ...]]]:
        """Yield stretches of one segment: its name and tokens."""
        for segment, tokens in groupby(self.tokens, key=lambda token: token.segment):
            yield segment, tuple(tokens)


@lru_cache(maxsize=8192)
def make_visible(text: str) -> str:
    r"""Return `text` with everything spelled out that a terminal or reader would not see as text.

    Newline, tab and return become arrows; control, bidirectional, surrogate, unassigned and other
    invisible characters and the brackets of `MARKS` become \xNN, \uNNNN or \UNNNNNNNN; a leading
    combining mark gets a dotted circle to stand on; the empty string is shown as ∅.

    Examples:
        >>> print(make_visible("a\nb \x1b[31m"))
        a↵b \x1b[31m
    """
    if not text:
        return "∅"
    keep_joiners = bool(text.strip(_KEPT_INSIDE))
    shown = "".join(_spell(c, keep_joiners=keep_joiners) for c in text)
    return _DOTTED_CIRCLE + shown if unicodedata.category(text[0]).startswith("M") else shown


def _spell(character: str, *, keep_joiners: bool) -> str:
    """Return one character, spelled out if it is no visible text."""
    if character in _SPELLED:
        return _SPELLED[character]
    if character in _KEPT_INSIDE and keep_joiners:
        return character
    is_mark = any(character in pair for pair in MARKS.values())
    if not is_mark and unicodedata.category(character) not in _INVISIBLE:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def trace_blocks(table: pa.Table, *, n_largest: int = 5) -> list[Block]:
    """Return one block per sample, turn and layer, in the order of their first rows.

    Args:
        table: a trace table.
        n_largest: how many of the farthest moved tokens are listed per block.

    Raises:
        SteeringError: for a table without rows or without a column of `TRACE_SCHEMA`.
    """
    missing = [name for name in TRACE_SCHEMA.names if name not in table.column_names]
    if missing:
        raise SteeringError(f"expected a trace table; it lacks the columns {', '.join(missing)}")
    if not table.num_rows:
        raise SteeringError(
            "the trace has no rows: no sequence was steered while it was recorded; pass the "
            "recorder to steer()"
        )
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault((row["sample"], row["turn"], row["layer"]), []).append(row)
    return [_block(rows, n_largest) for rows in groups.values()]


def _block(rows: list[dict[str, Any]], n_largest: int) -> Block:
    """Return the block of the rows of one sample at one layer."""
    first = rows[0]
    scale = _scale(rows)
    turn = f", turn {first['turn']}" if first["turn"] else ""
    fired = sorted((r for r in rows if r["fired"]), key=lambda r: -r["delta_norm"])
    limits = [
        f"{name} {first[column]:.3g}"
        for name, column in (("threshold", "threshold"), ("target", "target"), ("cap", "cap"))
        if first[column] is not None
    ]
    return Block(
        heading=(
            f"{make_visible(first['sample'])} · scenario {make_visible(first['scenario'])} · "
            f"{make_visible(first['side'])}{turn} · layer {first['layer']} · {first['method']} "
            f"{first['direction']}, alpha {first['alpha']:g}, scope {first['scope']}"
        ),
        numbers=", ".join([f"boundary m {first['boundary']:.3g}", *limits, f"tint ±{scale:.3g}"]),
        summary=_summary(rows, fired),
        tokens=tuple(_token(row, scale) for row in rows),
        largest=tuple(_detail(row) for row in fired[:n_largest] if row["delta_norm"] > 0),
    )


def _scale(rows: list[dict[str, Any]]) -> float:
    """Return the 95th percentile of |rho - m|, the distance with the full tint; 1 if it is 0."""
    distances = np.array([abs(r["projection_before"] - r["boundary"]) for r in rows])
    finite = distances[np.isfinite(distances)]
    return float(np.quantile(finite, 0.95)) or 1.0 if finite.size else 1.0


def _summary(rows: list[dict[str, Any]], fired: list[dict[str, Any]]) -> str:
    """Return counts by segment and the mean move of fired tokens."""
    in_scope = Counter(r["segment"] for r in rows if r["in_scope"])
    hit = Counter(r["segment"] for r in fired)
    places = ", ".join(f"{name} {hit[name]}/{n}" for name, n in in_scope.items())
    text = f"fired {len(fired)} of {in_scope.total()} tokens in scope"
    text += f" ({places})" if places else ""
    text += f", capped {sum(r['capped'] for r in rows)}"
    if fired:
        moves = [abs(r["projection_after"] - r["projection_before"]) for r in fired]
        text += f"; mean |rho' - rho| where fired {np.mean(moves):.3g}"
    return text


def _token(row: Mapping[str, Any], scale: float) -> ShownToken:
    """Return one token, ready to draw."""
    distance = (row["projection_before"] - row["boundary"]) / scale
    size = min(N_STEPS, math.ceil(abs(distance) * N_STEPS)) if math.isfinite(distance) else 0
    mark: Mark = "capped" if row["capped"] else "fired" if row["fired"] else "none"
    return ShownToken(
        text=make_visible(row["token"]),
        ends_line="\n" in row["token"],
        step=size if distance > 0 else -size,
        mark=mark,
        segment=make_visible(row["segment"]),
        detail=_detail(row),
    )


def _detail(row: Mapping[str, Any]) -> str:
    """Return a trace row in one line."""
    parts = [
        f"pos {row['pos']} '{make_visible(row['token'])}' (id {row['token_id']}, "
        f"{make_visible(row['segment'])})",
        f"rho {row['projection_before']:+.3g} -> {row['projection_after']:+.3g}",
        "capped" if row["capped"] else "fired" if row["fired"] else "not fired",
        "in scope" if row["in_scope"] else "out of scope",
        f"|dh| {row['delta_norm']:.3g} ({row['relative_norm']:.1%} of |h|)",
    ]
    if row["logprob"] is not None:
        parts.append(f"logprob {row['logprob']:.3g}")
    return " · ".join(parts)
