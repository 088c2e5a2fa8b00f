"""The rows of a sweep: which there are, what each one waits for, and their columns.

A row is one generation: a scenario answered under one cell, found again by its key alone. Some rows
need another's response first: all are compared with the aligned baseline's, and a prefilled one
starts with the malicious baseline's own tokens. `wave` says so, and nothing else orders a sweep.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from interp_steer.cells import ALIGNED, KEY_COLUMNS, MALICIOUS, NEUTRAL, NONE, Cell, GridError
from interp_steer.controls import ControlDirections
from interp_steer.measures import MEASURE_COLUMNS
from interp_steer.scenarios import Scenario
from interp_steer.steering import Direction, Method, SteeringSpec

CELL_FIELDS: tuple[pa.Field, ...] = (
    pa.field("side", pa.string(), nullable=False),
    pa.field("threat", pa.string(), nullable=False),
    pa.field("control", pa.string(), nullable=False),
    pa.field("direction", pa.string(), nullable=False),
    pa.field("method", pa.string(), nullable=False),
    pa.field("layer", pa.int32()),
    pa.field("alpha", pa.float64()),
    pa.field("scope", pa.string(), nullable=False),
)
"""Columns that name a configuration."""
SWEEP_SCHEMA = pa.schema(
    [
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("response_index", pa.int32(), nullable=False),
        *CELL_FIELDS,
        pa.field("response", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("trait", pa.float64(), nullable=False),
        pa.field("coherence", pa.float64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in MEASURE_COLUMNS),
    ]
)
"""Columns of sweep/*.parquet; `KEY_COLUMNS` are unique together."""
ALWAYS_THERE = tuple(field for field in SWEEP_SCHEMA if field.name not in MEASURE_COLUMNS)
"""Those that every version has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Cells and the scenarios that each of them answers."""

    cells: tuple[Cell, ...]
    """Configurations."""
    scenarios: tuple[Scenario, ...]
    """What every one of them answers."""

    def rows(self, responses_per_scenario: int) -> "Iterator[SweepRow]":
        """Every row of the block."""
        for cell in self.cells:
            for scenario in self.scenarios:
                for index in range(responses_per_scenario):
                    yield SweepRow(scenario=scenario, cell=cell, response_index=index)


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

    @property
    def sample_key(self) -> str:
        """Key of its random numbers."""
        return sample_key(self.scenario.id, self.response_index)

    @property
    def wave(self) -> int:
        """0 for the aligned baseline, 1 for other baselines, 2 for what may need any of them."""
        return {ALIGNED: 0, MALICIOUS: 1, NEUTRAL: 1}.get(self.cell, 2)


def sample_key(scenario_id: str, response_index: int) -> str:
    """Key of a row's random numbers: every configuration faces a scenario with the same ones."""
    return f"{scenario_id}\x1f{response_index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """Token ids of the unsteered responses that other rows are compared with or start from."""

    aligned: dict[str, tuple[int, ...]]
    """Aligned baseline's response by sample key."""
    malicious: dict[str, tuple[int, ...]]
    """Malicious baseline's response by sample key."""
    neutral: dict[str, tuple[int, ...]]
    """Neutral baseline's response by sample key."""

    @classmethod
    def none(cls) -> "Baselines":
        """No baselines: nothing is compared, and no row may start with another's tokens."""
        return cls(aligned={}, malicious={}, neutral={})

    @classmethod
    def read(cls, rows: pa.Table) -> "Baselines":
        """The baselines among sweep rows."""
        found: dict[Cell, dict[str, tuple[int, ...]]] = {ALIGNED: {}, MALICIOUS: {}, NEUTRAL: {}}
        columns = rows.select([*KEY_COLUMNS, "token_ids"])
        unsteered = columns.filter(pc.field("method") == NONE)
        for row in unsteered.to_pylist():
            try:
                cell = Cell.from_row(row)
            except (GridError, ValueError) as error:
                raise GridError(f"a row of the sweep is of no cell: {str(error)[:300]}") from error
            if cell in found:
                key = sample_key(row["scenario"], row["response_index"])
                found[cell][key] = tuple(row["token_ids"])
        return cls(aligned=found[ALIGNED], malicious=found[MALICIOUS], neutral=found[NEUTRAL])

    def of(self, rows: Sequence[SweepRow]) -> "Baselines":
        """The baselines of these rows alone."""
        keys = {row.sample_key for row in rows}
        return Baselines(
            aligned={k: v for k, v in self.aligned.items() if k in keys},
            malicious={k: v for k, v in self.malicious.items() if k in keys},
            neutral={k: v for k, v in self.neutral.items() if k in keys},
        )

    def unthreatened(self, row: SweepRow) -> tuple[int, ...] | None:
        """What the row's side says unsteered and without a threat; None where it is not there."""
        there = {"aligned": self.aligned, "neutral": self.neutral}.get(row.cell.side, {})
        return there.get(row.sample_key)

    def prefix(self, row: SweepRow) -> tuple[int, ...]:
        """The tokens that `row` starts with: the first K of the malicious baseline's response.

        A baseline shorter than K is taken whole. Empty where the threat is not prefill:K.

        Raises:
            GridError: the malicious baseline did not answer this scenario.
        """
        k = row.cell.prefill
        if k is None:
            return ()
        if row.sample_key not in self.malicious:
            raise GridError(
                f"{row.cell.label} starts with the malicious baseline's response to scenario "
                f"{row.scenario.id!r}, which the sweep does not have; give run_cells the baselines "
                "of every scenario too"
            )
        return self.malicious[row.sample_key][:k]


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
