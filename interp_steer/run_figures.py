"""Every figure of a run, from its artifacts; drawing needs no model.

Analyses that figures draw are made first (`answer_first`) where they are missing or out of date;
two of them load the model. A figure whose stage is missing is left out, never silently: it is
listed with the command that makes it. Loading this module loads plotly. Every figure shows what a
stage measured; which scenarios it was measured on is in its subtitle.
"""

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_steer.analysis.upkeep import Unanswered, Upkeep, keep_up, known_analyses
from interp_steer.config import ModelPlace
from interp_steer.errors import InterpSteerError
from interp_steer.files import atomic_write_bytes
from interp_steer.plots.figure_files import Drawing, FigureError, MissingStageError, write_drawing
from interp_steer.plots.rendering import FORMATS, Picture, missing_renderer, render
from interp_steer.plots.sources import RunSource, refusing
from interp_steer.plots.style import DOUBLE, SINGLE
from interp_steer.recipes import RECIPES, shown_analyses
from interp_steer.runs import Run
from interp_steer.sweep_stage import is_outdated
from interp_steer.trace_files import read_traces
from interp_steer.trace_view import render_html

_log = logging.getLogger(__name__)

GALLERY_SCALE = 1.0
"""Pixels of a gallery picture for each CSS pixel: readable on a screen, some ten kilobytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A figure that the run cannot show."""

    name: str
    """Its name in `RECIPES`."""
    why: str
    """What is missing and the command that makes it, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FiguresMade:
    """What was written and what was not."""

    paths: tuple[Path, ...]
    """Every file, pages first."""
    left_out: tuple[LeftOut, ...]
    """Figures that the run cannot show yet."""
    notes: tuple[str, ...]
    """What the figures leave out, and why there are no static pictures."""
    unanswered: tuple[Unanswered, ...] = ()
    """Analyses that the run cannot answer yet."""

    @property
    def pages(self) -> tuple[Path, ...]:
        """The HTML pages."""
        return tuple(path for path in self.paths if path.suffix == ".html")

    def text(self) -> str:
        """What a terminal shows: the pages, then what is missing."""
        return "\n".join([*map(str, self.pages), *self.remarks()])

    def remarks(self) -> list[str]:
        """What is missing, a line each: figures, then analyses that no such figure stands for."""
        lines = [f"not drawn: {one.name}: {one.why}" for one in self.left_out]
        said = {one.name for one in self.left_out}
        lines += [f"not answered: {a.name}: {a.why}" for a in self.unanswered if a.name not in said]
        return [*lines, *(f"note: {note}" for note in self.notes)]


def make_figures(run: Run, out: Path | None = None, only: Sequence[str] = ()) -> list[Path]:
    """Draw every figure of a run (or those named) as html, svg, pdf, png, csv and json.

    What cannot be drawn is logged as a warning, with the command that makes it.

    Args:
        run: the run.
        out: folder to write; the run's figures/ by default.
        only: names of `RECIPES`; all by default.

    Returns:
        Every file that was written, pages first.

    Raises:
        FigureError: an unknown name, or a browser that fails.
        RunError: a file cannot be written.
    """
    made = draw_figures(run, out=out, only=only)
    for one in made.left_out:
        _log.warning("not drawn: %s: %s", one.name, one.why)
    for note in made.notes:
        _log.warning("%s", note)
    return list(made.paths)


def answer_first(
    run: Run,
    only: Sequence[str] = (),
    *,
    place: ModelPlace | None = None,
    tell: Callable[[str], None] = _log.info,
) -> Upkeep:
    """Make the analyses that are missing or out of date before figures are drawn.

    Args:
        run: the run.
        only: figures whose analyses are wanted; by default every analysis, drawn or not.
        place: where the model runs, for the analyses that load it.
        tell: takes a line before and after each analysis.

    Raises:
        FigureError: an unknown name.
    """
    _check_names(only)
    everything = () if only else known_analyses()
    wanted = dict.fromkeys([*everything, *shown_analyses(only)])
    return keep_up(run, list(wanted), place=place, tell=tell)


def _check_names(only: Sequence[str]) -> None:
    if unknown := [name for name in only if name not in RECIPES]:
        raise FigureError(f"no figure {', '.join(unknown)}; there are {', '.join(RECIPES)}")


def draw_figures(
    run: Run,
    *,
    out: Path | None = None,
    only: Sequence[str] = (),
    static: bool = True,
    command: str | None = None,
    upkeep: Upkeep | None = None,
) -> FiguresMade:
    """Draw figures and say which could not be drawn; see `make_figures`.

    Args:
        run: the run.
        out: folder to write; the run's figures/ by default.
        only: names of `RECIPES`; all by default.
        static: also svg, pdf and png, where there is a browser.
        command: what made the figures, for their sidecars; the figure's own command by default.
        upkeep: what became of the analyses that were asked for before, see `answer_first`.
    """
    _check_names(only)
    folder = run.figures_folder if out is None else Path(out)
    source = RunSource(run)
    drawings: list[Drawing] = []
    paths: list[Path] = []
    left_out: list[LeftOut] = []
    for name in only or RECIPES:
        source.inputs.clear()
        try:
            with refusing():
                found = RECIPES[name].draw(source)
                sidecar = _sidecar(source, name, command)
                for drawing in found:
                    paths += write_drawing(drawing, folder, sidecar)
        except MissingStageError as missing:
            left_out.append(LeftOut(name=name, why=str(missing)))
        except InterpSteerError as error:
            left_out.append(LeftOut(name=name, why=str(error)))
        else:
            drawings += found
    notes = [f"{d.name}: {note}" for d in drawings for note in d.notes]
    notes += upkeep.notes if upkeep is not None else ()
    if is_outdated(run):
        notes.append(
            "the sweep has changed since operating points were chosen; run `interp-steer select "
            f"{run.path}`"
        )
    lacking = missing_renderer() if static else None
    if lacking is not None:
        notes.append(lacking)
    elif static:
        paths += render([picture for d in drawings for picture in _pictures(d, folder)])
    return FiguresMade(
        paths=tuple(paths),
        left_out=tuple(left_out),
        notes=tuple(notes),
        unanswered=upkeep.unanswered if upkeep is not None else (),
    )


def _pictures(drawing: Drawing, folder: Path) -> list[Picture]:
    return [
        Picture(figure=figure, path=folder / f"{drawing.name}{suffix}.{kind}")
        for column, suffix in ((SINGLE, ""), (DOUBLE, "-double"))
        for figure in [drawing.build(column)]
        for kind in FORMATS
    ]


def _sidecar(source: RunSource, name: str, command: str | None) -> dict[str, Any]:
    """Where a figure comes from: the run's name, not its path, so that it does not depend on it."""
    run = source.run
    manifest = run.manifest
    return {
        "command": command or shlex.join(["python", "-m", f"figures.{name}", run.path.name]),
        "config": {"run": run.path.name, "trait": str(manifest.get("trait")), "recipe": name},
        "paper_figure": RECIPES[name].number,
        "pins": manifest["pins"],
        "inputs": source.digests(),
    }


def write_figures(run: Run, _report: object = None, *, command: str) -> list[Path]:
    """The pages alone, without a browser: what the demo shows within its minutes."""
    return list(draw_figures(run, static=False, command=command).pages)


def draw_gallery(run: Run, folder: Path, only: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Small double-column pngs of every figure that the run can show, for a page of documentation.

    Args:
        run: the run.
        folder: made where missing.
        only: names of `RECIPES`; all by default.

    Returns:
        Name in `RECIPES` to its pictures; figures that the run cannot show are left out.

    Raises:
        FigureError: an unknown name, no renderer, or a browser that fails.
    """
    _check_names(only)
    source = RunSource(run)
    pictures: dict[str, list[Picture]] = {}
    for name in only or RECIPES:
        try:
            with refusing():
                pictures[name] = [
                    Picture(
                        figure=drawing.build(DOUBLE),
                        path=folder / f"{drawing.name}.png",
                        scale=GALLERY_SCALE,
                    )
                    for drawing in RECIPES[name].draw(source)
                ]
        except InterpSteerError as error:
            _log.warning("not drawn: %s: %s", name, error)
    folder.mkdir(parents=True, exist_ok=True)
    render([picture for some in pictures.values() for picture in some])
    return {name: [picture.path for picture in some] for name, some in pictures.items()}


def write_trace_pages(run: Run) -> list[Path]:
    """One small HTML page, without plotly, for each stored trace."""
    pages = []
    for stored in sorted(run.traces_folder.glob("*.parquet")):
        page = run.figures_folder / f"trace-{stored.stem}.html"
        text = render_html(read_traces(stored), f"{run.manifest['trait']}: {stored.stem}")
        atomic_write_bytes(page, text.encode("utf-8", errors="backslashreplace"))
        pages.append(page)
    return pages
