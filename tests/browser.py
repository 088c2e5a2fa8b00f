"""A real Chromium for tests of pages: found, launched without a network, its complaints collected.

Debian's browser is driven through playwright; without either the tests skip and say why. What a
page logs as an error or a warning, throws, or tries to fetch fails the test that opened it. A test
module asks for the fixtures with `pytest_plugins = ("browser",)`.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000
"""Milliseconds for a launch, a page or an action: cores may be shared."""
ARGUMENTS = ("--disable-gpu", "--disable-background-networking")
LOCAL = ("file://", "data:", "blob:", "about:")


def chromium_path() -> str | None:
    """The browser's executable; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def missing_browser() -> str | None:
    """Why no page can be driven here; None where one can."""
    if chromium_path() is None:
        return f"no browser: none of {', '.join(NAMES)} is installed"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None


@dataclass
class Opened:
    """A page, and what it complained of."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    """Console errors and warnings, uncaught exceptions, requests that left the allowed places."""

    def close(self) -> None:
        """Close the page and its context."""
        self.page.context.close()


@dataclass
class Browser:
    """A launched browser; every page it opens has a context of its own."""

    chromium: Any

    def open(
        self,
        url: str | Path,
        *,
        width: int = 1400,
        height: int = 1000,
        dark: bool = False,
        allowed: tuple[str, ...] = LOCAL,
    ) -> Opened:
        """A new page at `url` (or of a file) that may fetch from `allowed` alone."""
        context = self.chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
        )
        context.set_default_timeout(PATIENCE)
        opened = Opened(page=context.new_page())

        def route(route: Any) -> None:
            if route.request.url.startswith(allowed):
                route.continue_()
            else:
                opened.complaints.append(f"fetched {route.request.url}")
                route.abort()

        context.route("**/*", route)
        opened.page.on("console", lambda said: _note(opened, said))
        opened.page.on("pageerror", lambda error: opened.complaints.append(f"threw {error}"))
        opened.page.goto(url.resolve().as_uri() if isinstance(url, Path) else url)
        return opened


def _note(opened: Opened, said: Any) -> None:
    if said.type in ("error", "warning"):
        opened.complaints.append(f"{said.type}: {said.text}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a module; skips where there is no browser or no playwright.

    Not for the session: playwright keeps an event loop running, and lets no other start one.
    """
    if (why := missing_browser()) is not None:
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    as_root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=chromium_path(), args=[*ARGUMENTS, *as_root], timeout=PATIENCE
        )
        yield Browser(chromium=chromium)
        chromium.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """`Browser.open`; the pages are closed after the test, which fails if one complained."""
    opened: list[Opened] = []

    def open_one(url: str | Path, **options: Any) -> Opened:
        opened.append(browser.open(url, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
    assert [complaint for one in opened for complaint in one.complaints] == []
