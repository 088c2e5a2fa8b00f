"""Hooks of mkdocs: README, changelog and licence become pages of the site; <h, v_hat> stays text.

They stand at the root of the repository, where GitHub and package indexes look for them; a site is
made of docs/ alone. Links to them are turned, links to a folder or script of the repository lose
their target and keep their words.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "overview.md", "CHANGELOG.md": "changelog.md", "LICENSE": "licence.md"}
"""Files of the root, and the pages made of them."""
TITLES = {"README.md": "Overview and demo", "LICENSE": "Licence"}

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"(`[^`]*`|^ *>>> .*$)", re.MULTILINE)
_FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that come from the root of the repository."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        if name == "LICENSE":
            text = f"# Licence\n\n```text\n{text}```\n"
        files.append(File.generated(config, page, content=_as_page(name, text)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn the links of a page that leave docs/."""
    return _outside_code(markdown, lambda text: _inside(text, PurePosixPath(page.file.src_uri)))


def _as_page(name: str, text: str) -> str:
    """Return a file of the root as a page of docs/, under a title of its own."""
    front = f"---\ntitle: {TITLES[name]}\n---\n\n" if name in TITLES else ""
    return front + _outside_code(text, lambda part: _LINK.sub(_without_docs, part))


def _without_docs(link: re.Match[str]) -> str:
    words, target, anchor = link[1], link[2], link[3] or ""
    return f"[{words}]({target.removeprefix('docs/')}{anchor})"


def _outside_code(text: str, turn: Any) -> str:
    """Apply `turn` to all of a text but its fenced blocks."""
    return "".join(
        part if place % 2 else turn(part) for place, part in enumerate(_FENCE.split(text))
    )


def _inside(text: str, page: PurePosixPath) -> str:
    up = "../" * (len(page.parts) - 1)

    def turned(link: re.Match[str]) -> str:
        outside = link[2].removeprefix(up + "../") if link[2].startswith(up + "../") else link[2]
        if outside in PAGES:
            return f"[{link[1]}]({up}{PAGES[outside]}{link[3] or ''})"
        return link[1] if outside != link[2] else link[0]

    return _LINK.sub(turned, text)


class AngleBrackets(griffe.Extension):
    """Docstrings are plain text: "<h, v_hat>" in one is a formula and no tag."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Escape what Markdown would take for a tag, but for code."""
        if obj.docstring is not None:
            parts = _CODE.split(obj.docstring.value)
            parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
            obj.docstring.value = "".join(parts)
