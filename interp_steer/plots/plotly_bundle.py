"""The plotly.js that pages of this library load: a build of a third of the usual size.

A page is not seen before its browser has read plotly.js, and the full build is mostly maps and
three-dimensional traces, of which this library draws none.
"""

import re
from functools import cache
from importlib.resources import files

from plotly.offline import get_plotlyjs, get_plotlyjs_version

TRACE_TYPES = frozenset({"bar", "box", "contour", "heatmap", "histogram", "scatter"})
"""Types of traces that the small build draws and the builders may use."""


def plotly_js() -> str:
    """The script: the small build, or plotly.py's own where that is of another major version.

    Figures are written for the plotly.js that the installed plotly.py knows; between major versions
    names of attributes change.
    """
    small = _small_build()
    return small if _major(_version(small)) == _major(get_plotlyjs_version()) else get_plotlyjs()


@cache
def _small_build() -> str:
    script = files("interp_steer.plots") / "plotly_js" / "plotly-cartesian.min.js"
    return script.read_text(encoding="utf-8")


def _version(script: str) -> str:
    """Version that the script's own first lines name."""
    found = re.search(r"plotly\.js\b.*\bv([0-9.]+)", script[:300])
    return "" if found is None else found[1]


def _major(version: str) -> str:
    return version.partition(".")[0]
