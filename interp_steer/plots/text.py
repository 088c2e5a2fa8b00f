"""Text of a model, safe for plotly: what is drawn is the text, never markup.

Plotly reads a small HTML in every text that it draws (<b>, <br>, <a href>), and entities. Token
strings, scenario ids and trait names are untrusted; they pass through here on their way into any
figure. MathJax is never loaded, so dollars mean nothing.
"""

import unicodedata

from interp_steer.trace_blocks import make_visible

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def as_text(text: str, *, n_most: int | None = None) -> str:
    """Return `text` as plotly draws it literally: spelled out and escaped.

    Newlines, control and other invisible characters are spelled out as in `make_visible`; the
    empty string becomes ∅.

    Args:
        text: untrusted.
        n_most: cut to so many cells, with an ellipsis.
    """
    shown = make_visible(text)
    if n_most is not None and n_cells(shown) > n_most:
        shown = _cut(shown, n_most - 1) + "…"
    return "".join(_ENTITIES.get(character, character) for character in shown)


def n_cells(text: str) -> int:
    """Width of `text` in cells of a monospaced typeface: wide characters 2, combining ones 0."""
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _cut(text: str, n_most: int) -> str:
    kept, width = "", 0
    for character in text:
        width += _cells(character)
        if width > n_most:
            break
        kept += character
    return kept
