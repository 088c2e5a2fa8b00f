"""The runs that an explorer shows: found once, read lazily, read again when they have changed.

A folder of runs (one a trait) or one run. Every artifact is read when a view first asks for it, and
a run that is still being written is noticed by the names, sizes and times of its files, so that an
open page follows a sweep in progress.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from interp_steer.cells import Cell
from interp_steer.config import PAPER_GRID
from interp_steer.errors import InterpSteerError, RunError
from interp_steer.explorer.boundary_numbers import TokenProjections
from interp_steer.explorer.selection import Choices, Selection
from interp_steer.explorer.stored import StoredResponses
from interp_steer.plots.figure_files import MissingStageError
from interp_steer.plots.freshness import fingerprint
from interp_steer.plots.sources import RunSource
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario
from interp_steer.study import run_scenarios
from interp_steer.trace_blocks import make_visible

N_LAYERS_KEPT = 6
"""Layers whose token projections stay in memory: some ten bytes a token each."""
TOKEN_COLUMNS = ("scenario", "side", "response_index", "pos", "segment", "projection")


class ExplorerError(InterpSteerError):
    """A run, an address or a request that the explorer cannot serve."""


class RunView:
    """One state of one run: its artifacts, and what the explorer derives from them."""

    def __init__(self, source: RunSource) -> None:
        self.source = source
        self.stored = StoredResponses(source)
        self._layers: OrderedDict[int, TokenProjections] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def run(self) -> Run:
        """The run directory."""
        return self.source.run

    @property
    def heading(self) -> str:
        """Run and model, for people (holds text of the run: untrusted, not escaped)."""
        manifest = self.run.manifest
        model = str(manifest.get("model", {}).get("model", "model"))
        return make_visible(f"{self.run.path.resolve().name} · {Path(model).name}")

    def tokens(self, layer: int) -> TokenProjections:
        """Projections of all training tokens at one layer; the last few layers stay in memory.

        Raises:
            MissingStageError: the run has no token projections.
        """
        with self._lock:
            if layer not in self._layers:
                frame = self.source.projections(TOKEN_COLUMNS, [("layer", "==", layer)])
                self._layers[layer] = TokenProjections(frame, layer=layer)
            self._layers.move_to_end(layer)
            while len(self._layers) > N_LAYERS_KEPT:
                self._layers.popitem(last=False)
            return self._layers[layer]

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Layers with a probe; none before `fit`."""
        try:
            return tuple(self.source.probes.layers)
        except MissingStageError:
            return ()

    @cached_property
    def scenarios(self) -> dict[str, Scenario]:
        """Scenarios of the run by id; empty where their file has moved or changed."""
        try:
            return {scenario.id: scenario for scenario in run_scenarios(self.run)}
        except (InterpSteerError, OSError):
            return {}

    def default(self, trait: str) -> Selection:
        """What is shown first: StTP's operating point in scope `all`, else the best-read layer."""
        if not self.layers:
            return Selection(trait=trait)
        for scope in ("all", "response"):
            points = self.source.shown_points(scope)
            for method in ("sttp", "stmp", "swfc"):
                if method in points:
                    point = points[method]
                    chosen = {"layer": point.layer, "alpha": point.alpha}
                    return Selection(trait=trait, method=method, scope=scope, **chosen)
        layer = self.source.shown_layer()
        return Selection(trait=trait, layer=layer, alpha=float(PAPER_GRID["sttp"][1]))

    def alphas(self, method: str, scope: str) -> list[float]:
        """Coefficients that the sweep ran for a method in a scope; the paper's without a sweep."""
        found = {
            cell.alpha
            for cell in self.cells
            if (cell.method, cell.scope) == (method, scope) and cell.alpha is not None
        }
        return sorted(found) or [float(alpha) for alpha in PAPER_GRID[method]]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every configuration of the sweep; none before it."""
        try:
            return self.stored.cells
        except MissingStageError:
            return ()


class Library:
    """Runs by trait."""

    def __init__(self, folder: Path) -> None:
        """Find the runs.

        Args:
            folder: a run, or a folder with runs below it (as `runs/demo`).

        Raises:
            ExplorerError: there is neither.
        """
        self.folder = Path(folder)
        self._runs = {str(run.manifest.get("trait", "trait")): run for run in _runs(self.folder)}
        self._views: dict[str, RunView] = {}
        self._lock = threading.Lock()

    @property
    def traits(self) -> tuple[str, ...]:
        """Traits, one run each."""
        return tuple(self._runs)

    def run(self, trait: str) -> Run:
        """The run of a trait."""
        return self._runs[trait]

    def view(self, trait: str) -> RunView:
        """The run of a trait as it is now.

        Raises:
            ExplorerError: an unknown trait.
        """
        if trait not in self._runs:
            raise ExplorerError(f"there is no run of {trait!r}; there are {', '.join(self._runs)}")
        with self._lock:
            known = self._views.get(trait)
            source = RunSource(self._runs[trait]) if known is None else known.source.fresh()
            if known is None or source is not known.source:
                self._views[trait] = known = RunView(source)
            return known

    def version(self, trait: str) -> str:
        """Changes whenever the run of a trait has changed."""
        return fingerprint(self._runs[trait]) if trait in self._runs else ""

    def choices(self, trait: str) -> Choices:
        """What can be selected, for the run of `trait` (the first for an unknown one)."""
        known = trait if trait in self._runs else self.traits[0]
        view = self.view(known)
        return Choices(traits=self.traits, layers=view.layers, default=view.default(known))


def _runs(folder: Path) -> Iterator[Run]:
    if (folder / "manifest.json").exists():
        yield Run.open(folder)
        return
    below = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if not below:
        raise ExplorerError(
            f"{folder} is no run and holds none (no manifest.json); make one with `interp-steer "
            "demo` or `interp-steer fit --out`"
        )
    names: dict[str, Path] = {}
    for path in below:
        run = Run.open(path)
        trait = str(run.manifest.get("trait", "trait"))
        if trait in names:
            raise ExplorerError(
                f"{folder} holds two runs of {trait!r} ({names[trait].name}, {path.name}); open "
                f"one of them: interp-steer explore {path}"
            )
        names[trait] = path
        yield run


@contextmanager
def explaining() -> Iterator[None]:
    """Turn what an unreadable artifact raises into an error with one line that can be shown."""
    try:
        yield
    except InterpSteerError:
        raise
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise RunError(
            f"an artifact of the run could not be read ({type(error).__name__}: {error}); if it is "
            "being written, wait a moment, else make its stage again"
        ) from error
