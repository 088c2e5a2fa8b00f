"""Ask every question of a run: `python -m analyses RUN [--only NAME ...]`.

A question that the run cannot answer is named on stderr with the reason, and the others go on; the
exit code is 1 only if none could be answered. The tables are those of the single scripts with their
default options; one that is there is made anew. One line each on stderr, with its seconds.
One to two minutes for the demo's run, most of it the causal scan.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import tyro

from analyses import NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """Every analysis of one run."""

    run_folder: tyro.conf.Positional[Path]
    """The run directory."""
    only: tuple[str, ...] = ()
    """Names of analyses; all by default."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the analyses; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        asked = tyro.cli(Everything, prog="python -m analyses", description=__doc__, args=arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    unknown = [name for name in asked.only if name not in NAMES]
    if unknown:
        sys.stderr.write(f"no analysis {', '.join(unknown)}; there are {', '.join(NAMES)}\n")
        return 2
    codes = [_ask(name, asked.run_folder) for name in asked.only or NAMES]
    sys.stderr.write(f"{codes.count(0)} of {len(codes)} questions answered\n")
    return 0 if 0 in codes else 1


def _ask(name: str, run_folder: Path) -> int:
    start = monotonic()
    code = importlib.import_module(f"analyses.{name}").main([str(run_folder)])
    what = "done" if code == 0 else "not answered"
    sys.stderr.write(f"{name}: {what}, {monotonic() - start:.1f} s\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
