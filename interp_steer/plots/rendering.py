"""Static pictures: svg, pdf and png through kaleido and a Chrome or Chromium of the system.

One browser process draws all figures of a call: starting it takes seconds, drawing a quarter of
one. It runs without its sandbox, which root and containers do not have; what it opens is plotly.js
and figures of this library, in which every token is escaped text. Nothing is fetched: MathJax,
which kaleido would load from a CDN, is off. Where a part is missing, `missing_renderer` says which
and how to get it; that a picture was written does not say that it was looked at.
"""

import asyncio
import importlib.util
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from interp_steer.files import atomic_write_bytes
from interp_steer.plots.figure_files import FigureError

FORMATS = ("svg", "pdf", "png")
"""What is drawn of every figure."""
PNG_SCALE = 300 / 96
"""Pixels of a png for each CSS pixel: 300 to the inch."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Names under which a browser is looked for on the search path."""
BROWSER_VARIABLE = "BROWSER_PATH"
"""Environment variable that names the browser to use; empty or a missing file means none."""
N_TABS = 2
"""Figures drawn at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One file to draw."""

    figure: go.Figure
    """With width and height in its layout."""
    path: Path
    """Target; its suffix (.svg, .pdf, .png) says the format."""
    scale: float = PNG_SCALE
    """Pixels of a png for each CSS pixel."""


def missing_renderer() -> str | None:
    """One line that says what static export lacks here and how to get it; None where it works."""
    if importlib.util.find_spec("kaleido") is None:
        return "no static pictures: kaleido is missing; `pip install 'interp-steer[figures]'`"
    if find_browser() is None:
        return (
            "no static pictures: no Chrome or Chromium was found; install one (Debian: `apt-get "
            f"install chromium`, anywhere: `kaleido_get_chrome`) or set {BROWSER_VARIABLE} to it"
        )
    return None


def find_browser() -> str | None:
    """Path of the browser: what BROWSER_PATH names, else one of the system, else kaleido's own."""
    named = os.environ.get(BROWSER_VARIABLE)
    if named is not None:
        return shutil.which(named)
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    from choreographer.browsers.chromium import Chromium

    own = Chromium.find_browser(skip_local=False)
    return None if own is None else str(own)


def render(pictures: Sequence[Picture]) -> list[Path]:
    """Draw every picture with one browser and write it, each file whole or not at all.

    Returns:
        The files, in the order of the pictures.

    Raises:
        FigureError: no renderer (`missing_renderer`), an unknown suffix, or a browser that fails.
        RunError: a file cannot be written.
    """
    if (missing := missing_renderer()) is not None:
        raise FigureError(missing)
    for picture in pictures:
        if picture.path.suffix.removeprefix(".") not in FORMATS:
            raise FigureError(
                f"{picture.path.name}: expected one of the suffixes "
                f"{', '.join(f'.{f}' for f in FORMATS)}"
            )
    if not pictures:
        return []
    # A thread of its own: the caller may already run an event loop (a notebook does).
    with ThreadPoolExecutor(max_workers=1) as pool:
        contents = pool.submit(lambda: asyncio.run(_render(pictures))).result()
    for picture, content in zip(pictures, contents, strict=True):
        atomic_write_bytes(picture.path, content)
    return [picture.path for picture in pictures]


async def _render(pictures: Sequence[Picture]) -> list[bytes]:
    """Return the bytes of every picture, drawn in the tabs of one browser."""
    from kaleido import Kaleido
    from kaleido.errors import (
        BrowserClosedError,
        BrowserFailedError,
        ChromeNotFoundError,
        KaleidoError,
    )

    try:
        async with Kaleido(n=N_TABS, path=find_browser(), mathjax=False, timeout=120) as browser:
            tasks = [browser.calc_fig(p.figure, opts=_options(p)) for p in pictures]
            return await asyncio.gather(*tasks)
    except (
        BrowserClosedError,
        BrowserFailedError,
        ChromeNotFoundError,
        KaleidoError,
        TimeoutError,
    ) as error:
        raise FigureError(
            f"{find_browser()} could not draw the figures ({type(error).__name__}: {error}); the "
            f"HTML pages are complete, another browser can be named with {BROWSER_VARIABLE}"
        ) from error


def _options(picture: Picture) -> Any:
    kind = picture.path.suffix.removeprefix(".")
    return {"format": kind, "scale": picture.scale if kind == "png" else 1}
