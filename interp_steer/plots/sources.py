"""What a run holds for figures, read once and refused by name where it is missing.

A figure never needs the model: every number is an artifact of a stage or the table of an analysis.
What is not there raises `MissingStageError` with the command that makes it, so that the caller can
go on with the other figures and list what is left.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Float

from interp_steer.analysis.run_rows import sweep_frame
from interp_steer.cells import NONE
from interp_steer.errors import InterpSteerError
from interp_steer.files import read_json, read_table
from interp_steer.plots.figure_files import FigureError, MissingStageError
from interp_steer.plots.style import METHOD_TITLES
from interp_steer.plots.text import as_text
from interp_steer.probes import LayerProbe, ProbeSet
from interp_steer.residuals import ResidualPair, load_residuals
from interp_steer.runs import Run
from interp_steer.trace_files import read_traces

USUAL_THREAT = "malicious_prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The operating point of one method, scope and threat."""

    method: str
    """swfc, sttp or stmp."""
    scope: str
    """Scope of the edit."""
    threat: str
    """malicious_prompt or prefill:K."""
    layer: int
    """Chosen layer, zero-based."""
    alpha: float
    """Chosen coefficient."""
    record: dict[str, Any]
    """Its whole entry in operating_points.json."""


class RunSource:
    """One run as the figures see it; every artifact is read at most once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.inputs: set[Path] = set()
        """Files and folders that were asked for since it was last cleared, for the sidecars."""
        self.results: dict[str, Any] = {}
        """Results that several figures share, by a name of their maker's choice."""
        self._digests: dict[Path, str] = {}

    @property
    def trait(self) -> str:
        """The run's trait, escaped for plotly."""
        return as_text(str(self.run.manifest.get("trait", "trait")))

    @property
    def heading(self) -> str:
        """Trait, model and run, escaped for plotly; each where it says something more."""
        model = Path(str(self.run.manifest.get("model", {}).get("model", "model"))).name
        names = [self.trait]
        # A folder that is called "model" names nothing.
        names += [] if model == "model" else [as_text(model)]
        run = as_text(self.run.path.resolve().name)
        return ", ".join(names if run in names else [*names, f"run {run}"])

    def digests(self) -> dict[str, str]:
        """SHA-256 of every artifact that was read, by its place in the run."""
        for path in self.inputs - set(self._digests):
            whole = hashlib.sha256()
            for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
                whole.update(file.name.encode())
                whole.update(file.read_bytes())
            self._digests[path] = whole.hexdigest()
        return {
            path.relative_to(self.run.path).as_posix(): self._digests[path]
            for path in sorted(self.inputs)
        }

    @property
    def probes(self) -> ProbeSet:
        """The probes.

        Raises:
            MissingStageError: the run has none.
        """
        self._need(self.run.probes_file, "probes", self._fit_command)
        return self._probes

    @cached_property
    def _probes(self) -> ProbeSet:
        return ProbeSet.load(self.run.path)

    @property
    def residuals(self) -> ResidualPair:
        """Response-averaged residuals of the training responses."""
        self._need(self.run.residuals_file, "training residuals", self._fit_command)
        return self._residuals

    @cached_property
    def _residuals(self) -> ResidualPair:
        return load_residuals(self.run.residuals_file)

    @property
    def sweep(self) -> pd.DataFrame:
        """Every row of the sweep, see `run_rows.sweep_frame`."""
        self._need(self.run.sweep_folder, "sweep", self.command("sweep"))
        return self._sweep

    @cached_property
    def _sweep(self) -> pd.DataFrame:
        return sweep_frame(self.run)

    @property
    def points(self) -> tuple[Point, ...]:
        """The operating points, in the file's order."""
        self._need(self.run.operating_points_file, "operating points", self.command("select"))
        return self._points

    @cached_property
    def _points(self) -> tuple[Point, ...]:
        path = self.run.operating_points_file
        remedy = f"run `{self.command('select')}` again"
        return tuple(
            Point(
                method=str(entry["method"]),
                scope=str(entry["scope"]),
                threat=str(entry.get("threat", USUAL_THREAT)),
                layer=int(entry["layer"]),
                alpha=float(entry["alpha"]),
                record=entry,
            )
            for entry in read_json(path, remedy=remedy)["operating_points"]
        )

    @property
    def traces(self) -> pd.DataFrame:
        """Every stored trace row."""
        self._need(self.run.traces_folder, "traces", self.command("trace"))
        return self._traces

    @cached_property
    def _traces(self) -> pd.DataFrame:
        files = sorted(self.run.traces_folder.glob("*.parquet"))
        return pd.concat([read_traces(file).to_pandas() for file in files], ignore_index=True)

    def projections(
        self, columns: Sequence[str], filters: Sequence[tuple[str, str, object]] = ()
    ) -> pd.DataFrame:
        """Columns of projections.parquet, of the rows that pass `filters`."""
        path = self._need(self.run.projections_file, "token projections", self._fit_command)
        table = pq.read_table(path, columns=list(columns), filters=list(filters) or None)
        return table.to_pandas()

    def analysis(self, name: str, columns: Sequence[str] = ()) -> pd.DataFrame:
        """The table NAME of an analysis.

        Raises:
            MissingStageError: it is not there, or lacks one of `columns`.
        """
        path = self.run.analyses_folder / f"{name}.parquet"
        command = f"python -m analyses.{name} {self.run.path}"
        self._need(path, f"table {name}", command)
        frame = read_table(path, remedy=f"make it with `{command}`").to_pandas()
        if missing := [column for column in columns if column not in frame]:
            raise MissingStageError(f"the table {path} lacks {', '.join(missing)}", command=command)
        return frame

    def probe_layer(self, layer: int) -> LayerProbe:
        """The probe of one layer."""
        return self.probes.probe(layer)

    def pooled(self, layer: int, side: str) -> Float[np.ndarray, "response d_model"]:
        """Response-averaged residuals of one layer; responses without tokens (NaN) are left out."""
        kept = getattr(self.residuals, side)
        values = kept.values[:, kept.layers.index(layer)].numpy()
        return values[np.isfinite(values).all(axis=1)]

    def shown_points(self, scope: str, *, threat: str = USUAL_THREAT) -> dict[str, Point]:
        """Method to its operating point in `scope`; empty before `select`."""
        try:
            points = self.points
        except MissingStageError:
            return {}
        return {p.method: p for p in points if (p.scope, p.threat) == (scope, threat)}

    def shown_layer(self) -> int:
        """The layer that a figure of one layer shows.

        StTP's operating point where there is one (it alone has a target), else another method's,
        else the layer that separates best (cross-fitted Cohen's d).
        """
        points = self.shown_points("all") or self.shown_points("response")
        for method in ("sttp", *METHOD_TITLES):
            if method in points:
                return points[method].layer
        separations = [np.nan_to_num(probe.crossfit.cohens_d) for probe in self.probes.probes]
        return self.probes.layers[int(np.argmax(separations))]

    def scopes(self) -> list[str]:
        """Scopes of the sweep's grid, `all` and `response` first."""
        steered = self.sweep[self.sweep["method"] != NONE]
        found = set(steered["scope"])
        return [s for s in ("all", "response") if s in found] + sorted(found - {"all", "response"})

    def command(self, stage: str) -> str:
        """The command of a stage of this run."""
        return f"interp-steer {stage} {self.run.path}"

    @property
    def _fit_command(self) -> str:
        return f"interp-steer fit --model MODEL --scenarios FILE --out {self.run.path}"

    def _need(self, path: Path, what: str, command: str) -> Path:
        is_empty = path.is_dir() and not any(path.glob("*.parquet"))
        if not path.exists() or is_empty:
            raise MissingStageError(f"the run has no {what} ({path})", command=command)
        self.inputs.add(path)
        return path


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what a damaged or unfamiliar artifact raises into a refusal that names it.

    Raises:
        FigureError: for missing keys and columns, values of another type, and numbers that no
            figure can show.
    """
    try:
        yield
    except InterpSteerError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise FigureError(
            f"an artifact of the run does not fit this figure ({type(error).__name__}: {error}); "
            "make the stage that it comes from again"
        ) from error
