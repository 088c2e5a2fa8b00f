"""Answers of several configurations to one scenario, word against word.

Every configuration of a sweep meets a scenario with the same random numbers, so that two answers
differ by the configuration alone. What is marked is how a text differs from the first one; a
difference of words is none of meaning.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from interp_steer.trace_blocks import make_visible

_PIECES = re.compile(r"\s*\S+|\s+$")

Change = Literal["same", "added", "removed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a text."""

    text: str
    """Its words, with the space before them (untrusted)."""
    change: Change
    """Whether the first text has it too; removed: only the first text has it."""


def differences(first: str, other: str) -> list[Piece]:
    """`other` in pieces, with what of `first` it lacks in the places where that was.

    The pieces that are not "removed" together are `other`, those that are not "added" are `first`.
    """
    left, right = _PIECES.findall(first), _PIECES.findall(other)
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    found: list[Piece] = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            found.append(Piece(text="".join(right[c:d]), change="same"))
            continue
        if b > a:
            found.append(Piece(text="".join(left[a:b]), change="removed"))
        if d > c:
            found.append(Piece(text="".join(right[c:d]), change="added"))
    return found


def share_changed(pieces: Sequence[Piece]) -> float:
    """Share of the other text's words that the first text does not have there."""
    n = dict.fromkeys(("same", "added", "removed"), 0)
    for piece in pieces:
        n[piece.change] += len(piece.text.split())
    total = n["same"] + n["added"]
    return n["added"] / total if total else 0.0


def visible_lines(text: str) -> str:
    """`text` with its lines kept and whatever is invisible in them spelled out."""
    return "\n".join(make_visible(line) if line else "" for line in text.split("\n"))
