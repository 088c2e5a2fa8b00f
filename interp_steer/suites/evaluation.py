"""The rows of a suite on disk: pinned, written in atomic shards, found again by their keys.

A suite's folder is a run directory of its own (`runs.Run`): the same manifest and pins, the same
lock, the same shards. A unit of work is whatever has to be made in one go (a conversation, a
question under one configuration); its rows are in one shard, so that a kill loses at most the units
under way and none is half there.
"""

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import pyarrow as pa
import torch

from interp_steer.analysis.tidy_tables import digest
from interp_steer.cells import CELL_COLUMNS, Cell
from interp_steer.errors import RunError
from interp_steer.files import require_columns
from interp_steer.memory import is_out_of_memory
from interp_steer.progress import SweepProgress
from interp_steer.runs import Run
from interp_steer.study import Study

_log = logging.getLogger(__name__)


@runtime_checkable
class Unit(Protocol):
    """What is made in one go."""

    @property
    def key(self) -> tuple[object, ...]:
        """Values of the evaluation's key columns."""
        ...

    @property
    def cell(self) -> Cell:
        """Its configuration; progress counts these."""
        ...


U = TypeVar("U", bound=Unit)


class Evaluation:
    """Rows of one suite of a run."""

    def __init__(self, run: Run, name: str, *, schema: pa.Schema, key: Sequence[str]) -> None:
        """Name them; nothing is touched.

        Args:
            run: the run that is evaluated.
            name: folder below RUN/evaluations.
            schema: columns of the rows.
            key: columns that name a unit.
        """
        self.run, self.name, self.schema, self.key = run, name, schema, tuple(key)
        self.store = Run(evaluation_folder(run, name))

    def pin(self, pins: Mapping[str, Any], **recorded: Any) -> None:
        """Fix what changes a row; see `Run.pin`.

        Raises:
            RunError: rows were made under other settings, by name.
        """
        try:
            self.store.pin(pins, suite=self.name, **recorded)
        except RunError as error:
            raise RunError(
                f"{error}. Rows of two settings never stand in one table: move the folder away to "
                "begin the suite anew"
            ) from error

    def rows(self) -> pa.Table:
        """All rows that are there.

        Raises:
            RunError: a damaged shard, or rows without the columns that name and fill a unit.
        """
        table = self.store.read_shards("")
        if table is None:
            return self.schema.empty_table()
        needed = [f for f in self.schema if not f.nullable or f.name in self.key]
        remedy = "move its shards away and run the suite again"
        require_columns(table, needed, source=self.store.path, remedy=remedy)
        return table

    def done(self) -> set[tuple[object, ...]]:
        """Keys of the units that are there."""
        columns = self.rows().select(self.key).to_pydict()
        return set(zip(*columns.values(), strict=True))

    def complete(
        self, units: Sequence[U], make: Callable[[Sequence[U]], pa.Table], *, batch_size: int
    ) -> int:
        """Make the units that are missing, a shard a batch.

        Args:
            units: all that are wanted, in the order in which they are made.
            make: rows of some units, with the columns of the schema.
            batch_size: units made together; halved where memory does not suffice.

        Returns:
            How many units were made.

        Raises:
            RunError: another writer is at work, or the disk is full; what is written stays.
        """
        with self.store.lock():
            done = self.done()
            todo = list({unit.key: unit for unit in units if unit.key not in done}.values())
            _log.info("%s: %d units to do, %d already there", self.name, len(todo), len(done))
            wanted = Counter(_cells(todo))
            with SweepProgress(f"{self.name} {self.run.path.name}", wanted) as progress:
                for batch, table in _made(todo, make, batch_size):
                    self.store.append_shard(table.cast(self.schema), folder="")
                    progress.add(Counter(_cells(batch)))
        return len(todo)


def evaluation_folder(run: Run, name: str) -> Path:
    """RUN/evaluations/NAME."""
    return run.path / "evaluations" / name


def study_pins(study: Study) -> dict[str, Any]:
    """What a suite pins of the run it evaluates: the model, the scenarios, the probes, sampling."""
    probes = study.run.probes_file
    return {
        **study.pins,
        "probes": [digest(probes), digest(probes.with_suffix(".safetensors"))],
    }


def cell_record(cell: Cell) -> dict[str, Any]:
    """The columns of a configuration."""
    return cell.as_row()


def cell_key(cell: Cell) -> tuple[object, ...]:
    """The same as values, in the order of `CELL_COLUMNS`."""
    row = cell.as_row()
    return tuple(row[name] for name in CELL_COLUMNS)


def _cells(units: Sequence[Unit]) -> Iterator[Hashable]:
    return (cell_key(unit.cell) for unit in units)


def _made(
    todo: Sequence[U], make: Callable[[Sequence[U]], pa.Table], size: int
) -> Iterator[tuple[Sequence[U], pa.Table]]:
    """Batches with their rows; the size is halved, for good, whenever memory runs out."""
    start = 0
    while start < len(todo):
        batch = todo[start : start + size]
        try:
            table = make(batch)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            table = None
        if table is None:  # outside the except block, which keeps the failed tensors alive
            size = max(1, len(batch) // 2)
            _log.warning(
                "out of memory with %d units in a batch; going on with %d", *(len(batch), size)
            )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield batch, table
        start += len(batch)
