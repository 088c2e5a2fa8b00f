"""Commands that show a run: `figures`, `explore`, `report`.

Nothing heavy is imported until a command runs, so that `--help` is quick.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from interp_steer.command_options import Common
from interp_steer.config import ModelPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Draw every figure of a run, its analyses first: HTML, SVG, PDF, PNG, numbers, where from."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run; what it cannot show yet is named, with the command that makes it."""
    only: tuple[str, ...] = ()
    """Names of figures, e.g. trait_coherence; all by default."""
    out: Path | None = None
    """Folder to write; RUN/figures by default."""
    no_static: bool = False
    """Write the pages alone: no SVG, PDF and PNG, which need a Chrome or Chromium."""
    no_analyses: bool = False
    """Draw from the analyses that are there; make none that is missing or out of date."""
    place: ModelPlace = field(default_factory=ModelPlace)
    """Where the model runs, for the two analyses that load it."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the pages, and what could not be drawn and why."""
        from interp_steer.run_figures import answer_first, draw_figures
        from interp_steer.runs import Run

        run, upkeep, static = Run.open(self.run_folder), None, not self.no_static
        if not self.no_analyses:
            upkeep = answer_first(run, self.only, place=self.place)
        made = draw_figures(run, out=self.out, only=self.only, static=static, upkeep=upkeep)
        return made.text()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explore:
    """Open a run in the browser: layers, boundary, tokens, comparisons; stop with Ctrl-C."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run, or a folder of runs (runs/demo)."""
    port: int = 8050
    """Port to serve on; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to listen on; another than loopback needs --allow-remote."""
    allow_remote: bool = False
    """Let other machines in: whoever reaches the port sees the run and can use the model."""
    no_browser: bool = False
    """Do not open a browser."""
    place: ModelPlace = field(default_factory=ModelPlace)
    """Where live generations run."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Serve until interrupted."""
        from interp_steer.explorer import check_installed

        check_installed()
        from interp_steer.explorer.access import REMOTE_MEANS, is_loopback
        from interp_steer.explorer.server import ExplorerServer

        server = ExplorerServer(
            self.run_folder,
            host=self.host,
            port=self.port,
            allow_remote=self.allow_remote,
            place=self.place,
        )
        if not is_loopback(self.host):
            logging.getLogger("interp_steer").warning("open to other machines: %s", REMOTE_MEANS)
        print(f"explorer at {server.url} (stop with Ctrl-C)", flush=True)
        if not self.no_browser:
            import webbrowser

            webbrowser.open(server.url)
        try:
            server.serve()
        except KeyboardInterrupt:
            return "stopped"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Write one HTML page of a run, or of a folder of runs: layers, boundary, tokens, offline."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run, or a folder whose sub-folders are runs; what one lacks is named with its command."""
    out: Path = Path("report.html")
    """File to write, with suffix .html."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the path of the page and its size."""
        from interp_steer.report import write_report

        page = write_report(self.run_folder, self.out)
        return f"{page} ({page.stat().st_size / 1e6:.1f} MB; opens from disk, without a network)"
