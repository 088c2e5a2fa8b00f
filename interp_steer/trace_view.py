"""Show a trace where people read text: in a terminal, and as one small HTML file.

Tokens are tinted by their projection, diverging about the decision boundary (blue above, orange
below, colour-blind safe), and never by colour alone: ⟦fired⟧ and ⟪capped⟫ tokens stand in brackets
in both views, and the farthest moved tokens are listed with their numbers. What is drawn is decided
in `trace_blocks`. The HTML page has no script and fetches nothing; its hover titles hold the trace
rows. Tokens are untrusted text: no escape sequence reaches a terminal, all text is escaped in HTML.
"""

import html
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from interp_steer.trace_blocks import MARKS, N_STEPS, Block, ShownToken, make_visible, trace_blocks

# xterm-256 backgrounds from faint to full; text on them is black.
_ANSI_ABOVE = (195, 153, 111, 75)
_ANSI_BELOW = (230, 223, 216, 208)
_RESET = "\x1b[0m"
_LABEL_WIDTH = 9

_CSS_ABOVE = ("#e3eef9", "#c0d9ef", "#92bfe3", "#5aa0d3")
_CSS_BELOW = ("#fdeedd", "#fbd5ae", "#f6b477", "#ec8f3e")
_PAGE_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.7 system-ui, sans-serif; color: #111; background: #fff;
  max-width: 62rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; }
"""
_TOKEN_CSS = """
h2 { font-size: 1rem; margin: 2rem 0 0; }
p { margin: .2rem 0; } .n { color: #555; font-size: .85rem; }
.r { display: flex; gap: .8rem; } .r > b { flex: 0 0 5rem; text-align: right; color: #555;
  font-weight: normal; font-size: .8rem; line-height: 2; }
.t { font-family: ui-monospace, monospace; font-size: .88rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.t span { border-bottom: 2px solid transparent; }
.t .f { border-bottom: 2px solid #000; } .t .c { border-bottom: 4px double #000; }
ol { font-family: ui-monospace, monospace; font-size: .8rem; margin: .3rem 0; }
""" + "\n".join(
    f".{sign}{step} {{ background: {colors[step - 1]}; }}"
    for sign, colors in (("p", _CSS_ABOVE), ("m", _CSS_BELOW))
    for step in range(1, N_STEPS + 1)
)
# In a notebook's cell the same rules, nested so that they touch nothing else of the page.
_CELL_CSS = f""".interp-steer-trace {{ color: #111; background: #fff; padding: .6rem;
{_TOKEN_CSS}
}}"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceView:
    """A trace that shows itself: tinted tokens in a notebook's cell, text elsewhere."""

    table: pa.Table
    """A trace table."""
    n_shown: int = 8
    """Samples and layers to show, from the first; the rest is counted."""

    def __repr__(self) -> str:
        return render_terminal(self.table, color=False)

    def _repr_html_(self) -> str:
        blocks = trace_blocks(self.table)
        left = len(blocks) - self.n_shown
        more = f'<p class="n">and {left} more, of other samples or layers</p>' if left > 0 else ""
        shown = "\n".join(map(_html_block, blocks[: self.n_shown]))
        return (
            f'<div class="interp-steer-trace"><style>{_CELL_CSS}</style>\n'
            f"{_html_legend()}\n{shown}\n{more}</div>"
        )


def wants_color(
    environ: Mapping[str, str] | None = None, *, is_terminal: bool | None = None
) -> bool:
    """Return whether to colour: the output is a terminal and NO_COLOR is unset or empty.

    Args:
        environ: the process environment by default.
        is_terminal: asks standard output by default.
    """
    variables = os.environ if environ is None else environ
    if variables.get("NO_COLOR") or variables.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty() if is_terminal is None else is_terminal


def render_terminal(table: pa.Table, *, color: bool | None = None) -> str:
    """Return the trace as text for a terminal, one block per sample and layer.

    Args:
        table: a trace table.
        color: True or False to decide; None asks `wants_color` (a terminal, and no NO_COLOR).

    Raises:
        SteeringError: for a table without rows or without the columns of a trace.
    """
    colored = wants_color() if color is None else color
    blocks = [_terminal_block(block, colored) for block in trace_blocks(table)]
    return "\n\n".join([_terminal_legend(colored), *blocks]) + "\n"


def _terminal_legend(colored: bool) -> str:
    """Return what marks and tints mean."""
    fired, capped = ("".join((MARKS[m][0], m, MARKS[m][1])) for m in ("fired", "capped"))
    legend = f"{fired} the gate let the method act   {capped} and the cap shortened the move"
    if not colored:
        return legend
    below = "".join(_paint(" ", -step, True) for step in range(N_STEPS, 0, -1))
    above = "".join(_paint(" ", step, True) for step in range(1, N_STEPS + 1))
    return f"{legend}\nprojection before the edit: below m {below}{above} above m"


def _terminal_block(block: Block, colored: bool) -> str:
    """Return one sample at one layer."""
    lines = [block.heading, f"  {block.numbers}", f"  {block.summary}"]
    for segment, tokens in block.runs():
        lines.extend(_terminal_lines(segment, tokens, colored))
    if block.largest:
        lines.append("  moved farthest:")
        lines.extend(f"    {line}" for line in block.largest)
    return "\n".join(lines)


def _terminal_lines(segment: str, tokens: tuple[ShownToken, ...], colored: bool) -> Iterator[str]:
    """Yield the lines of a run of tokens; a token with a newline ends its line."""
    line, label = "", segment
    for token in tokens:
        before, after = MARKS[token.mark]
        line += _paint(before + token.text + after, token.step, colored)
        if token.ends_line:
            yield f"{label:>{_LABEL_WIDTH}} │{line}"
            line, label = "", ""
    if line:
        yield f"{label:>{_LABEL_WIDTH}} │{line}"


def _paint(text: str, step: int, colored: bool) -> str:
    """Return `text` on the background of a tint."""
    if not colored or not step:
        return text
    background = (_ANSI_ABOVE if step > 0 else _ANSI_BELOW)[abs(step) - 1]
    return f"\x1b[38;5;16;48;5;{background}m{text}{_RESET}"


def render_html(table: pa.Table, title: str) -> str:
    """Return the trace as one self-contained HTML page (UTF-8, no script, nothing fetched).

    Args:
        table: a trace table.
        title: heading of the page; untrusted text is fine.

    Raises:
        SteeringError: for a table without rows or without the columns of a trace.
    """
    name = html.escape(make_visible(title))
    body = "\n".join(_html_block(block) for block in trace_blocks(table))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{_PAGE_CSS}{_TOKEN_CSS}</style>
</head>
<body>
<h1>{name}</h1>
{_html_legend()}
{body}
</body>
</html>
"""


def _html_legend() -> str:
    """Return what marks and tints mean."""
    below = "".join(f'<span class="m{step}"> </span>' for step in range(N_STEPS, 0, -1))
    above = "".join(f'<span class="p{step}"> </span>' for step in range(1, N_STEPS + 1))
    return (
        f'<p class="t"><span class="f">⟦fired⟧</span> the gate let the method act &nbsp; '
        f'<span class="c">⟪capped⟫</span> and the cap shortened the move</p>\n'
        f'<p class="t">projection before the edit: below m {below}{above} above m; '
        "hover over a token for its numbers</p>"
    )


def _html_block(block: Block) -> str:
    """Return one sample at one layer."""
    runs = "\n".join(
        f'<div class="r"><b>{html.escape(segment)}</b><div class="t">'
        + "".join(map(_html_token, tokens))
        + "</div></div>"
        for segment, tokens in block.runs()
    )
    largest = "".join(f"<li>{html.escape(line)}</li>" for line in block.largest)
    moved = f'<p class="n">moved farthest:</p><ol>{largest}</ol>' if largest else ""
    return (
        f"<section>\n<h2>{html.escape(block.heading)}</h2>\n"
        f'<p class="n">{html.escape(block.numbers)}</p>\n'
        f'<p class="n">{html.escape(block.summary)}</p>\n{runs}\n{moved}\n</section>'
    )


def _html_token(token: ShownToken) -> str:
    """Return one token as a span; its hover title is its trace row."""
    tint = f"{'p' if token.step > 0 else 'm'}{abs(token.step)}" if token.step else ""
    classes = " ".join(filter(None, (tint, {"fired": "f", "capped": "c"}.get(token.mark, ""))))
    before, after = MARKS[token.mark]
    text = html.escape(before + token.text + after)
    attribute = f' class="{classes}"' if classes else ""
    span = f'<span{attribute} title="{html.escape(token.detail)}">{text}</span>'
    return span + ("<br>" if token.ends_line else "")
