"""A page in a real browser: served by a process of its own, opened, timed to its first figure.

Chromium is driven through playwright. Where either is missing nothing is timed, and the reason is
given.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.ratios import BenchmarkError

FIRST_FIGURE = ".js-plotly-plot .trace"
"""What a page must show: a figure with its data."""
PATIENCE_MS = 120_000
"""Milliseconds after which a page is given up."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def missing_browser() -> str | None:
    """Why no page can be opened here; None where one can."""
    if _browser_path() is None:
        return f"none of {', '.join(BROWSERS)} is installed"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None


def _browser_path() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a launched headless browser."""
    from playwright.sync_api import sync_playwright

    flags = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_browser_path(), args=flags)
        try:
            yield browser
        finally:
            browser.close()


def first_paint(browser: Any, command: Sequence[str]) -> float:
    """Seconds from navigation to the first figure of a page, served by a new process.

    Args:
        browser: see `chromium`.
        command: module that serves the page, and its arguments.

    Raises:
        BenchmarkError: no figure appeared.
    """
    from playwright.sync_api import Error

    with serving(command) as url:
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        page = context.new_page()
        started = time.perf_counter()
        try:
            page.goto(url, wait_until="commit", timeout=PATIENCE_MS)
            page.wait_for_selector(FIRST_FIGURE, state="attached", timeout=PATIENCE_MS)
            return time.perf_counter() - started
        except Error as error:
            raise BenchmarkError(f"{' '.join(command)} shows no figure: {error}") from error
        finally:
            context.close()


@contextmanager
def serving(command: Sequence[str]) -> Iterator[str]:
    """Yield the address that a new process says it serves on.

    Raises:
        BenchmarkError: it ends before it serves.
    """
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not (found := re.search(r"http://\S+", line)):
            said = line or server.communicate(timeout=10)[1]  # no line: it has ended
            raise BenchmarkError(f"{' '.join(command)} does not start: {said.strip()}")
        yield found[0]
    finally:
        server.kill()
        server.communicate()
