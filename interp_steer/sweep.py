"""Generating and scoring many cells at once: rows of many configurations packed in one batch.

One configuration at a time wastes a batch. Here a batch holds rows of any cells; a `SteeringPlan`
gives every row its own edit. What a row says depends on (seed, scenario, response index) and its
cell, never on its neighbours, so a sweep can stop at any moment and go on: a row is found by its
key, and a shard is on disk whole or not at all. Equal texts however rows are packed are exact up to
the float noise of batched arithmetic, which now and then moves a draw across a token boundary.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
from tqdm.auto import tqdm

from interp_steer.cells import KEY_COLUMNS, NONE, Cell, GridError
from interp_steer.controls import ControlDirections
from interp_steer.judges import Answer, Judge, JudgeScore, score_answers
from interp_steer.model import HookedLM
from interp_steer.probes import ProbeSet
from interp_steer.runs import Run
from interp_steer.sampling import Generation, GenerationSettings
from interp_steer.scenarios import Scenario
from interp_steer.steering import Direction, Method, SteeringPlan, SteeringSpec, steer
from interp_steer.tokens import TokenizedPrompt

_log = logging.getLogger(__name__)

SWEEP_SCHEMA = pa.schema(
    [
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("response_index", pa.int32(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("threat", pa.string(), nullable=False),
        pa.field("control", pa.string(), nullable=False),
        pa.field("direction", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("layer", pa.int32()),
        pa.field("alpha", pa.float64()),
        pa.field("scope", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("trait", pa.float64(), nullable=False),
        pa.field("coherence", pa.float64(), nullable=False),
    ]
)
"""Columns of sweep/*.parquet; `KEY_COLUMNS` are unique together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSetting:
    """What every row of a sweep shares."""

    lm: HookedLM
    """The model."""
    probes: ProbeSet
    """Probes of the layers that cells steer at."""
    judge: Judge
    """Scores every response."""
    generation: GenerationSettings
    """Sampling; its seed is the sweep's."""
    directions: ControlDirections | None = None
    """Directions of the controls; needed only where cells have a control."""
    responses_per_scenario: int = 1
    """Responses of each cell to each scenario."""
    batch_size: int = 256
    """Rows generated together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Cells and the scenarios that each of them answers."""

    cells: tuple[Cell, ...]
    """Configurations."""
    scenarios: tuple[Scenario, ...]
    """What every one of them answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One generation that is to be made."""

    scenario: Scenario
    """What is answered."""
    cell: Cell
    """Under which configuration."""
    response_index: int
    """Which of the scenario's responses, from 0."""

    @property
    def key(self) -> tuple[object, ...]:
        """Values of `KEY_COLUMNS`."""
        return (self.scenario.id, self.response_index, *self.cell.as_row().values())


def sample_key(scenario_id: str, response_index: int) -> str:
    """Key of a row's random numbers: every configuration faces a scenario with the same ones."""
    return f"{scenario_id}\x1f{response_index}"


def run_cells(run: Run, blocks: Sequence[Block], *, setting: SweepSetting) -> int:
    """Generate and score every block, skipping the rows that the run already holds.

    Rows of all blocks are packed together and written in shards, one a batch, each atomically.

    Args:
        run: its `sweep/` gets the shards.
        blocks: cells and the scenarios they answer, baselines included where they are wanted.
        setting: model, probes, judge, sampling.

    Returns:
        How many rows were added.

    Raises:
        GridError: no cells, no scenarios, a layer without a probe, or a control without directions.
        JudgeError: the judge failed; the rows written so far stay.
        RunError: another process is writing to this run.
    """
    _check(blocks, setting)
    with run.lock():
        done = finished_keys(run)
        wanted = {row.key: row for block in blocks for row in _rows(block, setting)}
        todo = [row for key, row in wanted.items() if key not in done]
        _log.info("%d rows to do, %d already there", len(todo), len(done))
        prompts = _Prompts(setting.lm)
        todo.sort(key=lambda row: _packing_order(row, prompts))
        with _progress(len(todo), f"sweep {run.path.name}") as bar:
            for batch in _batches(todo, setting.batch_size):
                run.append_shard(_generate(batch, prompts, setting))
                bar.update(len(batch))
    return len(todo)


def read_rows(run: Run) -> pa.Table:
    """Every row of the run's sweep, in the columns of `SWEEP_SCHEMA`; empty without a sweep."""
    table = run.read_shards()
    return SWEEP_SCHEMA.empty_table() if table is None else table


def finished_keys(run: Run) -> set[tuple[object, ...]]:
    """Keys of the rows that the run's sweep already holds."""
    columns = read_rows(run).select(KEY_COLUMNS).to_pydict()
    return set(zip(*columns.values(), strict=True))


def steering_spec(cell: Cell, directions: ControlDirections | None = None) -> SteeringSpec | None:
    """What `cell` does to a row; None for a baseline.

    Raises:
        GridError: the cell has a control and no directions are given.
    """
    if cell.layer is None or cell.alpha is None:
        return None
    edit_direction = None
    if cell.control != NONE:
        if directions is None:
            raise GridError(f"{cell.label} needs the directions of its control, got None")
        edit_direction = directions.direction(cell.control, cell.layer)
    return SteeringSpec(
        method=cast(Method, cell.method),
        layer=cell.layer,
        alpha=cell.alpha,
        scope=cell.scope,
        direction=cast(Direction, cell.direction),
        edit_direction=edit_direction,
    )


class _Prompts:
    """Tokenised prompts, each made once."""

    def __init__(self, lm: HookedLM) -> None:
        self._lm = lm
        self._known: dict[tuple[str, str], TokenizedPrompt] = {}

    def __getitem__(self, row: SweepRow) -> TokenizedPrompt:
        key = (row.scenario.id, row.cell.side)
        if key not in self._known:
            self._known[key] = self._lm.tokenize(row.scenario.prompt(row.cell.side))
        return self._known[key]


def _packing_order(row: SweepRow, prompts: _Prompts) -> tuple[object, ...]:
    """By prompt length (little padding), then scenario and cell (a deterministic order)."""
    cell = row.cell
    layer = -1 if cell.layer is None else cell.layer
    return (len(prompts[row]), row.scenario.id, layer, cell.label, row.response_index)


def _rows(block: Block, setting: SweepSetting) -> Iterator[SweepRow]:
    for cell in block.cells:
        for scenario in block.scenarios:
            for index in range(setting.responses_per_scenario):
                yield SweepRow(scenario=scenario, cell=cell, response_index=index)


def _batches(rows: Sequence[SweepRow], size: int) -> Iterator[Sequence[SweepRow]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _generate(batch: Sequence[SweepRow], prompts: _Prompts, setting: SweepSetting) -> pa.Table:
    specs = {cell: steering_spec(cell, setting.directions) for cell in {row.cell for row in batch}}
    plan = SteeringPlan([specs[row.cell] for row in batch], setting.probes)
    with steer(setting.lm, plan):
        generations = setting.lm.generate(
            [prompts[row] for row in batch],
            setting.generation,
            sample_keys=[sample_key(row.scenario.id, row.response_index) for row in batch],
        )
    scores = score_answers(
        setting.judge,
        [
            Answer(scenario=row.scenario, text=g.text, stopped=g.stop_reason == "stop_token")
            for row, g in zip(batch, generations, strict=True)
        ],
    )
    return _table(batch, generations, scores, judge=setting.judge.name)


def _table(
    batch: Sequence[SweepRow],
    generations: Sequence[Generation],
    scores: Sequence[JudgeScore],
    *,
    judge: str,
) -> pa.Table:
    rows = [
        {
            **dict(zip(KEY_COLUMNS, row.key, strict=True)),
            "response": generation.text,
            "token_ids": list(generation.token_ids),
            "n_tokens": len(generation.token_ids),
            "stop_reason": generation.stop_reason,
            "judge": judge,
            "trait": score.trait,
            "coherence": score.coherence,
        }
        for row, generation, score in zip(batch, generations, scores, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SWEEP_SCHEMA)


def _check(blocks: Sequence[Block], setting: SweepSetting) -> None:
    cells = [cell for block in blocks for cell in block.cells]
    if not cells:
        raise GridError("the grid is empty: no cells were given")
    if not all(block.scenarios for block in blocks):
        raise GridError("a sweep needs at least one scenario for its cells, got none")
    for name in ("batch_size", "responses_per_scenario"):
        if getattr(setting, name) < 1:
            raise GridError(f"{name} must be at least 1, got {getattr(setting, name)}")
    known = setting.probes.layers
    missing = sorted({c.layer for c in cells if c.layer is not None} - set(known))
    if missing:
        raise GridError(
            f"no probe for layer {', '.join(map(str, missing))}; this run has probes for layers "
            f"{', '.join(map(str, known))}"
        )
    if setting.directions is None and any(cell.control != NONE for cell in cells):
        raise GridError("cells with a control need SweepSetting.directions, got None")


@contextlib.contextmanager
def _progress(total: int, description: str) -> Iterator[Any]:
    """Rows done, rows a second and time left; a line a minute where there is no terminal."""
    interval = 0.1 if sys.stderr.isatty() else 60.0
    with tqdm(
        total=total, desc=description, unit="row", mininterval=interval, disable=total == 0
    ) as bar:
        yield bar
