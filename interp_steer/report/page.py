"""The page itself: data, plotly.js and the report's own script and style in one HTML file.

The text of a model is hostile. It is embedded as JSON in a data block, in which no character that
HTML could read is left, and the page's script writes it as text, never as markup. A content
security policy lets exactly the two scripts and the one style sheet of the page run, by hash, and
nothing be fetched.
"""

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from interp_steer.errors import InterpSteerError
from interp_steer.plots.plotly_bundle import plotly_js
from interp_steer.report.run_parts import open_runs, report_data
from interp_steer.runs import atomic_write_bytes

SCRIPTS = (
    "laws.js",
    "selection.js",
    "charts.js",
    "readability_chart.js",
    "sweep_chart.js",
    "layers_view.js",
    "projection_sets.js",
    "boundary_charts.js",
    "boundary_view.js",
    "token_strip.js",
    "trace_table.js",
    "tokens_view.js",
    "report.js",
)
"""The report's script, in the order in which its files are put together."""
PLOTLY_STYLE = ""
"""Plotly makes one empty style element and fills it through the CSSOM, which no policy forbids."""
_MAP_STYLE = re.compile(r'if\(!document\.getElementById\("([0-9a-f]{64})"\)\)')
"""Where plotly.js adds the style sheet of its maps unless an element of that name is there. No
chart of the page is a map, and the policy would refuse the sheet: an empty element stands in."""


class ReportError(InterpSteerError):
    """A report that cannot be written as asked."""


def write_report(path: Path, out: Path) -> Path:
    """Write the report of the run at `path`, or of the runs in it, to `out`, all or nothing.

    Returns:
        `out`.

    Raises:
        ReportError: `out` has another suffix than .html.
        RunError: no run there, or the file cannot be written.
    """
    if out.suffix != ".html":
        raise ReportError(f"expected an output file with suffix .html, got {out.name!r}")
    page = page_html(report_data(open_runs(path)))
    atomic_write_bytes(out, page.encode("utf-8"))
    return out


def page_html(data: dict[str, Any]) -> str:
    """The whole page for `data` of `report_data`."""
    style, plotly = _file("report.css"), plotly_js()
    script = "\n".join(["'use strict';", *map(_file, SCRIPTS)])
    names = ", ".join(run["name"] for run in data["runs"])
    return Template(_file("report.html")).substitute(
        policy=html.escape(policy(scripts=(plotly, script), styles=(style, PLOTLY_STYLE))),
        title=html.escape(f"{names}: interp_steer report"),
        style=style,
        placeholders="".join(f'<style id="{name}"></style>' for name in _MAP_STYLE.findall(plotly)),
        data=embedded_json(data),
        plotly=plotly,
        script=script,
    )


def policy(*, scripts: tuple[str, ...], styles: tuple[str, ...]) -> str:
    """The content security policy: these scripts and styles, inline images, nothing else.

    Style attributes stay allowed: plotly sets some on the text of its axes.
    """
    return "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(map(_hash, scripts)),
            "style-src-elem " + " ".join(map(_hash, styles)),
            "style-src-attr 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def embedded_json(value: Any) -> str:
    """`value` as JSON in ASCII that an HTML parser reads nothing into, whatever its strings hold.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _file(name: str) -> str:
    return (files("interp_steer.report") / name).read_text(encoding="utf-8")
