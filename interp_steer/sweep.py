"""A sweep: every row that is wanted and not there yet, packed, made and written in atomic shards.

A sweep can stop at any moment and go on: a row is found by its key, and a shard is on disk whole or
not at all. Only this process writes to the run, whatever engine makes the rows. The numbers of a
sweep say what steering does to this judge's scores on these scenarios; what they are worth, the
controls and intervals of `reporting` say.
"""

import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby

import pyarrow as pa

from interp_steer.cells import CELL_COLUMNS, KEY_COLUMNS, NONE, Cell, GridError
from interp_steer.engines import Engine, LocalEngine
from interp_steer.files import require_columns
from interp_steer.packs import Pack, PackWorker, SweepSetting
from interp_steer.progress import SweepProgress
from interp_steer.prompt_cache import PromptCache
from interp_steer.runs import Run
from interp_steer.sweep_rows import ALWAYS_THERE, SWEEP_SCHEMA, Baselines, Block, SweepRow

__all__ = [
    "Block",
    "SweepSetting",
    "finished_keys",
    "read_rows",
    "run_cells",
]

_log = logging.getLogger(__name__)

Wanted = Mapping[tuple[object, ...], SweepRow]


def run_cells(
    run: Run, blocks: Sequence[Block], *, setting: SweepSetting, engine: Engine | None = None
) -> int:
    """Generate and score every block, skipping the rows that the run already holds.

    Rows of all blocks are packed together and written in shards, one a pack, each atomically.

    Args:
        run: its `sweep/` gets the shards.
        blocks: cells and the scenarios they answer, baselines included where they are wanted.
        setting: model, probes, judge, sampling.
        engine: who makes the rows; this process by default.

    Returns:
        How many rows were added.

    Raises:
        GridError: no cells, no scenarios, a layer without a probe, a control without directions, or
            a prefilled cell without the malicious baseline.
        JudgeError: the judge failed; the rows written so far stay.
        RunError: another process is writing to this run, or the disk is full (rows stay).
    """
    _check(blocks, setting)
    with run.lock():
        done = finished_keys(run)
        every = (row for block in blocks for row in block.rows(setting.responses_per_scenario))
        wanted = {row.key: row for row in every}
        todo = [row for key, row in wanted.items() if key not in done]
        _log.info("%d rows to do, %d already there", len(todo), len(wanted) - len(todo))
        worker = PackWorker(setting)
        engine = LocalEngine(worker) if engine is None else engine
        todo.sort(key=lambda row: _packing_order(row, worker.prompts))
        with SweepProgress(f"sweep {run.path.name}", _cells(todo)) as progress:
            for _, wave in groupby(todo, key=lambda row: row.wave):
                packs = _packs(list(wave), Baselines.read(read_rows(run)), setting.batch_size)
                for table in engine.run(packs):
                    run.append_shard(table)
                    progress.add(_cells_of(table))
    return len(todo)


def read_rows(run: Run) -> pa.Table:
    """Every row of the run's sweep, in the columns of `SWEEP_SCHEMA`; empty without a sweep.

    Raises:
        RunError: a damaged shard, or shards without the columns that every version has.
    """
    table = run.read_shards()
    if table is None:
        return SWEEP_SCHEMA.empty_table()
    remedy = "move its shards away and run `interp-steer sweep` again"
    require_columns(table, ALWAYS_THERE, source=run.sweep_folder, remedy=remedy)
    return table


def finished_keys(run: Run) -> set[tuple[object, ...]]:
    """Keys of the rows that the run's sweep already holds."""
    columns = read_rows(run).select(KEY_COLUMNS).to_pydict()
    return set(zip(*columns.values(), strict=True))


def _cells(rows: Sequence[SweepRow]) -> Counter[Hashable]:
    return Counter(tuple(row.cell.as_row().values()) for row in rows)


def _cells_of(table: pa.Table) -> Counter[Hashable]:
    return Counter(zip(*table.select(CELL_COLUMNS).to_pydict().values(), strict=True))


def _packing_order(row: SweepRow, prompts: PromptCache) -> tuple[object, ...]:
    """By wave, then prompt length (little padding), scenario (shared prompts) and cell."""
    cell = row.cell
    layer = -1 if cell.layer is None else cell.layer
    length = len(prompts.of_row(row)) + (cell.prefill or 0)
    place = (row.scenario.id, cell.side, cell.threat, layer, cell.label)
    return (row.wave, length, *place, row.response_index)


def _packs(rows: Sequence[SweepRow], baselines: Baselines, size: int) -> Iterator[Pack]:
    for start in range(0, len(rows), size):
        chosen = tuple(rows[start : start + size])
        yield Pack(rows=chosen, baselines=baselines.of(chosen))


def _check(blocks: Sequence[Block], setting: SweepSetting) -> None:
    cells = [cell for block in blocks for cell in block.cells]
    if not cells:
        raise GridError("the grid is empty: no cells were given")
    if not all(block.scenarios for block in blocks):
        raise GridError("a sweep needs at least one scenario for its cells, got none")
    for name in ("batch_size", "responses_per_scenario"):
        if getattr(setting, name) < 1:
            raise GridError(f"{name} must be at least 1, got {getattr(setting, name)}")
    _check_layers(cells, setting.probes.layers)
    if setting.directions is None and any(cell.control != NONE for cell in cells):
        raise GridError("cells with a control need SweepSetting.directions, got None")


def _check_layers(cells: Sequence[Cell], known: Sequence[int]) -> None:
    missing = sorted({c.layer for c in cells if c.layer is not None} - set(known))
    if missing:
        raise GridError(
            f"no probe for layer {', '.join(map(str, missing))}; this run has probes for layers "
            f"{', '.join(map(str, known))}"
        )
