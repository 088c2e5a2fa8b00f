"""The stored traces of a run, read sample by sample.

The catalogue of samples needs a few columns of each file; the rows of a sample are read when it is
shown. A file that has not changed is not read again.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from interp_steer.analysis.frames import rows_where
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.freshness import Snapshot
from interp_steer.trace_files import list_samples, list_tokens, read_traces


class Traced:
    """The traces of one snapshot of a run."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._folder = snapshot.run.traces_folder

    def index(self) -> pd.DataFrame:
        """One row a stored sample and steered layer, by file, in the order of each.

        Columns: file (its name), those of `trace_files.SAMPLE_KEY`, n_tokens, n_in_scope, n_fired
        and n_capped.

        Raises:
            RunError, SteeringError: a damaged file, or one that is no trace table.
        """
        return self._snapshot.keep("trace index", [self._folder], self._index)

    def rows(self, sample: str, layer: int | None = None, *, file: str | None = None) -> pa.Table:
        """The rows of a sample, in the columns of `TRACE_SCHEMA`.

        Args:
            sample: its id.
            layer: one steered layer of it; all by default.
            file: name of the file to take it from; by default the first that holds it.

        Raises:
            FigureError: there is no such sample.
        """
        name = ("trace", sample, layer, file)
        return self._snapshot.keep_recent(
            name, [self._folder], lambda: self._rows(sample, layer, file)
        )

    def _rows(self, sample: str, layer: int | None, file: str | None) -> pa.Table:
        index = self.index()
        is_it = (index["sample"] == sample) & (layer is None or index["layer"] == layer)
        found = rows_where(index, is_it & (file is None or index["file"] == file))
        if found.empty:
            where = "" if layer is None else f" at layer {layer}"
            raise FigureError(
                f"no stored trace has the sample {sample!r}{where}; the samples are those of "
                "RunSource.trace_index()"
            )
        filters: list[tuple[str, str, object]] = [("sample", "==", sample)]
        filters += [] if layer is None else [("layer", "==", layer)]
        return read_traces(self._folder / str(found["file"].iloc[0]), filters=filters)

    def every(self) -> pd.DataFrame:
        """All rows of all files."""
        return self._snapshot.keep("traces", [self._folder], self._every)

    def tokens(self) -> dict[int, str]:
        """Strings of the tokens that occur, by token id."""
        found: dict[int, str] = {}
        for path in reversed(self._files()):  # of two spellings the first file's is kept
            found |= self._snapshot.keep(
                ("tokens", path.name), [path], lambda path=path: list_tokens(path)
            )
        return found

    def _index(self) -> pd.DataFrame:
        parts = [
            self._snapshot.keep(
                ("samples", path.name), [path], lambda path=path: list_samples(path).to_pandas()
            ).assign(file=path.name)
            for path in self._files()
        ]
        whole = pd.concat(parts, ignore_index=True)
        return whole.reindex(columns=["file", *whole.columns.drop("file")])

    def _every(self) -> pd.DataFrame:
        parts = [read_traces(path).to_pandas() for path in self._files()]
        return pd.concat(parts, ignore_index=True)

    def _files(self) -> Sequence[Path]:
        return sorted(self._folder.glob("*.parquet"))
