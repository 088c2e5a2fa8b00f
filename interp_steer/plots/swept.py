"""The rows of a run's sweep, read by column: scores at once, text for the rows that are shown.

A sweep of a large model has hundreds of shards and most of their bytes are text, which no curve
needs. Shards that were read stay in memory, so that of a sweep in progress only new ones are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int

from interp_steer.analysis.run_rows import labelled_rows
from interp_steer.cells import KEY_COLUMNS
from interp_steer.files import read_schema, require_columns
from interp_steer.measures import MEASURE_COLUMNS
from interp_steer.plots.freshness import Snapshot
from interp_steer.shards import join_shards, read_shard
from interp_steer.sweep_rows import SWEEP_SCHEMA

SCORE_COLUMNS = (*KEY_COLUMNS, "n_tokens", "trait", "coherence")
"""Columns of the key and the judge's scores."""
TEXT_COLUMNS = ("response", "token_ids", "stop_reason")
"""What a row says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """Rows of every shard, one after another, numbered from 0."""

    frame: pd.DataFrame
    """The rows, in some of their columns, with `scenarios` and `cluster`."""
    paths: tuple[Path, ...]
    """The shards they are from."""
    ends: Int[np.ndarray, "shard"]
    """Number of the first row after each shard."""


class Swept:
    """The sweep of one snapshot of a run."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._run = snapshot.run

    def scores(self) -> ShardRows:
        """Every row's key and scores.

        Raises:
            AnalysisError: there are no rows.
            RunError: a damaged shard, or another scenario file.
        """
        return self._rows("scores", SCORE_COLUMNS)

    def measures(self) -> ShardRows:
        """Every row's key, scores and measures; NaN where the run has none."""
        known = set(self._known_columns())
        found = self._rows(
            "measures", [*SCORE_COLUMNS, *filter(known.__contains__, MEASURE_COLUMNS)]
        )
        absent = {name: np.nan for name in MEASURE_COLUMNS if name not in known}
        return replace(found, frame=found.frame.assign(**absent))

    def with_text(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of `scores` or `measures` with their text, token ids and stop reason.

        Only the shards of these rows are opened.
        """
        every = self.scores()
        places = rows.index.to_numpy()
        shard = np.searchsorted(every.ends, places, side="right")
        starts = np.concatenate([[0], every.ends])
        parts = [
            self._text(every.paths[number])
            .take(pa.array(places[shard == number] - starts[number]))
            .to_pandas()
            .set_index(rows.index[shard == number])
            for number in np.unique(shard)
        ]
        if not parts:
            return rows.reindex(columns=[*rows.columns, *TEXT_COLUMNS])
        return rows.join(pd.concat(parts))

    def _text(self, path: Path) -> pa.Table:
        name = ("text", path.name)
        return self._snapshot.keep_recent(name, [path], lambda: _checked(path, TEXT_COLUMNS))

    def _rows(self, name: str, columns: Sequence[str]) -> ShardRows:
        of = (self._run.sweep_folder, self._run.manifest_file)
        return self._snapshot.keep(name, of, lambda: self._read(name, columns))

    def _read(self, name: str, columns: Sequence[str]) -> ShardRows:
        tables = {
            path: self._snapshot.keep(
                (name, path.name), [path], lambda path=path: _checked(path, columns)
            )
            for path in self._run.shards()
        }
        return ShardRows(
            frame=labelled_rows(join_shards(tables), self._run),
            paths=tuple(tables),
            ends=np.cumsum([len(table) for table in tables.values()]),
        )

    def _known_columns(self) -> list[str]:
        shards = self._run.shards()
        return read_schema(shards[0]).names if shards else []


def _checked(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a shard, of the types that a sweep writes."""
    table = read_shard(path, columns)
    fields = [SWEEP_SCHEMA.field(name) for name in columns]
    require_columns(table, fields, source=path, remedy="delete it and run the sweep again")
    return table
