"""Draw docs/gallery/*.png from a run and link them in docs/gallery.md.

    python -m figures.gallery runs/demo/honesty docs

One small picture a figure, below its command on the page; figures that the run cannot show lose
theirs. Some thirty seconds, most of them the browser's.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from interp_steer.errors import InterpSteerError
from interp_steer.run_figures import RECIPES, draw_gallery
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
    if len(arguments) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    docs = Path(arguments[1])
    try:
        pictures = draw_gallery(Run.open(Path(arguments[0])), docs / "gallery")
    except InterpSteerError as error:
        sys.stderr.write(f"gallery: {error}\n")
        return 1
    page = docs / "gallery.md"
    page.write_text(linked(page.read_text(encoding="utf-8"), pictures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
