"""The documentation as a site: every page in the navigation, links that resolve, nothing fetched.

`make docs` fails on whatever mkdocs warns of; these tests hold what it does not look at, and the
links as GitHub shows the same pages. The tutorial's commands are run as they stand.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
MADE_BY_THE_HOOK = {"overview.md", "changelog.md", "licence.md"}


def nav_pages(entry: object) -> Iterator[str]:
    """Every page below an entry of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        inner = entry.values() if isinstance(entry, dict) else entry
        for one in inner:  # pyright: ignore[reportGeneralTypeIssues]
            yield from nav_pages(one)


def navigation() -> list[str]:
    return list(nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))


def dead_links(page: Path) -> list[str]:
    """Relative links of a Markdown page that lead nowhere in the repository."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [
        target
        for target in LINK.findall(text)
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists()
    ]


class Fetches(HTMLParser):
    """What a page makes a browser load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(FETCHED.get(tag, "")) or ""
        if address.startswith(("http:", "https:", "//")):
            self.found.append(f"<{tag} {address}>")


def fetched(html: str) -> list[str]:
    parser = Fetches()
    parser.feed(html)
    return parser.found


def test_the_navigation_has_every_page_once():
    there = {page.relative_to(DOCS).as_posix() for page in PAGES} | MADE_BY_THE_HOOK
    assert sorted(navigation()) == sorted(there)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_resolve_in_the_repository_too(page: Path):
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("[a](page.md) [b](gone.md#here) [c](https://example.org)\n```\n[d](e)\n```\n")
    assert dead_links(page) == ["gone.md"]


def test_the_index_names_every_page_of_its_folder():
    named = set(LINK.findall((DOCS / "index.md").read_text(encoding="utf-8")))
    assert {page.name for page in DOCS.glob("*.md")} - named == {"index.md"}


def test_the_reference_is_of_modules_that_exist():
    named = [
        module
        for page in (DOCS / "reference").glob("*.md")
        for module in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(named) == len(set(named)) > 40
    assert [module for module in named if importlib.util.find_spec(module) is None] == []


def test_what_a_page_fetches_is_found():
    assert fetched('<img src="a.png"><a href="https://x"></a><script src="https://x/y.js">') == [
        "<script https://x/y.js>"
    ]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(tmp_path).as_posix() for page in tmp_path.rglob("*.html")}
    assert {name.replace(".md", ".html") for name in navigation()} <= pages
    assert "site_pages.py" not in {file.name for file in tmp_path.iterdir()}
    for name in pages:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert fetched(text) == [], name
        if name != "404.html":
            gone = [
                target
                for target in re.findall(r'href="([^"#?:]+)["#]', text)
                if not (tmp_path / name).parent.joinpath(target).exists()
            ]
            assert gone == [], name
    reference = (tmp_path / "reference" / "probes.html").read_text(encoding="utf-8")
    assert 'id="interp_steer.probes.fit_probes"' in reference
    assert "rounded to float32" in reference
    assert "rho = &lt;h, v_hat&gt;" in reference  # a formula, not a tag
    assert "&gt;&gt;&gt; " in re.sub(r"<[^>]+>", "", reference)  # examples as code, no quotations


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path: Path):
    """Every command from the own trait on; the demo before it has tests of its own."""
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    own = text[text.index("## Your own trait") :]
    blocks = FENCE.findall(own)
    (script,) = [body for kind, body in blocks if kind == "python"]
    (tmp_path / "make_scenarios.py").write_text(script, encoding="utf-8")
    commands = "set -e\n" + "".join(body for kind, body in blocks if kind == "sh")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        ["bash", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout.splitlines()
    (probes,) = [body for kind, body in blocks if kind == "text" and "cosine CAA" in body]
    assert probes.splitlines()[0] in printed
    assert "StTP, scope all                        4    24    100 [" in done.stdout
    assert (tmp_path / "trace.html").exists()
    assert (tmp_path / "report.html").exists()
