"""Which configurations a suite compares: baselines, operating points, and coefficients beside them.

A configuration is a cell of the sweep (`cells.Cell`), so that a suite's rows are named by the same
columns as the sweep's and a figure finds the operating point in both. What is an operating point is
read from the run, never chosen by a suite: a suite that chose would report what it chose on.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp_steer.cells import ALIGNED, MALICIOUS, NEUTRAL, Cell, steered_cell
from interp_steer.errors import RunError
from interp_steer.point_files import USUAL_THREAT, read_operating_points
from interp_steer.probes import ProbeSet
from interp_steer.report_text import METHOD_NAMES
from interp_steer.runs import Run
from interp_steer.scopes import Scope
from interp_steer.suites.settings import EvaluationError, SuiteConfig

BASELINES: Mapping[str, tuple[Cell, ...]] = {
    "malicious": (ALIGNED, MALICIOUS),
    "neutral": (NEUTRAL,),
}
"""Unsteered cells that stand beside cells steered under each side's prompt."""


class Configurations:
    """The cells of one suite of a run, and which of them are operating points."""

    def __init__(self, run: Run, config: SuiteConfig, *, with_grid: bool) -> None:
        """Read the run.

        Args:
            run: with operating points, unless layer and alphas are given.
            config: methods, coefficients, layer, scope.
            with_grid: whether the coefficients of the sweep's grid stand beside the operating
                points where none are given.

        Raises:
            RunError: an operating point is needed and is not there.
            EvaluationError: neither an operating point nor a coefficient.
            SteeringError: a scope that cannot be read.
        """
        self._run, self._config = run, config
        self.scope = str(Scope.parse(config.scope))
        self._points = _operating_points(run, self.scope)
        self._grid = _grid_alphas(run) if with_grid else {}

    def point(self, method: str) -> Cell | None:
        """The operating point of a method in the scope, under the malicious prompt."""
        found = self._points.get(method)
        if found is None:
            return None
        return steered_cell(
            method=method,
            layer=int(found["layer"]),
            alpha=float(found["alpha"]),
            scope=self.scope,
        )

    def is_point(self, cell: Cell) -> bool:
        """Whether a cell, under whatever prompt, steers as the operating point of its method."""
        point = self.point(cell.method) if cell.is_steered else None
        return point is not None and (point.layer, point.alpha, point.scope) == (
            cell.layer,
            cell.alpha,
            cell.scope,
        )

    def steered(self, side: str) -> tuple[Cell, ...]:
        """Steered cells under the malicious prompt, or, as a guard, without a system prompt."""
        cells = [cell for method in self._config.methods for cell in self._of_method(method)]
        return tuple(cell if side == "malicious" else cell.as_guard("neutral") for cell in cells)

    def cells(self, side: str) -> tuple[Cell, ...]:
        """Baselines first, then `steered`."""
        return (*BASELINES[side], *self.steered(side))

    def check_probes(self, probes: ProbeSet) -> None:
        """Refuse a layer without a probe.

        Raises:
            EvaluationError: by the layer.
        """
        missing = {c.layer for c in self.steered("malicious")} - set(probes.layers)
        if missing:
            raise EvaluationError(
                f"no probe for layer {', '.join(map(str, sorted(missing, key=str)))}; this run has "
                f"probes for layers {', '.join(map(str, probes.layers))}"
            )

    def _of_method(self, method: str) -> list[Cell]:
        point, config = self.point(method), self._config
        alphas = config.alphas if config.alphas is not None else self._grid.get(method, ())
        layer = config.layer if config.layer is not None else point and point.layer
        if layer is None or not (alphas or point):
            raise RunError(
                f"the run {self._run.path} has no operating point of {method} in scope "
                f"{self.scope}; run `interp-steer select {self._run.path}` first, or give --layer "
                "and --alphas"
            )
        own = [] if point is None else [float(point.alpha or 0.0)]
        return [
            steered_cell(method=method, layer=layer, alpha=alpha, scope=self.scope)
            for alpha in dict.fromkeys(sorted([*own, *map(float, alphas)]))
        ]


def _operating_points(run: Run, scope: str) -> dict[str, dict[str, Any]]:
    """Entries of operating_points.json by method; empty before `select`."""
    if not run.operating_points_file.exists():
        return {}
    remedy = f"run `interp-steer select {run.path}` again"
    found = read_operating_points(run.operating_points_file, remedy=remedy)
    return {
        entry["method"]: entry
        for entry in found["operating_points"]
        if (entry["scope"], entry["threat"]) == (scope, USUAL_THREAT)
    }


def _grid_alphas(run: Run) -> Mapping[str, Sequence[float]]:
    """Coefficients by method of the run's last sweep; empty without one."""
    grids = run.manifest.get("sweep", {}).get("grids", [])
    try:
        alphas = grids[-1]["alphas"] if grids else {}
        return {str(method): tuple(map(float, values)) for method, values in alphas.items()}
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunError(
            f"{run.manifest_file} has a grid of the sweep that is none ({error!r:.200}); run "
            f"`interp-steer sweep {run.path}` again, or give --alphas"
        ) from error


def series_name(cell: Cell) -> str:
    """A configuration in figures: its method, or the side of an unsteered one."""
    if cell.is_steered:
        return cell.method
    return "unsteered" if cell.side == "neutral" else f"{cell.side}, unsteered"


def printed_name(cell: Cell) -> str:
    """A configuration in tables."""
    if cell.is_steered:
        return METHOD_NAMES[cell.method]
    return "unsteered" if cell.side == "neutral" else f"{cell.side} prompt, unsteered"


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Baselines, then methods, layers and coefficients, each ascending."""
    methods = list(METHOD_NAMES)

    def place(cell: Cell) -> tuple[object, ...]:
        if not cell.is_steered:
            return (0, 0, cell.side, 0.0)
        return (1, methods.index(cell.method), str(cell.layer).zfill(4), float(cell.alpha or 0.0))

    return sorted(set(cells), key=place)
