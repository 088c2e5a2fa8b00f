"""What values show of themselves in a notebook: their numbers, and no markup but their own."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from interp_steer.cells import control_cells
from interp_steer.html_tables import html_table
from interp_steer.operating_points import Plan
from interp_steer.probes import ProbeSet, fit_probes
from interp_steer.progress import is_notebook
from interp_steer.reporting import Report, report
from interp_steer.trace_view import TraceView, render_terminal
from selection_cases import BASE, cell, rows
from test_reporting import SPLIT
from test_trace_view import HOSTILE, RAW, hostile_table, row_of, table_of

SCRIPT = "<script>alert(1)</script>"
ALLOWED = {"div", "strong", "small", "table", "thead", "tbody", "tr", "th", "td"}


class Fragment(HTMLParser):
    """Tags and attributes of a fragment, and the text of its table's cells by row."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.rows: list[list[str]] = []
        self.text = ""
        self.is_cell = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.is_cell = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self.is_cell = self.is_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.is_cell:
            self.rows[-1][-1] += data


def shown(value: Any) -> Fragment:
    return Fragment(value._repr_html_())


def probes(**provenance: str) -> ProbeSet:
    noise = torch.randn(12, 2, 4, generator=torch.Generator().manual_seed(0))
    apart = torch.zeros(2, 4)
    apart[1, 0] = 5.0
    ids = [str(i) for i in range(6)]
    return fit_probes(
        noise[:6] + apart,
        noise[6:],
        layers=[3, 7],
        scenario_ids=(ids, ids),
        provenance=provenance,
    )


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_table_escapes_whatever_it_is_given(text: str):
    page = Fragment(html_table(text, columns=[text], rows=[[text]], note=text))
    assert page.tags <= ALLOWED
    assert page.attributes == {"style"}
    assert page.rows == [[text], [text]]


def test_probes_show_each_layer_cross_fitted_first():
    found = probes(model=SCRIPT)
    page = shown(found)
    assert page.tags <= ALLOWED
    assert SCRIPT in page.text
    heads, *lines = page.rows
    assert [line[0] for line in lines] == ["3", "7"]
    probe = found.probe(7)
    line = dict(zip(heads, lines[1], strict=True))
    assert line["Cohen's d"] == f"{probe.crossfit.cohens_d:.2f}"
    assert line["d in-sample"] == f"{probe.in_sample.cohens_d:.2f}"
    assert line["m"] == f"{probe.boundary:.2f}"
    assert line["converged"] == "yes"
    assert "not thereby a steerable one" in page.text


def small_report() -> Report:
    point = cell(2, alpha=6.0)
    controls = dict.fromkeys(control_cells([point], n_draws=1), (30.0, 90.0))
    table = rows({**BASE, point: (80.0, 95.0), **controls})
    return report(table, Plan(split=SPLIT, control_draws=1, n_resamples=50))


def test_a_report_shows_baselines_points_and_their_controls():
    found = small_report()
    page = shown(found)
    assert page.tags <= ALLOWED
    names = [line[0] for line in page.rows]
    assert names[1:4] == [
        "aligned prompt, unsteered",
        "malicious_prompt, unsteered",
        "sttp, scope all, malicious_prompt",
    ]
    assert sum(name.startswith("control: ") for name in names) == len(found.controls) == 2
    point = page.rows[3]
    measured = found.points[0].reported
    assert point[1:3] == ["2", "6"]
    assert point[3].startswith(f"{measured.trait.value:.0f} [")
    assert point[5].startswith(f"{100 * measured.recovered.value:.0f} % [")
    assert page.rows[1][5] == ""
    assert shown(found.points[0]).rows[1] == point


def test_a_point_without_enough_coherence_carries_a_star():
    point = small_report().points[0]
    starred = replace(point, choice=replace(point.choice, keeps_coherence=False))
    assert shown(starred).rows[1][0].endswith(" *")


@pytest.mark.parametrize("token", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_trace_shows_hostile_tokens_as_text(token: str):
    names = {"sample": token or "s", "scenario": token or "s"}
    table = [row_of(0, token, 0.0, 5.0, **names), row_of(1, "next", 3.0, 3.0, **names)]
    source = TraceView(table=hostile_table(table))._repr_html_()
    page = Fragment(source)
    assert page.tags <= {*"div style p span section h2 b ol li br".split()}
    assert page.attributes <= {"class", "title"}
    assert not RAW.search(source)
    assert "next" in page.text


def test_a_trace_is_text_where_there_is_no_notebook():
    table = table_of([row_of(0, "a", 0.0, 5.0)])
    assert repr(TraceView(table=table)) == render_terminal(table, color=False)


def test_a_long_trace_says_what_it_leaves_out():
    table = [row_of(0, "a", 0.0, 5.0, sample=f"s{i}") for i in range(5)]
    source = TraceView(table=table_of(table), n_shown=2)._repr_html_()
    assert source.count("<section>") == 2
    assert "and 3 more" in source
    assert "more, of other" not in TraceView(table=table_of(table))._repr_html_()


def test_the_style_of_a_trace_touches_nothing_else_in_the_notebook():
    source = TraceView(table=table_of([row_of(0, "a", 0.0, 5.0)]))._repr_html_()
    (style,) = re.findall(r"<style>(.*?)</style>", source, re.S)
    assert style.startswith(".interp-steer-trace {")
    depth = 0
    for character in style[:-1]:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 1  # the last brace closes the first: every rule is inside
    assert "body" not in style
    assert ":root" not in style


def test_a_test_run_is_no_notebook():
    assert not is_notebook()
