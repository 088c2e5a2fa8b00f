"""Views of a trace: what is shown, that it is readable without colour, and hostile tokens."""

import re
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_steer.errors import SteeringError
from interp_steer.trace_blocks import N_STEPS, make_visible, trace_blocks
from interp_steer.trace_view import render_html, render_terminal, wants_color
from interp_steer.traces import TRACE_SCHEMA

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": "\" onmouseover='alert(1)",
    "single quote": "' x='",
    "entity": "&lt;b&gt;&amp;",
    "newline": "a\nb\r\n",
    "tab": "\t",
    "ansi": "\x1b[31mred\x1b[0m",
    "osc": "\x1b]0;title\x07",
    "c1": "\x9b31m",
    "backspace": "safe\x08\x08\x08\x08evil",
    "nul": "\x00",
    "bidi": "\u202etxt.exe\u2066",
    "zero width": "\u200b\ufeff",
    "line separator": "\u2028\u2029",
    "surrogate": "\ud800",
    "emoji": "👩‍🔬🏳️‍🌈",
    "combining": "\u0301\u0323",
    "brackets": "⟦x⟧⟪y⟫",
    "empty": "",
    "comment": "<!-- --></style></title>",
}
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")
PAINT = re.compile(r"\x1b\[(?:38;5;16;48;5;\d+|0)m")


def row_of(pos: int, token: str, before: float, after: float, **changes: Any) -> dict[str, Any]:
    """A trace row; it fired if the projection moved."""
    row: dict[str, Any] = {
        "sample": "honesty-3",
        "scenario": "h3",
        "side": "malicious",
        "turn": 0,
        "pos": pos,
        "token_id": 100 + pos,
        "token": token,
        "segment": "response" if pos > 2 else "user",
        "layer": 4,
        "method": "sttp",
        "direction": "aligned",
        "scope": "all",
        "alpha": 6.0,
        "in_scope": True,
        "projection_before": before,
        "projection_after": after,
        "boundary": 1.0,
        "threshold": 1.0,
        "target": 5.0,
        "cap": None,
        "fired": before != after,
        "capped": False,
        "delta_norm": abs(after - before),
        "relative_norm": abs(after - before) / 20,
        "logprob": -0.5 if pos > 2 else None,
    }
    return row | changes


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TRACE_SCHEMA)


TABLE = table_of(
    [
        row_of(0, "Is", 3.0, 3.0),
        row_of(1, " it", 1.0, 1.0, in_scope=False),
        row_of(2, " true", 0.5, 5.0),
        row_of(3, " No", -3.0, 4.0, capped=True),
        row_of(4, ",", 1.5, 1.5),
        row_of(5, " never", -1.0, 5.0),
        row_of(0, "Is", 9.0, 9.0, layer=5),
    ]
)


class Page(HTMLParser):
    """Text, tags and titles of a page, as a browser would read them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.titles: list[str] = []
        self.classes: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.attributes.update(values)
        if tag == "span" and "title" in values:
            self.titles.append(values["title"] or "")
            self.classes.append(values.get("class") or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_terminal_without_colour_shows_text_marks_and_numbers() -> None:
    text = render_terminal(TABLE, color=False)
    assert text == (
        "⟦fired⟧ the gate let the method act   ⟪capped⟫ and the cap shortened the move\n"
        "\n"
        "honesty-3 · scenario h3 · malicious · layer 4 · sttp aligned, alpha 6, scope all\n"
        "  boundary m 1, threshold 1, target 5, tint ±3.5\n"
        "  fired 3 of 5 tokens in scope (user 1/2, response 2/3), capped 1; "
        "mean |rho' - rho| where fired 5.83\n"
        "     user │Is it⟦ true⟧\n"
        " response │⟪ No⟫,⟦ never⟧\n"
        "  moved farthest:\n"
        "    pos 3 ' No' (id 103, response) · rho -3 -> +4 · capped · in scope · "
        "|dh| 7 (35.0% of |h|) · logprob -0.5\n"
        "    pos 5 ' never' (id 105, response) · rho -1 -> +5 · fired · in scope · "
        "|dh| 6 (30.0% of |h|) · logprob -0.5\n"
        "    pos 2 ' true' (id 102, user) · rho +0.5 -> +5 · fired · in scope · "
        "|dh| 4.5 (22.5% of |h|)\n"
        "\n"
        "honesty-3 · scenario h3 · malicious · layer 5 · sttp aligned, alpha 6, scope all\n"
        "  boundary m 1, threshold 1, target 5, tint ±8\n"
        "  fired 0 of 1 tokens in scope (user 0/1), capped 0\n"
        "     user │Is\n"
    )


def test_colour_adds_a_tint_and_nothing_else() -> None:
    plain, colored = (render_terminal(TABLE, color=color) for color in (False, True))
    body = colored.split("\n\n", 1)[1]
    assert PAINT.sub("", body) == plain.split("\n\n", 1)[1]
    assert "\x1b[38;5;16;48;5;208m⟪ No⟫\x1b[0m" in body  # far below: full orange
    assert "\x1b[38;5;16;48;5;111mIs\x1b[0m" in body  # above: blue
    assert "\x1b[0m it\x1b" in body  # on the boundary: no tint
    assert "projection before the edit: below m" in colored


def test_the_tint_diverges_about_the_boundary() -> None:
    tokens = trace_blocks(TABLE)[0].tokens
    assert [t.step for t in tokens] == [3, 0, -1, -N_STEPS, 1, -3]
    assert [t.mark for t in tokens] == ["none", "none", "fired", "capped", "none", "fired"]
    odd = table_of([row_of(0, "x", float("nan"), 1.0), row_of(1, "y", 1.0, 1.0)])
    assert [t.step for t in trace_blocks(odd)[0].tokens] == [0, 0]


def test_one_block_per_sample_turn_and_layer() -> None:
    rows = [
        row_of(0, "a", 0.0, 5.0, sample=sample, turn=turn, layer=layer)
        for sample in ("s", "t")
        for turn in (0, 1)
        for layer in (2, 3)
    ]
    headings = [block.heading for block in trace_blocks(table_of(rows))]
    assert len(headings) == len(set(headings)) == 8
    assert "turn 1" in headings[-1] and "turn" not in headings[0]


def test_newlines_of_a_text_break_the_line_and_are_seen() -> None:
    rows = [row_of(3, "one\n", 3.0, 3.0), row_of(4, "two", 3.0, 3.0)]
    text = render_terminal(table_of(rows), color=False)
    assert " response │one↵\n          │two\n" in text
    assert "one↵</span><br><span" in render_html(table_of(rows), "t")


@pytest.mark.parametrize("token", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("color", [True, False])
def test_no_control_character_reaches_a_terminal(token: str, color: bool) -> None:
    rows = [row_of(0, token, 0.0, 5.0, sample=token or "s", scenario=token or "s")]
    rows.append(row_of(1, "next", 3.0, 3.0, sample=rows[0]["sample"]))
    text = render_terminal(hostile_table(rows), color=color)
    assert not RAW.search(PAINT.sub("", text))
    assert text.encode("utf-8")
    assert "next" in text
    if not color:
        shown = next(line for line in text.splitlines() if line.startswith("     user │"))
        assert shown.count("⟦") == shown.count("⟧") == 1  # marks cannot be forged
        assert "⟪" not in shown


def hostile_table(rows: list[dict[str, Any]]) -> Any:
    """As `table_of`; Arrow cannot hold a lone surrogate, a caller's own table class might."""
    try:
        return table_of(rows)
    except UnicodeEncodeError:
        for row in rows:
            for name in ("token", "sample", "scenario", "side"):
                row[name] = make_visible(row[name])
        return table_of(rows)


@pytest.mark.parametrize("token", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_tokens_stay_text_in_html(token: str) -> None:
    names = {"sample": token or "s", "scenario": token or "s", "side": token or "s"}
    table = hostile_table([row_of(3, token, 0.0, 5.0, **names)])
    source = render_html(table, make_visible(token))
    page = Page(source)
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "section"}
    assert set(page.tags) <= allowed | {"div", "b", "span", "br", "ol", "li"}
    assert page.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "title"}
    assert not RAW.search(source)
    assert source.encode("utf-8")
    shown = make_visible(token)
    assert f"⟦{shown}⟧" in page.text
    assert f"'{shown}'" in page.titles[0]
    if token == HOSTILE["emoji"]:
        assert shown == token  # joiners inside visible text stay


def test_hostile_titles_stay_text() -> None:
    for title in HOSTILE.values():
        page = Page(render_html(TABLE, title))
        assert "script" not in page.tags
        assert make_visible(title) in page.text


def test_html_is_small_self_contained_and_marked_without_colour() -> None:
    source = render_html(TABLE, "A trace")
    page = Page(source)
    assert not re.search(r"https?:|//|<script|<link|<img|@import|url\(", source.split("<body>")[1])
    assert "script" not in page.tags and "link" not in page.tags
    assert len(source) < 8_000
    assert "⟦ true⟧" in page.text and "⟪ No⟫" in page.text
    assert page.titles[3].startswith("pos 3 ' No' (id 103, response) · rho -3 -> +4 · capped")
    assert page.classes == ["p3", "", "m1 f", "m4 c", "p1", "m3 f", "p4"]
    assert page.tags.count("section") == 2
    many = table_of([row_of(pos, " word", float(pos % 7), 5.0) for pos in range(1000)])
    assert len(render_html(many, "t")) < 300_000


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=6))
def test_visible_text_is_visible(text: str) -> None:
    shown = make_visible(text)
    assert shown
    assert not RAW.search(shown)
    assert "\n" not in shown and "⟦" not in shown
    assert shown.encode("utf-8")
    if text.isascii() and text.isprintable() and text:
        assert shown == text


def test_colour_only_on_a_terminal_and_unless_no_color() -> None:
    assert wants_color({}, is_terminal=True)
    assert wants_color({"NO_COLOR": ""}, is_terminal=True)
    assert not wants_color({"NO_COLOR": "1"}, is_terminal=True)
    assert not wants_color({"TERM": "dumb"}, is_terminal=True)
    assert not wants_color({}, is_terminal=False)


def test_no_color_in_the_environment_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in render_terminal(TABLE)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render_terminal(TABLE)


def test_what_is_no_trace_is_refused() -> None:
    with pytest.raises(SteeringError, match=r"it lacks the columns fired"):
        render_terminal(TABLE.drop_columns(["fired"]), color=False)
    with pytest.raises(SteeringError, match=r"no sequence was steered while it was recorded; pass"):
        render_html(TRACE_SCHEMA.empty_table(), "t")
