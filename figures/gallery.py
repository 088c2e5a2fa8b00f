"""Draw docs/gallery/*.png from a run and link them in docs/gallery.md.

    python -m figures.gallery RUN [RUN ...] docs

One small picture a figure, below its command on the page, of the first run that can show it;
figures that none can show lose theirs. Analyses that are missing or out of date are made first.
Some thirty seconds without them, most of them the browser's.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from interp_steer.errors import InterpSteerError
from interp_steer.recipes import RECIPES
from interp_steer.run_figures import answer_first, draw_gallery
from interp_steer.runs import Run


def linked(page: str, pictures: dict[str, list[Path]]) -> str:
    """The page with the pictures of each figure below its command, and no others."""
    bare = re.sub(r"\n!\[[^\n]*\n", "", page)
    for name, paths in pictures.items():
        command = f"    python -m figures.{name} RUN\n"
        images = "".join(f"\n![{RECIPES[name].about}](gallery/{p.name})\n" for p in paths)
        bare = bare.replace(command, command + images)
    return bare


def main(argv: Sequence[str] | None = None) -> int:
    """Draw and link; 0 done, 1 refused, 2 usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) < 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    *runs, docs = map(Path, arguments)
    pictures: dict[str, list[Path]] = {}
    try:
        for run in map(Run.open, runs):
            left = [name for name in RECIPES if name not in pictures]
            answer_first(run, left, tell=_tell)
            pictures |= draw_gallery(run, docs / "gallery", only=left)
    except InterpSteerError as error:
        sys.stderr.write(f"gallery: {error}\n")
        return 1
    page = docs / "gallery.md"
    page.write_text(linked(page.read_text(encoding="utf-8"), pictures), encoding="utf-8")
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
