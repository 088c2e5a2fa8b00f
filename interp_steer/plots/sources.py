"""What a run holds for figures, read once and refused by name where it is missing.

A figure never needs the model: every number is an artifact of a stage or the table of an analysis.
What is not there raises `MissingStageError` with the command that makes it, so that the caller can
go on with the other figures and list what is left.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from interp_steer.analysis.frames import rows_where, values_of
from interp_steer.analysis.run_rows import sweep_frame
from interp_steer.analysis.trace_frames import trace_command
from interp_steer.cells import NONE
from interp_steer.errors import InterpSteerError
from interp_steer.files import read_table
from interp_steer.plots.figure_files import FigureError, MissingStageError
from interp_steer.plots.freshness import Snapshot, fingerprint
from interp_steer.plots.points import USUAL_THREAT, Point, read_points
from interp_steer.plots.style import METHOD_TITLES
from interp_steer.plots.swept import Swept
from interp_steer.plots.text import as_text
from interp_steer.plots.traced import Traced
from interp_steer.probes import LayerProbe, ProbeSet
from interp_steer.residuals import ResidualPair, load_pooled, load_residuals
from interp_steer.runs import Run

__all__ = ["USUAL_THREAT", "Point", "RunSource", "refusing"]

T = TypeVar("T")


class RunSource:
    """One run as the figures see it; every artifact is read at most once, and only when asked for.

    What is read is shared with whoever asks again: do not write into it.
    """

    def __init__(self, run: Run, *, before: "RunSource | None" = None) -> None:
        """Look at the run as it is now.

        Args:
            run: the run.
            before: an earlier source of the run; what it read is used where it still holds.
        """
        self.run = run
        self._snapshot = Snapshot(run, before=None if before is None else before._snapshot)
        self._swept, self._traced = Swept(self._snapshot), Traced(self._snapshot)
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
    def fingerprint(self) -> str:
        """Names the state of the run that this source is of; see `freshness.fingerprint`."""
        return self._snapshot.fingerprint

    def fresh(self) -> "RunSource":
        """This source while the run is as it was, else one that reads again what has changed."""
        if fingerprint(self.run) == self.fingerprint:
            return self
        return RunSource(self.run, before=self)

    def keep(self, name: Hashable, of: Sequence[Path], make: Callable[[], T]) -> T:
        """A result by name, made from the artifacts `of`; made again where one of them changed."""
        return self._snapshot.keep(("result", name), of, make)

    @property
    def probes(self) -> ProbeSet:
        """The probes.

        Raises:
            MissingStageError: the run has none.
        """
        path = self._need(self.run.probes_file, "probes", self._fit_command)
        of = (path, path.with_suffix(".safetensors"))
        return self._snapshot.keep("probes", of, lambda: ProbeSet.load(self.run.path))

    @property
    def residuals(self) -> ResidualPair:
        """Response-averaged residuals of the training responses."""
        path = self._residuals_file
        return self._snapshot.keep("residuals", [path], lambda: load_residuals(path))

    @property
    def sweep(self) -> pd.DataFrame:
        """Every row of the sweep, see `run_rows.sweep_frame`; slow where there are many."""
        of = (self._sweep_folder, self.run.manifest_file)
        return self._snapshot.keep("sweep", of, lambda: sweep_frame(self.run))

    @property
    def scores(self) -> pd.DataFrame:
        """Key, n_tokens, trait and coherence of every row of the sweep, `scenarios` and `cluster`.

        Raises:
            MissingStageError: the run has no sweep.
        """
        _ = self._sweep_folder
        return self._swept.scores().frame

    @property
    def measures(self) -> pd.DataFrame:
        """The same with the measures that need no judge; NaN where the run has none."""
        _ = self._sweep_folder
        return self._swept.measures().frame

    def with_text(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of `scores` or `measures` with response, token_ids and stop_reason."""
        _ = self._sweep_folder
        return self._swept.with_text(rows)

    @property
    def points(self) -> tuple[Point, ...]:
        """The operating points, in the file's order."""
        path = self.run.operating_points_file
        self._need(path, "operating points", self.command("select"))
        remedy = f"run `{self.command('select')}` again"
        return self._snapshot.keep("points", [path], lambda: read_points(path, remedy=remedy))

    @property
    def traces(self) -> pd.DataFrame:
        """Every stored trace row; slow for many, see `trace_index` and `trace`."""
        _ = self._traces_folder
        return self._traced.every()

    def trace_index(self) -> pd.DataFrame:
        """One row a stored sample and steered layer; see `Traced.index`.

        Raises:
            MissingStageError: the run has no traces.
        """
        _ = self._traces_folder
        return self._traced.index()

    def trace(self, sample: str, layer: int | None = None, *, file: str | None = None) -> pa.Table:
        """Trace rows of one sample, at one steered layer or at all; see `Traced.rows`."""
        _ = self._traces_folder
        return self._traced.rows(sample, layer, file=file)

    def traced_tokens(self) -> dict[int, str]:
        """Strings of the traced tokens, by token id."""
        _ = self._traces_folder
        return self._traced.tokens()

    def projections(
        self, columns: Sequence[str], filters: Sequence[tuple[str, str, object]] = ()
    ) -> pd.DataFrame:
        """Columns of projections.parquet, of the rows that pass `filters`."""
        path = self._need(self.run.projections_file, "token projections", self._fit_command)
        found = self._snapshot.keep_recent(
            ("projections", tuple(columns), repr(tuple(filters))),
            [path],
            lambda: read_table(
                path, columns=columns, filters=filters, remedy=f"remove it and {self._fit_command}"
            ).to_pandas(),
        )
        return found.copy(deep=False)  # a column that the caller adds is the caller's own

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
        path = self._residuals_file
        values = self._snapshot.keep_recent(
            ("pooled", layer, side), [path], lambda: load_pooled(path, side, layer=layer).numpy()
        )
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
        scores = self.scores
        found = values_of(rows_where(scores, scores["method"] != NONE), "scope")
        return [s for s in ("all", "response") if s in found] + sorted(found - {"all", "response"})

    def command(self, stage: str) -> str:
        """The command of a stage of this run."""
        return f"interp-steer {stage} {self.run.path}"

    @property
    def _fit_command(self) -> str:
        return f"interp-steer fit --model MODEL --scenarios FILE --out {self.run.path}"

    @property
    def _residuals_file(self) -> Path:
        return self._need(self.run.residuals_file, "training residuals", self._fit_command)

    @property
    def _sweep_folder(self) -> Path:
        return self._need(self.run.sweep_folder, "sweep", self.command("sweep"))

    @property
    def _traces_folder(self) -> Path:
        return self._need(self.run.traces_folder, "traces", trace_command(self.run))

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
