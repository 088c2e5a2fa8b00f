"""Timing one call at a time: what is timed, warm-ups, and the clock.

Device events on a GPU, whose calls return before they are done; the wall clock elsewhere. A time is
of this machine under this load.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from interp_steer.cells import Cell
from interp_steer.model import Generation, GenerationSettings, HookedLM, TokenizedPrompt
from interp_steer.suites.evaluation import cell_key, cell_record
from interp_steer.suites.speaking import Guard, guarded
from interp_steer.suites.subject import Subject
from interp_steer.sweep_rows import CELL_FIELDS
from interp_steer.traces import TraceRecorder

WARM_UPS = 2
SCHEMA = pa.schema(
    [
        pa.field("item", pa.string(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        *CELL_FIELDS,
        pa.field("diagnostics", pa.bool_(), nullable=False),
        pa.field("n_sequences", pa.int32(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)
"""mode: single (one prompt at a time) or batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedUnit:
    """Prompts that are timed together under one configuration."""

    item: str
    """Name of the prompts."""
    mode: str
    """single or batch."""
    prompts: tuple[TokenizedPrompt, ...]
    """One, or a batch."""
    cell: Cell
    """The configuration."""
    diagnostics: bool
    """Whether every token is traced meanwhile."""

    @property
    def key(self) -> tuple[object, ...]:
        """Item, mode, configuration, diagnostics."""
        return (self.item, self.mode, *cell_key(self.cell), self.diagnostics)


def timed(device: torch.device, work: Callable[[], list[Generation]]) -> tuple[float, int]:
    """Seconds that `work` takes, by device events on a GPU, and the tokens it made."""
    if device.type != "cuda":
        start = time.perf_counter()
        made = work()
        return time.perf_counter() - start, sum(len(one.token_ids) for one in made)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    made = work()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000.0, sum(len(one.token_ids) for one in made)


class Stopwatch:
    """Times units of one subject; the first of a configuration waits for its warm-ups."""

    def __init__(self, subject: Subject, settings: GenerationSettings) -> None:
        self._subject, self._settings = subject, settings
        self._warm: set[tuple[object, ...]] = set()

    def make(self, units: Sequence[TimedUnit]) -> pa.Table:
        """One row a unit, timed in the order given."""
        rows = []
        for unit in units:
            state = (unit.mode, unit.cell, unit.diagnostics)
            for _ in range(WARM_UPS if state not in self._warm else 0):
                self._run(unit)
            self._warm.add(state)
            seconds, n_tokens = self._run(unit)
            rows.append(
                {
                    "item": unit.item,
                    "mode": unit.mode,
                    **cell_record(unit.cell),
                    "diagnostics": unit.diagnostics,
                    "n_sequences": len(unit.prompts),
                    "n_tokens": n_tokens,
                    "seconds": seconds,
                }
            )
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _run(self, unit: TimedUnit) -> tuple[float, int]:
        lm: HookedLM = self._subject.study.lm
        recorder = TraceRecorder() if unit.diagnostics else None
        guard = Guard.of([unit.cell] * len(unit.prompts), self._subject.probes)

        def work() -> list[Generation]:
            with guarded(lm, [guard], recorder=recorder):
                keys = [f"{unit.item} {row}" for row in range(len(unit.prompts))]
                made = lm.generate(unit.prompts, self._settings, sample_keys=keys)
            if recorder is not None:
                names = [unit.item] * len(made)
                recorder.table(
                    lm, made, samples=names, scenarios=names, sides=["neutral"] * len(made)
                )
            return made

        return timed(lm.device, work)
