"""The face of one figure's script: arguments in, files out, an exit code back.

Every script of `figures/` is a name and a docstring; this is the rest of the command, so that all
of them read, refuse and write alike. Paths go to stdout, notes and refusals to stderr; 0 done, 1
the run cannot show it (and which command makes what is missing), 2 usage.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from interp_steer.config import ModelPlace
from interp_steer.errors import InterpSteerError
from interp_steer.run_figures import answer_first, draw_figures
from interp_steer.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureOptions:
    """Draw one figure of a run."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """The run directory to read."""
    out: Path | None = None
    """Folder to write; RUN/figures by default."""
    no_static: bool = False
    """Write the page alone: no svg, pdf and png."""
    no_analyses: bool = False
    """Draw from the analyses that are there; make none that is missing or out of date."""
    place: ModelPlace = field(default_factory=ModelPlace)
    """For the analyses that load the model."""


def figure_main(name: str, about: str) -> Callable[[Sequence[str] | None], int]:
    """The `main` of one script of figures/.

    Args:
        name: the figure, a key of `RECIPES`.
        about: the script's docstring, shown by --help.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        """Draw; paths to stdout, what is missing to stderr; 0, 1 (refused) or 2 (usage)."""
        try:
            options = tyro.cli(
                FigureOptions,
                prog=f"python -m figures.{name}",
                description=about,
                args=list(sys.argv[1:] if argv is None else argv),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
        except SystemExit as stop:
            return int(stop.code or 0)
        try:
            run, only = Run.open(options.run_folder), (name,)
            upkeep = None
            if not options.no_analyses:
                upkeep = answer_first(run, only, place=options.place, tell=_tell)
            static = not options.no_static
            made = draw_figures(run, out=options.out, only=only, static=static, upkeep=upkeep)
        except InterpSteerError as error:
            sys.stderr.write(f"{name}: {error}\n")
            return 1
        sys.stdout.writelines(f"{path}\n" for path in made.paths)
        sys.stderr.writelines(f"{remark}\n" for remark in made.remarks())
        return 1 if made.left_out else 0

    return main


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
