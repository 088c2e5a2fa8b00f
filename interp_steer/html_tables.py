"""Small HTML tables, for values that show themselves in a notebook.

Names of models, scenarios and tokens are untrusted text: whatever stands in a cell, heading or note
is escaped here, once, so that no caller can forget to. Nothing is styled beyond alignment; a
notebook's own theme does the rest.
"""

import html
import math
from collections.abc import Sequence

DASH = "–"
"""What stands where a number is not defined or was not measured."""


def fixed(value: float, digits: int) -> str:
    """A number with so many decimals; a dash where it is not finite.

    Examples:
        >>> fixed(0.126, 2), fixed(-0.001, 1), fixed(float("nan"), 2)
        ('0.13', '0.0', '–')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}" if math.isfinite(value) else DASH


def html_table(
    caption: str,
    *,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    note: str = "",
    n_text: int = 1,
) -> str:
    """Return a table with a caption above and a note below it; all text is escaped.

    Args:
        caption: what is shown.
        columns: headings.
        rows: cells in the order of `columns`.
        note: what a reader has to know beside the numbers; nothing by default.
        n_text: leading columns that hold words and are set to the left; numbers to the right.

    Examples:
        >>> html_table("a < b", columns=["layer"], rows=[["<b>4</b>"]], n_text=0)[:57]
        '<div><div><strong>a &lt; b</strong></div><table><thead><t'
    """

    def cells(tag: str, texts: Sequence[str]) -> str:
        return "".join(
            f'<{tag} style="text-align: {"left" if place < n_text else "right"}">'
            f"{html.escape(text)}</{tag}>"
            for place, text in enumerate(texts)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    below = f"<div><small>{html.escape(note)}</small></div>" if note else ""
    return (
        f"<div><div><strong>{html.escape(caption)}</strong></div>"
        f"<table><thead><tr>{cells('th', columns)}</tr></thead><tbody>{body}</tbody></table>"
        f"{below}</div>"
    )
